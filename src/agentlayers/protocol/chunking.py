"""
Cut long messages into chunks and put them back together.

A Reassembler belongs to one connection, so two clients that choose the same ids never meet. It does
no I/O and keeps no clock: a half-sent message goes when its connection does.
"""

from __future__ import annotations

from typing import final

from agentlayers.errors import LimitExceededError, LocalProtocolError, MalformedMessageError
from agentlayers.limits import (
    CHUNK_BYTES,
    CHUNKS_PER_MESSAGE_MAX,
    MESSAGE_BYTES_MAX,
    PENDING_CHUNK_BYTES_MAX,
    PENDING_CHUNKED_MESSAGES_MAX,
)
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.messages import ChunkedMessage

__all__ = ["Reassembler", "split_message"]


def split_message(data: bytes, message_id: int, *, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    """
    Return the frames in which to send an encoded message: itself, or its chunks if it is too long
    for one.

    A message of exactly ``chunk_bytes`` is not cut.

    Args:
        data: The encoded message.
        message_id: Unique among the messages that this connection may have half-sent.
        chunk_bytes: What every stock peer uses, unless a test wants less.

    Raises:
        LocalProtocolError: Longer than a receiver accepts.
    """
    if len(data) <= chunk_bytes:
        return [data]
    if len(data) > MESSAGE_BYTES_MAX:
        raise LocalProtocolError(
            f"a message of {len(data)} bytes is longer than {MESSAGE_BYTES_MAX}; send less at once"
        )
    pieces = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]
    return [encode_message(ChunkedMessage(message_id, index, len(pieces), piece)) for index, piece in enumerate(pieces)]


@final
class _Pending:
    """Chunks of one message; ``pieces`` maps an index to its bytes."""

    __slots__ = ("pieces", "size", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.size = 0
        self.pieces: dict[int, bytes] = {}


@final
class Reassembler:
    """The messages that one peer has begun and not finished."""

    __slots__ = ("_pending", "_pending_bytes")

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        self._pending_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes held for unfinished messages."""
        return self._pending_bytes

    @property
    def pending_messages(self) -> int:
        """How many messages are unfinished."""
        return len(self._pending)

    def add(self, chunk: ChunkedMessage) -> bytes | None:
        """
        Take one chunk, and return the message when it is the last one missing.

        Chunks may come in any order; a repeated one is ignored. What the peer announces is checked
        before anything is kept in proportion to it.

        Raises:
            LimitExceededError: Too many chunks, bytes or unfinished messages.
            MalformedMessageError: The index is outside the message, or the total differs from an
                earlier one.

        >>> chunks = Reassembler()
        >>> chunks.add(ChunkedMessage(7, 1, 2, b"world")) is None
        True
        >>> chunks.add(ChunkedMessage(7, 0, 2, b"hello "))
        b'hello world'

        """
        pending = self._pending.get(chunk.id)
        if pending is None:
            self._check_new(chunk)
            pending = _Pending(chunk.total)
        elif pending.total != chunk.total:
            raise MalformedMessageError(
                f"ChunkedMessage.part: message {chunk.id} had {pending.total} chunks, now {chunk.total}"
            )
        if chunk.index >= chunk.total:
            raise MalformedMessageError(f"ChunkedMessage.part: index {chunk.index} of {chunk.total} chunks")
        if chunk.index in pending.pieces:
            return None
        self._check_size(pending, chunk)
        self._pending[chunk.id] = pending
        pending.pieces[chunk.index] = chunk.data
        pending.size += len(chunk.data)
        self._pending_bytes += len(chunk.data)
        if len(pending.pieces) < pending.total:
            return None
        del self._pending[chunk.id]
        self._pending_bytes -= pending.size
        return b"".join(pending.pieces[index] for index in range(pending.total))

    def clear(self) -> None:
        """Forget every unfinished message."""
        self._pending.clear()
        self._pending_bytes = 0

    def _check_new(self, chunk: ChunkedMessage) -> None:
        if not 1 <= chunk.total <= CHUNKS_PER_MESSAGE_MAX:
            raise LimitExceededError(
                limit="CHUNKS_PER_MESSAGE_MAX", allowed=CHUNKS_PER_MESSAGE_MAX, declared=chunk.total
            )
        if len(self._pending) >= PENDING_CHUNKED_MESSAGES_MAX and chunk.total > 1:
            raise LimitExceededError(
                limit="PENDING_CHUNKED_MESSAGES_MAX",
                allowed=PENDING_CHUNKED_MESSAGES_MAX,
                declared=len(self._pending) + 1,
            )

    def _check_size(self, pending: _Pending, chunk: ChunkedMessage) -> None:
        size = pending.size + len(chunk.data)
        if size > MESSAGE_BYTES_MAX:
            raise LimitExceededError(limit="MESSAGE_BYTES_MAX", allowed=MESSAGE_BYTES_MAX, declared=size)
        held = self._pending_bytes + len(chunk.data)
        if held > PENDING_CHUNK_BYTES_MAX:
            raise LimitExceededError(limit="PENDING_CHUNK_BYTES_MAX", allowed=PENDING_CHUNK_BYTES_MAX, declared=held)
