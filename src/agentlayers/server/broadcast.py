"""Encoded messages on their way to one or many connections: each form is made once, for all of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["Broadcast", "websocket_frame"]


def websocket_frame(message: bytes) -> bytes:
    r"""
    Wrap a message in the header of an unmasked binary WebSocket frame (RFC 6455, section 5.2).

    A server's frames are not masked, so the same bytes serve every connection.

    >>> websocket_frame(b"abc")
    b'\x82\x03abc'

    """
    length = len(message)
    if length < 126:
        return b"\x82" + bytes((length,)) + message
    if length < 65_536:
        return b"\x82\x7e" + struct.pack("!H", length) + message
    return b"\x82\x7f" + struct.pack("!Q", length) + message


class Broadcast:
    """
    One or more messages to be sent together.

    Attributes:
        messages: The encoded messages.
    """

    __slots__ = ("_stream", "_websocket", "messages")

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.messages = messages
        self._stream: bytes | None = None
        self._websocket: bytes | None = None

    @property
    def stream(self) -> bytes:
        """The messages as they go over TCP."""
        if self._stream is None:
            self._stream = b"".join(self.messages)
        return self._stream

    @property
    def websocket(self) -> bytes:
        """The messages as WebSocket frames."""
        if self._websocket is None:
            self._websocket = b"".join(map(websocket_frame, self.messages))
        return self._websocket
