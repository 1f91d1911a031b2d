"""docs/reference/events.md lists the events that there are, with their fields and keys."""

from __future__ import annotations

import re
from pathlib import Path

from agentlayers.eventlog.event import EventGroup
from agentlayers.limits import ARTIFACT_CHUNK_BYTES, ARTIFACT_INLINE_BYTES_MAX, KIB, MIB
from agentlayers.runtime.session_transcript import SESSION_EVENTS
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.chat_event import ChatEvent
from agentlayers.storage.event_groups import (
    ARTIFACT_CHUNK_EVENTS,
    ARTIFACT_EVENTS,
    AUDIT_LOG_EVENTS,
    CHAT_EVENTS,
    UNSYNCED_EVENTS,
)

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)
FIELDS = {event: set(re.findall(r"`(\w+)`\?? (?:text|number|time|map|bin|`)", fields)) for event, _, fields, _ in ROWS}
GROUPS: dict[str, EventGroup] = {
    "chat_history": CHAT_EVENTS,
    "artifacts": ARTIFACT_EVENTS,
    "artifact_content": ARTIFACT_CHUNK_EVENTS,
    "audit_log": AUDIT_LOG_EVENTS,
    "agent_sessions": SESSION_EVENTS,
}


def tags(group: EventGroup) -> list[str]:
    """Return the names of a group's events."""
    return [event.tag for event in group.events]


def test_every_event_that_leaves_a_replica_has_a_row_under_its_store() -> None:
    expected = {(tag, store) for store, group in GROUPS.items() for tag in tags(group) if tag not in UNSYNCED_EVENTS}

    assert {(event, store) for event, store, _, _ in ROWS} == expected
    assert all(f"`{tag}`" in PAGE for tag in UNSYNCED_EVENTS)


def test_the_fields_of_messages_and_artifacts_are_those_that_are_written() -> None:
    event = ChatEvent("s", 0, 1, "sdk", {}, b"")
    artifact = ArtifactRecord(
        id="i",
        session_id="s",
        kind="file",
        content="x",
        content_type="text/plain",
        tool_name="t",
        tool_use_id="u",
        hook_event="h",
        created_at_ms=1,
        metadata={"a": 1},
    )

    assert FIELDS["chat_event"] == set(event.to_payload())
    assert FIELDS["artifact_record"] == set(artifact.to_payload())


def test_the_keys_are_those_that_are_written() -> None:
    keys = {event: key for event, _, _, key in ROWS}
    for group in GROUPS.values():
        for event in group.events:
            tag = event.tag
            if tag not in keys or tag == "hook_event" or tag.startswith(("agent_session", "artifact_chunk")):
                continue
            template = keys[tag].strip("`")
            fields = {name: f"<{name}>" for name in re.findall(r"{(\w+)}", template)}

            assert event.primary_key(fields) == template.format_map(fields)


def test_the_sizes_are_those_of_limits() -> None:
    assert f"more than {ARTIFACT_INLINE_BYTES_MAX // MIB} MiB" in PAGE
    assert f"at most {ARTIFACT_CHUNK_BYTES // KIB} KiB" in PAGE
