"""msgpackr's records, which stock peers read and nobody writes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agentlayers.errors import MalformedMessageError
from agentlayers.protocol.codec import decode_message
from agentlayers.protocol.messages import Ack
from agentlayers.protocol.payload import decode_payload, decode_value
from agentlayers.protocol.record_form import expand_records

KEYS = msgpack.packb(["a", "b"])
RECORD = b"\xd4\x72\x40" + KEYS


def test_a_definition_is_followed_by_its_first_record() -> None:
    assert decode_payload(RECORD + b"\x01\xa1x") == {"a": 1, "b": "x"}


def test_records_nest_and_repeat() -> None:
    data = b"\x93" + RECORD + b"\x01\x40\x02\x03" + b"\x40\x04\x05" + b"\x06"

    assert decode_value(data) == [{"a": 1, "b": {"a": 2, "b": 3}}, {"a": 4, "b": 5}, 6]


def test_every_other_form_passes_unchanged() -> None:
    value: list[Any] = [None, True, 5, -5, 200, -200, 70_000, 2**40, 0.5, "x" * 40, "y" * 300, "z" * 70_000]
    value += [b"", b"x" * 300, {"k": [1] * 20}, [{}] * 3, msgpack.ExtType(5, b"abc")]
    for extra in (b"x" * 20_000, [2] * 400):
        data = b"\x93" + msgpack.packb(value[:10]) + msgpack.packb(extra) + RECORD + b"\x01\x02"
        expanded = expand_records(data)
        assert expanded is not None
        assert msgpack.unpackb(expanded) == [value[:10], extra, {"a": 1, "b": 2}]


def test_a_message_of_records_is_read() -> None:
    data = b"\xd4\x72\x41" + msgpack.packb(["id", "sequenceNumbers", "_tag"]) + b"\x01\x91\x02\xa3Ack"

    assert decode_message(data) == Ack(1, (2,))


@pytest.mark.parametrize(
    "data",
    [
        RECORD,
        RECORD + b"\x01",
        RECORD + b"\x01\x02\x03",
        RECORD + b"\x40" * 1000,
        b"\xd4\x72\x40\xc1",
        b"\xd4\x72",
        b"\xd4\x72\x40\xdd\xff\xff\xff\xff",
        b"\x91" * 70 + RECORD + b"\x01\x02",
        b"\xd4\x72\x05\x01",
    ],
)
def test_broken_records_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_value(data)
    with pytest.raises(MalformedMessageError):
        decode_message(data)


def test_a_short_input_cannot_grow_without_end() -> None:
    """One long key, repeated by each of many records of two bytes."""
    definition = b"\xd4\x72\x40\x91" + msgpack.packb("k" * 30_000) + b"\x01"
    data = b"\xdd" + (10_001).to_bytes(4) + definition + b"\x40\x01" * 10_000

    assert expand_records(data) is None


def test_long_input_is_not_searched_for_records() -> None:
    assert expand_records(b"\x92" + msgpack.packb(bytes(70_000)) + RECORD + b"\x01\x02") is None
