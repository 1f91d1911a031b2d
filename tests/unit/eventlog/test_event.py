"""Events and groups are declared as values, and a store's schema is made from them."""

import pytest

from agentlayers.errors import UnknownEventError, UsageError
from agentlayers.eventlog.event import Event, EventGroup, EventKind
from agentlayers.journal.conflict_policy import FirstWriteWins, LastWriteWins

RECORD = Event("artifact_record", lambda payload: payload["id"])
DELETED = Event("artifact_deleted", lambda payload: payload["id"], EventKind.DELETION)
CHUNK = Event("artifact_chunk", lambda payload: f"{payload['id']}:{payload['index']}")
NOTICED = Event("sync_conflict", lambda payload: "", EventKind.OBSERVATION)


def test_a_schema_is_made_from_its_groups() -> None:
    """Keyed and append-only events may live in one store."""
    schema = EventGroup.schema(
        "artifacts",
        EventGroup.keyed(RECORD, DELETED),
        EventGroup.append_only(CHUNK, NOTICED),
        policy=FirstWriteWins(),
        scope_of=lambda entry: entry.primary_key,
    )

    assert schema.name == "artifacts"
    assert schema.keyed_events == {"artifact_record", "artifact_deleted"}
    assert schema.deletions == {"artifact_deleted"}
    assert schema.unsynced_events == {"sync_conflict"}
    assert schema.policy == FirstWriteWins()


def test_what_is_not_given_keeps_the_default() -> None:
    """An append-only store without a read model needs a name only."""
    schema = EventGroup.schema("audit_log", EventGroup.append_only(NOTICED))

    assert schema.policy == LastWriteWins()
    assert not schema.keyed_events
    assert schema.retract is None


def test_an_event_is_found_by_its_tag() -> None:
    """An unknown tag is told together with the known ones."""
    group = EventGroup.keyed(RECORD, DELETED)

    assert group.event("artifact_deleted") is DELETED
    assert group.event("artifact_record").primary_key({"id": "a"}) == "a"
    with pytest.raises(UnknownEventError, match="artifact_record, artifact_deleted"):
        group.event("chat_event")


def test_a_group_that_contradicts_itself_is_refused() -> None:
    """A tag twice, in one group or in two, and a deletion where everything is kept."""
    with pytest.raises(UsageError, match="twice"):
        EventGroup.keyed(RECORD, RECORD)
    with pytest.raises(UsageError, match="no deletion"):
        EventGroup.append_only(DELETED)
    with pytest.raises(UsageError, match="same tag"):
        EventGroup.schema("x", EventGroup.keyed(RECORD), EventGroup.append_only(RECORD))
