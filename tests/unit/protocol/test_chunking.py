"""Cutting long messages, and putting them back together."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest

from agentlayers.errors import LimitExceededError, LocalProtocolError, MalformedMessageError
from agentlayers.limits import (
    CHUNK_BYTES,
    CHUNKS_PER_MESSAGE_MAX,
    MESSAGE_BYTES_MAX,
    PENDING_CHUNK_BYTES_MAX,
    PENDING_CHUNKED_MESSAGES_MAX,
)
from agentlayers.protocol.chunking import Reassembler, split_message
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.messages import ChunkedMessage
from vectors.effect_v3 import VECTORS

CHUNKING = VECTORS["chunking"]
RECORDED_ID = 9


def filled(size: int, seed: int) -> bytes:
    return bytes((index * 31 + seed) & 255 for index in range(256)) * (size // 256 + 1)


@pytest.mark.parametrize("case", CHUNKING["cases"], ids=lambda case: str(case["size"]))
def test_chunks_are_cut_to_the_byte(case: dict[str, Any]) -> None:
    data = filled(case["size"], case["seed"])[: case["size"]]
    assert hashlib.sha256(data).hexdigest() == case["sha256"]

    frames = split_message(data, RECORDED_ID)
    if case["size"] <= CHUNK_BYTES:
        assert frames == [data]
        frames = [encode_message(ChunkedMessage(RECORDED_ID, 0, 1, data))]

    assert [hashlib.sha256(frame).hexdigest() for frame in frames] == [part["messageSha256"] for part in case["parts"]]
    assert [len(frame) for frame in frames] == [part["messageBytes"] for part in case["parts"]]


def test_a_recorded_message_is_cut_and_joined_to_the_byte() -> None:
    example = CHUNKING["smallExample"]
    frames = [bytes.fromhex(frame) for frame in example["messagesHex"]]

    assert split_message(bytes.fromhex(example["wholeHex"]), 5, chunk_bytes=200) == frames
    for order in (frames, frames[::-1]):
        chunks = Reassembler()
        results = [chunks.add(chunk) for chunk in map(decode_message, order)]  # type: ignore[arg-type]
        assert [None] * (len(frames) - 1) == results[:-1]
        assert results[-1] is not None
        assert results[-1].hex() == example["wholeHex"]
        assert chunks.pending_bytes == chunks.pending_messages == 0


def test_every_order_gives_the_same_message() -> None:
    pieces = [b"a", b"b", b"", b"d"]

    for order in itertools.permutations(range(4)):
        chunks = Reassembler()
        results = [chunks.add(ChunkedMessage(0, index, 4, pieces[index])) for index in order]
        assert results == [None, None, None, b"abd"]


def test_messages_under_way_at_once_do_not_mix() -> None:
    chunks = Reassembler()

    chunks.add(ChunkedMessage(1, 0, 2, b"1"))
    chunks.add(ChunkedMessage(2, 1, 2, b"B"))

    assert chunks.add(ChunkedMessage(2, 0, 2, b"A")) == b"AB"
    assert chunks.add(ChunkedMessage(1, 1, 2, b"2")) == b"12"


def test_a_repeated_chunk_is_ignored() -> None:
    chunks = Reassembler()

    assert chunks.add(ChunkedMessage(1, 0, 2, b"first")) is None
    assert chunks.add(ChunkedMessage(1, 0, 2, b"other")) is None
    assert chunks.pending_bytes == len(b"first")
    assert chunks.add(ChunkedMessage(1, 1, 2, b"!")) == b"first!"


@pytest.mark.parametrize("total", [0, CHUNKS_PER_MESSAGE_MAX + 1, 2**32 - 1, 2**53])
def test_an_announced_number_of_chunks_is_bounded_before_anything_is_kept(total: int) -> None:
    chunks = Reassembler()

    with pytest.raises(LimitExceededError, match=f"CHUNKS_PER_MESSAGE_MAX: .* {total}"):
        chunks.add(ChunkedMessage(1, 0, total, b"x"))
    assert chunks.pending_messages == 0


def test_unfinished_messages_are_bounded() -> None:
    chunks = Reassembler()
    for number in range(PENDING_CHUNKED_MESSAGES_MAX):
        chunks.add(ChunkedMessage(number, 0, 2, b"x"))

    with pytest.raises(LimitExceededError, match="PENDING_CHUNKED_MESSAGES_MAX"):
        chunks.add(ChunkedMessage(99, 0, 2, b"x"))
    assert chunks.add(ChunkedMessage(0, 1, 2, b"y")) == b"xy"


def test_the_size_of_a_message_is_bounded() -> None:
    chunks = Reassembler()
    half = bytes(MESSAGE_BYTES_MAX // 2)
    chunks.add(ChunkedMessage(1, 0, 3, half))
    chunks.add(ChunkedMessage(1, 1, 3, half))

    with pytest.raises(LimitExceededError, match="MESSAGE_BYTES_MAX"):
        chunks.add(ChunkedMessage(1, 2, 3, b"x"))


def test_the_bytes_of_all_unfinished_messages_are_bounded() -> None:
    chunks = Reassembler()
    each = bytes(PENDING_CHUNK_BYTES_MAX // 2)
    chunks.add(ChunkedMessage(1, 0, 2, each))
    chunks.add(ChunkedMessage(2, 0, 2, each))

    with pytest.raises(LimitExceededError, match="PENDING_CHUNK_BYTES_MAX"):
        chunks.add(ChunkedMessage(3, 0, 2, b"x"))


@pytest.mark.parametrize(("index", "total"), [(2, 2), (7, 2), (0, 3)])
def test_chunks_that_contradict_earlier_ones_are_refused(index: int, total: int) -> None:
    chunks = Reassembler()
    chunks.add(ChunkedMessage(1, 0, 2, b"x"))

    with pytest.raises(MalformedMessageError, match=r"ChunkedMessage\.part"):
        chunks.add(ChunkedMessage(1, index, total, b"y"))


def test_a_message_longer_than_a_receiver_takes_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="send less at once"):
        split_message(bytes(MESSAGE_BYTES_MAX + 1), 1)

    assert len(split_message(bytes(MESSAGE_BYTES_MAX), 1)) <= CHUNKS_PER_MESSAGE_MAX


def test_clearing_lets_go_of_everything() -> None:
    chunks = Reassembler()
    chunks.add(ChunkedMessage(1, 0, 2, b"x"))

    chunks.clear()

    assert chunks.pending_bytes == chunks.pending_messages == 0
