"""
What the audit log records: tool uses, permission decisions, hooks, and what sync noticed.

Primary keys on the wire are those of the reference. They are coarse (two uses of one tool share a
key), which is harmless here: audit events are append-only, so every entry is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from agentlayers.errors import UnknownEventError, UsageError
from agentlayers.storage.pagination import format_cursor
from agentlayers.storage.payload_field import without_nones

__all__ = [
    "AUDIT_EVENTS",
    "UNSYNCED_AUDIT_EVENTS",
    "AuditEntry",
    "HookOutcome",
    "PermissionDecision",
    "ToolUseStatus",
    "audit_key",
    "audit_payload",
]

ToolUseStatus = Literal["start", "success", "failure"]
PermissionDecision = Literal["allow", "deny", "prompt"]
HookOutcome = Literal["success", "failure"]

_Number = (int, float)


@dataclass(frozen=True, slots=True)
class _AuditEventType:
    """Fields of one event: types, which must be there, which values they may have; and the key."""

    types: Mapping[str, type | tuple[type, ...]]
    required: tuple[str, ...]
    key: Callable[[Mapping[str, Any]], str]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    synced: bool = True


_TYPES: Final[Mapping[str, _AuditEventType]] = {
    "tool_use": _AuditEventType(
        types={
            "sessionId": str,
            "toolName": str,
            "toolUseId": str,
            "status": str,
            "durationMs": _Number,
        },
        required=("sessionId", "toolName", "status"),
        choices={"status": ("start", "success", "failure")},
        key=lambda fields: f"{fields['sessionId']}:{fields['toolName']}:{fields['status']}",
    ),
    "permission_decision": _AuditEventType(
        types={"sessionId": str, "toolName": str, "decision": str, "reason": str},
        required=("sessionId", "toolName", "decision"),
        choices={"decision": ("allow", "deny", "prompt")},
        key=lambda fields: f"{fields['sessionId']}:{fields['toolName']}:{fields['decision']}",
    ),
    "hook_event": _AuditEventType(
        types={"sessionId": str, "hook": str, "toolUseId": str, "outcome": str},
        required=("hook", "outcome"),
        choices={"outcome": ("success", "failure")},
        key=lambda fields: f"{fields.get('sessionId', 'unknown')}:{fields['hook']}:{fields['outcome']}",
    ),
    "sync_conflict": _AuditEventType(
        types={},
        required=(),
        key=lambda fields: ":".join(
            str(fields.get(name, "")) for name in ("remoteId", "event", "primaryKey", "entryId")
        ),
        synced=False,
    ),
    "sync_compaction": _AuditEventType(
        types={},
        required=(),
        key=lambda fields: f"{fields.get('remoteId', '')}:{fields.get('timestamp', '')}",
        synced=False,
    ),
}

AUDIT_EVENTS: Final = tuple(_TYPES)
"""Tags of all audit events."""

UNSYNCED_AUDIT_EVENTS: Final = frozenset(event for event, kind in _TYPES.items() if not kind.synced)
"""Local observations: what one replica noticed is not sent to others, nor part of a digest."""


def audit_key(event: str, fields: Mapping[str, Any]) -> str:
    """
    Return the primary key of an audit entry, as the reference builds it.

    >>> audit_key("hook_event", {"hook": "Stop", "outcome": "success"})
    'unknown:Stop:success'

    """
    return _TYPES[event].key(fields)


def audit_payload(event: str, fields: Mapping[str, Any], *, store: str = "audit_log") -> dict[str, Any]:
    """
    Check what the calling code wants to record, and leave unset optional fields out.

    Fields the event does not know are kept.

    Raises:
        UnknownEventError: No such audit event.
        UsageError: A field is missing, of the wrong type, or has a value the event does not allow.
    """
    kind = _TYPES.get(event)
    if kind is None:
        raise UnknownEventError(event=event, store=store, known=AUDIT_EVENTS)
    payload = without_nones(fields)
    for name in kind.required:
        if name not in payload:
            raise UsageError(f"{event}: field {name!r} is missing; required are {', '.join(kind.required)}")
    for name, value in payload.items():
        if name in kind.types and (not isinstance(value, kind.types[name]) or isinstance(value, bool)):
            raise UsageError(f"{event}: field {name!r} cannot be {type(value).__name__} {value!r}")
        if name in kind.choices and value not in kind.choices[name]:
            raise UsageError(f"{event}: {name} {value!r} is unknown; expected {' or '.join(kind.choices[name])}")
    return payload


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """
    One line of the audit log.

    Attributes:
        entry_id: Id of the journal entry; ids sort by time of writing.
        event: Which audit event.
        payload: Its fields, in the wire's spelling.
        timestamp_ms: When it was written, in milliseconds since 1970, as its id says.
        position: Local arrival order on this replica, for ``follow(after=...)``; not part of
            equality.
    """

    entry_id: bytes
    event: str
    payload: Mapping[str, Any]
    timestamp_ms: int
    position: int = field(default=0, compare=False)

    @property
    def session_id(self) -> str | None:
        """The session it is about, if it says one."""
        session_id = self.payload.get("sessionId")
        return session_id if isinstance(session_id, str) else None

    @property
    def written_at(self) -> datetime:
        """When it was written."""
        return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC)

    @property
    def cursor(self) -> str:
        """Names this entry's place in the log, for ``entries(cursor=...)``."""
        return format_cursor(self.entry_id)

    @classmethod
    def from_payload(cls, entry_id: bytes, event: str, payload: Mapping[str, Any], *, position: int = 0) -> AuditEntry:
        """Read an entry, whoever wrote it; unknown fields and events are kept."""
        return cls(entry_id, event, payload, int.from_bytes(entry_id[:6], "big"), position)
