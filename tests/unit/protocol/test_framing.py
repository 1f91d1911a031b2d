"""Finding messages in a stream."""

from __future__ import annotations

import msgpack
import pytest

from agentlayers.errors import LimitExceededError, MalformedMessageError
from agentlayers.limits import FRAME_BYTES_MAX
from agentlayers.protocol.framing import ValueReader

VALUES = [{"id": 1}, [1, [2, b"x" * 300]], "text", 7, None, {"a": {"b": [True] * 20}}, 1.5]
STREAM = b"".join(map(msgpack.packb, VALUES))


def read_all(reader: ValueReader) -> list[bytes]:
    values = []
    while (value := reader.next_value()) is not None:
        values.append(value)
    return values


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, len(STREAM)])
def test_a_stream_cut_anywhere_gives_the_same_values(size: int) -> None:
    reader, found = ValueReader(), []
    for start in range(0, len(STREAM), size):
        reader.feed(STREAM[start : start + size])
        found += read_all(reader)

    assert found == [msgpack.packb(value) for value in VALUES]
    assert reader.buffered_bytes == 0


def test_many_small_messages_in_one_read_are_no_large_message() -> None:
    reader = ValueReader(bytes_max=100)
    reader.feed(msgpack.packb({"id": 1}) * 100_000)

    assert len(read_all(reader)) == 100_000


def test_values_before_a_broken_one_are_returned_first() -> None:
    reader = ValueReader()
    reader.feed(b"\x01\x02\xc1\x03")

    assert (reader.next_value(), reader.next_value()) == (b"\x01", b"\x02")
    with pytest.raises(MalformedMessageError, match="not MessagePack"):
        reader.next_value()


def test_the_longest_value_is_read_and_one_byte_more_is_not() -> None:
    longest = b"\xc6" + (FRAME_BYTES_MAX - 5).to_bytes(4) + bytes(FRAME_BYTES_MAX - 5)
    reader = ValueReader()
    reader.feed(longest + b"\x05")
    assert read_all(reader) == [longest, b"\x05"]

    reader.feed(b"\xc6" + (FRAME_BYTES_MAX - 4).to_bytes(4) + bytes(FRAME_BYTES_MAX - 4))
    with pytest.raises(LimitExceededError, match="FRAME_BYTES_MAX"):
        read_all(reader)


@pytest.mark.parametrize("head", [b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff" * 9])
def test_a_value_that_never_ends_is_given_up_at_the_bound(head: bytes) -> None:
    reader, fed = ValueReader(bytes_max=10_000), 0
    reader.feed(head)

    def feed_on() -> None:
        nonlocal fed
        while reader.next_value() is None:
            assert fed <= 10_000
            reader.feed(bytes(700))
            fed += 700

    with pytest.raises(LimitExceededError, match="FRAME_BYTES_MAX"):
        feed_on()


def test_nesting_without_end_is_refused() -> None:
    reader = ValueReader()
    reader.feed(b"\x91" * 100_000)

    with pytest.raises(MalformedMessageError):
        reader.next_value()


def test_a_long_value_in_many_small_pieces_is_found_whole() -> None:
    value = msgpack.packb([1] * 300_000)
    reader, found = ValueReader(), []
    for start in range(0, len(value), 500):
        reader.feed(value[start : start + 500])
        found += read_all(reader)

    assert found == [value]
