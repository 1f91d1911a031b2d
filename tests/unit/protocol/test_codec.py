"""Messages: to the byte as stock peers write them, in every form they read."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from agentlayers.errors import (
    LimitExceededError,
    LocalProtocolError,
    MalformedMessageError,
    VersionMismatchError,
)
from agentlayers.limits import CAPABILITIES_MAX, ENTRIES_PER_MESSAGE_MAX, FIELDS_PER_MESSAGE_MAX
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    EncryptedEntry,
    Extensions,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    RemoteEncryptedEntry,
    RequestChanges,
    StopChanges,
    WriteEntries,
)
from vectors.effect_v3 import VECTORS, message_from_json, named

MESSAGES = named(VECTORS["messages"])
FORMS = named(VECTORS["requestDecodeForms"]["cases"])
# A stock server dies of a 64-bit integer; we read it. Who may send a Pong is for the session to say.
READ_BY_US_ONLY = {"id as uint64", "id as int64", "response tag in a request (Pong)"}
ID, IV = bytes(range(16)), bytes(range(12))
ENTRY, OTHER = EncryptedEntry(ID, IV, b"sealed"), EncryptedEntry(ID, bytes(12), b"too")
EXTENSIONS = Extensions(1, frozenset({"entry-nonces", "through"}), bytes(16), "default")
OURS: list[Message] = [
    Hello(ID, EXTENSIONS),
    Authenticate("tenant", "secret"),
    Rejected("authentication"),
    Ack(1, (5, 6), 7),
    Changes("k", (RemoteEncryptedEntry(3, IV, ID, b"sealed"),), 4),
    Changes("k", (), 2**40),
]


@pytest.mark.parametrize("name", list(MESSAGES))
def test_messages_are_written_to_the_byte(name: str) -> None:
    case = MESSAGES[name]

    assert encode_message(message_from_json(case["value"])).hex() == case["hex"]


@pytest.mark.parametrize("name", list(MESSAGES))
def test_messages_of_stock_peers_are_read(name: str) -> None:
    case = MESSAGES[name]

    assert decode_message(bytes.fromhex(case["hex"])) == message_from_json(case["value"])


@pytest.mark.parametrize("name", list(FORMS))
def test_every_form_that_a_stock_server_reads_is_read(name: str) -> None:
    case = FORMS[name]
    data = bytes.fromhex(case["hex"])

    if not case["result"]["accepted"] and name not in READ_BY_US_ONLY:
        with pytest.raises(MalformedMessageError):
            decode_message(data)
    elif name in READ_BY_US_ONLY:
        assert decode_message(data) == (Pong(1) if "Pong" in name else Ping(1))
    else:
        assert decode_message(data) == message_from_json(case["result"]["value"])


@pytest.mark.parametrize("message", OURS, ids=lambda message: type(message).__name__)
def test_our_own_fields_and_messages_survive(message: Message) -> None:
    data = encode_message(message)

    assert decode_message(data) == message
    assert data.endswith(b"\xa4_tag" + msgpack.packb(type(message).__name__))


def test_entries_with_their_own_nonces_survive_and_a_stock_reader_still_finds_one_nonce() -> None:
    message = WriteEntries("k", 3, (ENTRY, OTHER))

    data = encode_message(message, entry_nonces=True)

    read = decode_message(data)
    assert isinstance(read, WriteEntries)
    assert read.entries == (ENTRY, OTHER)
    assert msgpack.unpackb(data)["iv"] == ENTRY.iv


def test_several_nonces_are_never_dropped_for_a_reader_of_one() -> None:
    with pytest.raises(LocalProtocolError, match="one nonce per message"):
        encode_message(WriteEntries("k", 3, (ENTRY, OTHER)))


def test_stock_forms_have_none_of_our_fields() -> None:
    assert list(msgpack.unpackb(encode_message(Hello(ID)))) == ["remoteId", "_tag"]
    assert list(msgpack.unpackb(encode_message(Ack(1, ())))) == ["id", "sequenceNumbers", "_tag"]
    assert list(msgpack.unpackb(encode_message(Changes("k", ())))) == [
        "publicKey",
        "entries",
        "_tag",
    ]


@pytest.mark.parametrize("name", list(MESSAGES))
@pytest.mark.parametrize("seed", range(5))
def test_any_key_order_form_and_further_fields_are_read(name: str, seed: int) -> None:
    case, dice = MESSAGES[name], random.Random(seed)

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [*((key, shuffled(item)) for key, item in value.items()), ("extra", [{"a": [1]}])]
            dice.shuffle(items)
            return dict(items)
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if isinstance(value, int):
            return float(value) if dice.random() < 0.5 else value
        return value

    fields = msgpack.unpackb(bytes.fromhex(case["hex"]))

    assert decode_message(msgpack.packb(shuffled(fields))) == message_from_json(case["value"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_tag": "Ping"}, "Ping.id: missing"),
        ({"_tag": "Ping", "id": "1"}, "Ping.id: expected an integer, got text"),
        ({"_tag": "Ping", "id": True}, "Ping.id: expected an integer, got a boolean"),
        ({"_tag": "Ping", "id": 1.5}, "Ping.id: expected an integer, got a number"),
        ({"_tag": "Ping", "id": float("nan")}, "Ping.id: expected an integer"),
        ({"_tag": "Ping", "id": -1}, "Ping.id: -1 is outside"),
        ({"_tag": "Ping", "id": 2**53 + 1}, "Ping.id: .* is outside"),
        ({"_tag": "Ping", "id": [1]}, "Ping.id: expected an integer, got a list"),
        ({"_tag": "Ping", "id": {"a": 1}}, "Ping.id: expected an integer, got a map"),
        ({"_tag": 7}, "_tag: expected text, got an integer"),
        ({"id": 7}, "_tag: expected text, got nil"),
        ({"_tag": "Nop"}, "unknown message 'Nop'"),
        ({"_tag": "Hello", "remoteId": bytes(15)}, "Hello.remoteId: expected 16 bytes, got 15"),
        ({"_tag": "StopChanges", "publicKey": ""}, "StopChanges.publicKey"),
        ({"_tag": "StopChanges", "publicKey": "é" * 129}, "publicKey: expected 1 to 256 bytes"),
        ({"_tag": "StopChanges", "publicKey": b"k"}, "publicKey: expected text, got bytes"),
        ({"_tag": "Authenticate", "tenant": "t" * 257, "token": ""}, "tenant: expected 0 to 256 bytes"),
        ({"_tag": "Authenticate", "tenant": "t", "token": "x" * 8193}, "token: expected 0 to 8192 bytes"),
        ({"_tag": "Rejected", "code": "x" * 257}, "code: expected 0 to 256 bytes"),
        ({"_tag": "Ack", "id": 1, "sequenceNumbers": [1, "2"]}, "Ack.sequenceNumbers: expected"),
        ({"_tag": "Ack", "id": 1, "sequenceNumbers": [-1]}, "Ack.sequenceNumbers: -1"),
        ({"_tag": "Ack", "id": 1, "sequenceNumbers": [], "through": None}, "Ack.through: .* nil"),
        ({"_tag": "ChunkedMessage", "id": 1, "part": [0], "data": b""}, "part: expected .index"),
        ({"_tag": "ChunkedMessage", "id": 1, "part": [0, "1"], "data": b""}, "ChunkedMessage.part"),
        ({"_tag": "ChunkedMessage", "id": 1, "part": [0, 1], "data": "x"}, "data: expected bytes"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedMessageError, match=message):
        decode_message(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entryId": bytes(15)}, r"encryptedEntries\[1\]\.entryId: expected 16 bytes"),
        ({"entryId": "x" * 16}, r"encryptedEntries\[1\]\.entryId: expected 16 bytes, got text"),
        ({"iv": bytes(3)}, r"encryptedEntries\[1\]\.iv: expected 12 bytes"),
        ({"iv": 5}, r"encryptedEntries\[1\]\.iv: expected 12 bytes, got an integer"),
        ({"encryptedEntry": None}, r"encryptedEntries\[1\]\.encryptedEntry: .* nil"),
        ({"encryptedEntry": [b"x"]}, r"encryptedEntries\[1\]\.encryptedEntry: .* a list"),
    ],
)
def test_a_wrong_entry_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    good = {"entryId": ID, "encryptedEntry": b"sealed", "iv": IV}
    fields = {"publicKey": "k", "id": 1, "iv": IV, "encryptedEntries": [good, good | change]}

    with pytest.raises(MalformedMessageError, match=message):
        decode_message(msgpack.packb(fields | {"_tag": "WriteEntries"}))


def test_entries_that_are_no_maps_are_named() -> None:
    fields = {"publicKey": "k", "id": 1, "iv": IV, "encryptedEntries": [7], "_tag": "WriteEntries"}

    with pytest.raises(MalformedMessageError, match=r"encryptedEntries\[0\]: expected a map, got an"):
        decode_message(msgpack.packb(fields))


@pytest.mark.parametrize("sequence", ["1", -1, 1.5, None, True])
def test_a_wrong_sequence_is_named(sequence: Any) -> None:
    entry = {"sequence": sequence, "iv": IV, "entryId": ID, "encryptedEntry": b""}

    with pytest.raises(MalformedMessageError, match="sequence"):
        decode_message(msgpack.packb({"publicKey": "k", "entries": [entry], "_tag": "Changes"}))


def test_what_a_peer_announces_is_checked_before_memory_is_spent() -> None:
    many = (ENTRIES_PER_MESSAGE_MAX + 1).to_bytes(4)
    head = b"\x83\xa2id\x01\xa4_tag\xa3Ack\xafsequenceNumbers\xdd"

    with pytest.raises(LimitExceededError, match="ENTRIES_PER_MESSAGE_MAX"):
        decode_message(head + many)
    with pytest.raises(LimitExceededError, match="FIELDS_PER_MESSAGE_MAX"):
        decode_message(b"\xdf\xff\xff\xff\xff")
    assert FIELDS_PER_MESSAGE_MAX < 0xFFFF_FFFF
    names = [f"c{number}" for number in range(CAPABILITIES_MAX + 1)]
    extensions = {"version": 1, "capabilities": names, "incarnation": ID, "tenant": "t"}
    with pytest.raises(LimitExceededError, match="CAPABILITIES_MAX"):
        decode_message(msgpack.packb({"remoteId": ID, "agentlayers": extensions, "_tag": "Hello"}))


@pytest.mark.parametrize(
    "value", [[0] * (FIELDS_PER_MESSAGE_MAX + 1), dict.fromkeys(range(65), 0)], ids=["list", "map"]
)
def test_a_list_or_map_inside_an_item_is_bounded_too(value: Any) -> None:
    """None belongs there, and however many items it announces, they are not built."""
    for items in ([value], [{"sequence": 1, "further": value}]):
        with pytest.raises(MalformedMessageError, match="exceeds max"):
            decode_message(msgpack.packb({"publicKey": "k", "entries": items, "_tag": "Changes"}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 2}, VersionMismatchError),
        ({"version": 0}, VersionMismatchError),
        ({"version": "1"}, MalformedMessageError),
        ({"capabilities": [1]}, MalformedMessageError),
        ({"capabilities": ["x" * 257]}, MalformedMessageError),
        ({"capabilities": ["é" * 129]}, MalformedMessageError),
        ({"tenant": "t" * 257}, MalformedMessageError),
        ({"incarnation": b""}, MalformedMessageError),
        ({"tenant": 5}, MalformedMessageError),
    ],
)
def test_wrong_extensions_are_named(change: dict[str, Any], error: type[Exception]) -> None:
    extensions = {"version": 1, "capabilities": [], "incarnation": ID, "tenant": "t"} | change
    fields = {"remoteId": ID, "agentlayers": extensions, "_tag": "Hello"}

    with pytest.raises(error, match=f"Hello.agentlayers.{next(iter(change))}"):
        decode_message(msgpack.packb(fields))


def test_unknown_capabilities_are_kept_for_later_releases() -> None:
    later = Extensions(1, frozenset({"later", "through"}), ID, "t")

    assert decode_message(encode_message(Hello(ID, later))) == Hello(ID, later)


def test_a_token_never_shows() -> None:
    message = Authenticate("tenant", "very-secret")
    fields = {"_tag": "Authenticate", "tenant": 5, "token": "very-secret"}

    with pytest.raises(MalformedMessageError) as caught:
        decode_message(msgpack.packb(fields))

    assert "very-secret" not in repr(message) + str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        Ping(-1),
        Ping(2**53 + 1),
        Hello(b"short"),
        RequestChanges("\ud83d", 0),
        StopChanges("\ud83d"),
        WriteEntries("k", 0, (EncryptedEntry(b"", IV, b""),)),
        WriteEntries("k", 0, (EncryptedEntry(ID, b"", b""),)),
        Changes("k", (RemoteEncryptedEntry(0, b"", ID, b""),)),
        Changes("k", (RemoteEncryptedEntry(-1, IV, ID, b""),)),
        ChunkedMessage(-1, 0, 1, b""),
    ],
    ids=repr,
)
def test_what_has_no_form_is_refused_when_written(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode_message(message)
