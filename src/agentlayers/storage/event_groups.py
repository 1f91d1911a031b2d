"""The events of each store, as they go on the wire."""

from __future__ import annotations

from typing import Final

from agentlayers.eventlog.event import Event, EventGroup, EventKind
from agentlayers.storage.artifact import ARTIFACT_DELETED, ARTIFACT_RECORD, artifact_key
from agentlayers.storage.artifact_chunk import ARTIFACT_CHUNK, ARTIFACT_CHUNK_WANTED, chunk_key
from agentlayers.storage.audit_event import AUDIT_EVENTS, UNSYNCED_AUDIT_EVENTS, audit_key
from agentlayers.storage.chat_event import CHAT_EVENT

__all__ = ["ARTIFACT_CHUNK_EVENTS", "ARTIFACT_EVENTS", "AUDIT_LOG_EVENTS", "CHAT_EVENTS", "UNSYNCED_EVENTS"]

CHAT_EVENTS: Final = EventGroup.append_only(
    Event(CHAT_EVENT, lambda fields: f"{fields['sessionId']}:{fields['sequence']}")
)
"""Chat history: every message is kept, nothing conflicts."""

ARTIFACT_EVENTS: Final = EventGroup.keyed(
    Event(ARTIFACT_RECORD, lambda fields: artifact_key(fields["sessionId"], fields["id"])),
    Event(
        ARTIFACT_DELETED,
        lambda fields: artifact_key(fields["sessionId"], fields["id"]),
        EventKind.DELETION,
    ),
)
"""Artifacts: records and deletions of one id are versions of one thing."""

ARTIFACT_CHUNK_EVENTS: Final = EventGroup.append_only(
    Event(ARTIFACT_CHUNK, lambda fields: chunk_key(bytes.fromhex(fields["sha256"]))),
    Event(ARTIFACT_CHUNK_WANTED, lambda fields: chunk_key(bytes.fromhex(fields["sha256"]))),
)
"""Pieces of large artifacts; records refer to them by their hash, and replicas that dropped one may want it again."""


def _audit_event(tag: str) -> Event:
    kind = EventKind.OBSERVATION if tag in UNSYNCED_AUDIT_EVENTS else EventKind.RECORD
    return Event(tag, lambda fields: audit_key(tag, fields), kind)


AUDIT_LOG_EVENTS: Final = EventGroup.append_only(*map(_audit_event, AUDIT_EVENTS))
"""Audit log: every entry is kept; what sync noticed stays on this replica."""

UNSYNCED_EVENTS: Final = UNSYNCED_AUDIT_EVENTS
"""Tags of all local observations: never sent, not part of a digest."""
