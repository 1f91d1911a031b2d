"""
Find the messages in a byte stream.

TCP is a stream of MessagePack values with nothing between them. The reader finds where each ends
without building it, so a stream cut anywhere gives the same messages, at a cost that grows with its
length only, and with no more held than one message may have.
"""

from __future__ import annotations

from typing import Final, final

import msgpack

from agentlayers.errors import LimitExceededError, MalformedMessageError
from agentlayers.limits import FRAME_BYTES_MAX

__all__ = ["ValueReader"]

_PIECE_BYTES: Final = 64 * 1024
"""Looked at in one go, so that a large read does not count as a large message."""
_SCANNER_BYTES: Final = 4 * 1024


@final
class ValueReader:
    """
    Cuts a stream into its MessagePack values.

    Args:
        bytes_max: Longest value accepted.
    """

    __slots__ = ("_buffer", "_bytes_max", "_limit", "_scanner", "_start", "_unscanned")

    def __init__(self, *, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._bytes_max, self._limit = bytes_max, "FRAME_BYTES_MAX"
        # Small to begin with: a server has thousands of these, and the default is a mebibyte each.
        self._scanner = msgpack.Unpacker(None, read_size=_SCANNER_BYTES, max_buffer_size=bytes_max + _PIECE_BYTES)
        self._unscanned = bytearray()
        self._buffer = bytearray()
        self._start = 0  # where in the stream the first byte of the buffer stands

    @property
    def buffered_bytes(self) -> int:
        """Bytes received of values not yet returned."""
        return len(self._buffer) + len(self._unscanned)

    def accept_up_to(self, bytes_max: int, limit: str) -> None:
        """
        Take values of another length from now on, no longer ones than at the beginning.

        Args:
            bytes_max: Longest value accepted.
            limit: What that bound is called, for the error.
        """
        self._bytes_max, self._limit = bytes_max, limit

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add what was received; then call :meth:`next_value` until it returns None."""
        self._unscanned += data

    def next_value(self) -> bytes | None:
        """
        Return the next whole value, or None until more is fed.

        Raises:
            LimitExceededError: The value is longer than accepted.
            MalformedMessageError: The stream is not MessagePack; nothing after this place can be
                read.
        """
        while True:
            try:
                self._scanner.skip()
            except msgpack.OutOfData:
                if len(self._buffer) > self._bytes_max:
                    raise self._too_long(len(self._buffer)) from None
                if not self._unscanned:
                    return None
                self._scan_more()
            except (ValueError, msgpack.UnpackException) as error:
                raise MalformedMessageError(f"the stream is not MessagePack ({error or 'invalid byte'})") from None
            else:
                return self._take(self._scanner.tell() - self._start)

    def _scan_more(self) -> None:
        piece = self._unscanned[:_PIECE_BYTES]
        del self._unscanned[:_PIECE_BYTES]
        try:
            self._scanner.feed(piece)
        except msgpack.BufferFull:
            raise self._too_long(len(self._buffer) + len(piece)) from None
        self._buffer += piece

    def _take(self, size: int) -> bytes:
        if size > self._bytes_max:
            raise self._too_long(size)
        value = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._start += size
        return value

    def _too_long(self, size: int) -> LimitExceededError:
        return LimitExceededError(limit=self._limit, allowed=self._bytes_max, declared=size)
