"""Values of the stores and their form on the wire."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.errors import MalformedMessageError, UnknownEventError, UsageError
from agentlayers.protocol.payload import decode_payload, encode_payload
from agentlayers.storage.artifact import ArtifactRecord, artifact_key
from agentlayers.storage.audit_event import audit_key, audit_payload
from agentlayers.storage.chat_event import SEQUENCE_MAX, ChatEvent, check_source
from agentlayers.storage.pagination import format_cursor, parse_cursor
from agentlayers.storage.payload_field import peek_text

ID = bytes(range(16))
CHAT = {
    "sessionId": "s",
    "sequence": 3,
    "timestamp": 1_700_000_000_000,
    "source": "sdk",
    "message": {"type": "user"},
}
ARTIFACT = {
    "id": "a",
    "sessionId": "s",
    "kind": "file",
    "encoding": "utf8",
    "content": "text",
    "createdAt": 1_700_000_000_000,
}


def test_a_chat_event_has_the_fields_and_key_of_the_reference() -> None:
    event = ChatEvent.from_payload(ID, CHAT)

    assert event.to_payload() == CHAT
    assert list(event.to_payload()) == ["sessionId", "sequence", "timestamp", "source", "message"]
    assert event.primary_key == "s:3"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sessionId", None),
        ("sessionId", 3),
        ("sequence", -1),
        ("sequence", SEQUENCE_MAX + 1),
        ("sequence", True),
        ("sequence", "3"),
        ("timestamp", float("nan")),
        ("timestamp", float("inf")),
        ("source", "nobody"),
        ("message", "text"),
    ],
)
def test_a_malformed_chat_event_of_a_peer_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(MalformedMessageError, match=field):
        ChatEvent.from_payload(ID, {**CHAT, field: value})


def test_unknown_fields_of_a_message_are_kept() -> None:
    message = {"type": "user", "from_the_future": {"deep": [1, 2.5, None, True]}}

    assert ChatEvent.from_payload(ID, {**CHAT, "message": message}).message == message


def test_a_fractional_timestamp_of_a_stock_peer_is_cut_to_milliseconds() -> None:
    assert ChatEvent.from_payload(ID, {**CHAT, "timestamp": 1.75}).timestamp_ms == 1


@pytest.mark.parametrize("source", ["", "SDK", "robot"])
def test_an_unknown_source_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="sdk or replay or external"):
        check_source(source)


def test_a_text_artifact_has_the_fields_and_key_of_the_reference() -> None:
    record = ArtifactRecord(
        id="a",
        session_id="s",
        kind="tool_result",
        content="äöü",
        content_type="text/plain",
        tool_name="Read",
        tool_use_id="toolu_1",
        hook_event="PostToolUse",
        created_at_ms=5,
        metadata={"path": "/x"},
    )

    assert record.to_payload() == {
        "id": "a",
        "sessionId": "s",
        "kind": "tool_result",
        "toolName": "Read",
        "toolUseId": "toolu_1",
        "hookEvent": "PostToolUse",
        "contentType": "text/plain",
        "encoding": "utf8",
        "content": "äöü",
        "sizeBytes": 6,
        "createdAt": 5,
        "metadata": {"path": "/x"},
    }
    assert artifact_key("s", "a") == "s:a"


def test_optional_fields_that_are_not_set_are_absent() -> None:
    record = ArtifactRecord(id="a", session_id="s", kind="file", content=b"\x00\xff", created_at_ms=5)

    assert set(record.to_payload()) == {
        "id",
        "sessionId",
        "kind",
        "encoding",
        "content",
        "sizeBytes",
        "createdAt",
    }
    assert record.to_payload()["encoding"] == "base64"


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary()))
def test_content_comes_back_in_type_and_value(content: str | bytes) -> None:
    record = ArtifactRecord(id="a", session_id="s", kind="other", content=content, created_at_ms=5)
    payload = decode_payload(encode_payload(record.to_payload()))

    assert ArtifactRecord.from_payload(b"", payload) == record
    assert record.size_bytes == len(record.data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "video"),
        ("encoding", "hex"),
        ("content", 3),
        ("createdAt", None),
        ("metadata", []),
        ("id", ""),
    ],
)
def test_a_malformed_artifact_of_a_peer_is_refused(field: str, value: object) -> None:
    with pytest.raises(MalformedMessageError, match="artifact_record"):
        ArtifactRecord.from_payload(ID, {**ARTIFACT, field: value})


def test_content_that_is_not_base64_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="base64"):
        ArtifactRecord.from_payload(ID, {**ARTIFACT, "encoding": "base64", "content": "!!"})


@pytest.mark.parametrize("arguments", [{"id": ""}, {"session_id": ""}, {"kind": "video"}, {"content": 3}])
def test_an_artifact_that_cannot_be_stored_is_refused_at_once(arguments: dict[str, object]) -> None:
    fields = {"id": "a", "session_id": "s", "kind": "file", "content": "x", **arguments}
    with pytest.raises(UsageError):
        ArtifactRecord(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "fields", "key"),
    [
        ("tool_use", {"sessionId": "s", "toolName": "Bash", "status": "start"}, "s:Bash:start"),
        (
            "permission_decision",
            {"sessionId": "s", "toolName": "Bash", "decision": "deny"},
            "s:Bash:deny",
        ),
        ("hook_event", {"sessionId": "s", "hook": "Stop", "outcome": "success"}, "s:Stop:success"),
        ("hook_event", {"hook": "Stop", "outcome": "success"}, "unknown:Stop:success"),
        (
            "sync_conflict",
            {"remoteId": "ab", "event": "artifact_record", "primaryKey": "s:a", "entryId": "01"},
            "ab:artifact_record:s:a:01",
        ),
        ("sync_compaction", {"remoteId": "ab", "timestamp": 7}, "ab:7"),
    ],
)
def test_audit_keys_are_those_of_the_reference(event: str, fields: dict[str, object], key: str) -> None:
    assert audit_key(event, fields) == key


@pytest.mark.parametrize(
    ("event", "fields", "reason"),
    [
        ("tool_use", {"sessionId": "s", "toolName": "Bash"}, "'status' is missing"),
        (
            "tool_use",
            {"sessionId": "s", "toolName": "Bash", "status": "done"},
            "start or success or failure",
        ),
        ("tool_use", {"sessionId": 3, "toolName": "Bash", "status": "start"}, "sessionId"),
        (
            "tool_use",
            {"sessionId": "s", "toolName": "B", "status": "start", "durationMs": True},
            "durationMs",
        ),
        (
            "permission_decision",
            {"sessionId": "s", "toolName": "Bash", "decision": "ask"},
            "allow or deny or prompt",
        ),
        ("hook_event", {"hook": None, "outcome": "success"}, "'hook' is missing"),
    ],
)
def test_a_wrong_audit_payload_is_refused_by_field(event: str, fields: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        audit_payload(event, fields)


def test_an_unknown_audit_event_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownEventError, match="tool_use, permission_decision, hook_event"):
        audit_payload("tool_used", {})


def test_unset_optional_audit_fields_are_left_out() -> None:
    fields = {"sessionId": "s", "toolName": "Bash", "status": "start", "toolUseId": None}

    assert "toolUseId" not in audit_payload("tool_use", fields)


@given(st.binary(max_size=40))
def test_cursors_are_url_safe_and_come_back(place: bytes) -> None:
    cursor = format_cursor(place)

    assert parse_cursor(cursor) == place
    assert set(cursor) <= set(string.ascii_letters + string.digits + "-_")


@pytest.mark.parametrize("cursor", ["no spaces", "é", "a", "!!!!"])
def test_a_cursor_that_is_none_is_refused(cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        parse_cursor(cursor)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (encode_payload({"first": [1, {"sessionId": "inner"}], "sessionId": "s"}), "s"),
        (encode_payload({"sessionId": 3}), ""),
        (encode_payload({"other": "s"}), ""),
        (encode_payload({"sessionId": "s"})[:-1], ""),
        (b"", ""),
        (b"\xc1", ""),
        (b"\x01", ""),
    ],
)
def test_one_text_is_read_without_the_rest(payload: bytes, text: str) -> None:
    assert peek_text(payload, "sessionId") == text


def test_a_large_payload_is_peeked_into() -> None:
    payload = encode_payload({"content": "x" * 2_000_000, "sessionId": "s"})

    assert peek_text(payload, "sessionId") == "s"
