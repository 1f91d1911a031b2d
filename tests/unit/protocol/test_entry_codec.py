"""The plaintext of an entry."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agentlayers.errors import LocalProtocolError, MalformedMessageError
from agentlayers.protocol.entry_codec import decode_entry, encode_entry
from vectors.effect_v3 import VECTORS

CASES = VECTORS["entryPlaintext"]["cases"]
ID = bytes(range(16))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"][-2:])
def test_entries_are_written_and_read_to_the_byte(case: dict[str, Any]) -> None:
    parts = (
        bytes.fromhex(case["id"]),
        case["event"],
        case["primaryKey"],
        bytes.fromhex(case["payloadHex"]),
    )

    assert encode_entry(*parts).hex() == case["hex"]
    assert decode_entry(bytes.fromhex(case["hex"])) == parts


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65535, 65536])
def test_any_length_is_written_and_read(size: int) -> None:
    parts = (ID, "e" * size, "é" * size, bytes(size))

    assert decode_entry(encode_entry(*parts)) == parts


def test_another_key_order_and_further_fields_are_read() -> None:
    fields = {"payload": b"p", "x": [1, {"y": 2}], "primaryKey": "k", "event": "e", "id": ID}

    assert decode_entry(msgpack.packb(fields)) == (ID, "e", "k", b"p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": bytes(15)}, r"entry\.id: expected 16 bytes"),
        ({"id": "x" * 16}, "entry.id"),
        ({"event": b"e"}, "entry.event: expected text, got bytes"),
        ({"primaryKey": 7}, "entry.primaryKey: expected text, got int"),
        ({"payload": "p"}, "entry.payload: expected bytes, got str"),
        ({"payload": None}, "entry.payload"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str) -> None:
    fields = {"id": ID, "event": "e", "primaryKey": "k", "payload": b"p"} | change

    with pytest.raises(MalformedMessageError, match=message):
        decode_entry(msgpack.packb(fields))


@pytest.mark.parametrize(
    "data", [b"", b"\xc0", b"\x93\x01", b"\xc1", b"\x81\x90\x01", b"\xdd\xff\xff\xff\xff", b"\x80\x80"]
)
def test_what_is_no_map_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="entry"):
        decode_entry(data)


def test_what_has_no_form_is_refused_when_written() -> None:
    with pytest.raises(LocalProtocolError, match="16 bytes, got 3"):
        encode_entry(b"abc", "e", "k", b"")
    with pytest.raises(LocalProtocolError, match=r"primary key: .*surrogate"):
        encode_entry(ID, "e", "\ud83d", b"")
