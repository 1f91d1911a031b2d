"""
The socket side of a connection: bytes in, bytes out, a close with a reason. WebSocket and TCP look alike from here.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, cast

from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from agentlayers.server.broadcast import Broadcast

__all__ = ["PeerSocket", "PeerStream", "PeerWebSocket", "WrongFrameError"]

SOCKET_BUFFER_BYTES_MAX: Final = 64 * 1024
"""While the transport holds less than this, bytes go straight to it, without waking a task."""

CLOSE_SECONDS_MAX: Final = 2.0
"""How long a peer may take over the closing handshake before its socket is cut."""

_PING: Final = b"\x89\x00"
"""An empty ping frame (RFC 6455, section 5.5.2)."""

_STREAM_READ_BYTES: Final = 256 * 1024


class WrongFrameError(Exception):
    """The WebSocket peer sent a frame that carries no message of this protocol, such as text."""


class PeerSocket(abc.ABC):
    """
    One open socket.

    Attributes:
        is_stream: Bytes arrive cut anywhere.
        transport: Where bytes are written.
        on_read: Called for each :meth:`ask_read`, once the peer has read what was written before it.
    """

    is_stream: bool
    transport: asyncio.Transport
    on_read: Callable[[], None] | None = None

    @abc.abstractmethod
    def wire(self, broadcast: Broadcast) -> bytes:
        """Return a broadcast in the form this socket needs."""

    @abc.abstractmethod
    async def receive(self) -> bytes | None:
        """
        Return the next bytes, or :obj:`None` when the peer or we closed.

        Raises:
            WrongFrameError: The peer sent something else than a binary frame.
        """

    @abc.abstractmethod
    async def drain(self) -> None:
        """Wait until the transport wants more."""

    @abc.abstractmethod
    async def _close(self, code: int, reason: str) -> None: ...

    def write_now(self, data: bytes) -> bool:
        """Write at once if the transport has room; otherwise do nothing and return :obj:`False`."""
        # Not through write(): this is done for every delivery.
        transport = self.transport
        if transport.get_write_buffer_size() >= SOCKET_BUFFER_BYTES_MAX:
            return False
        if not transport.is_closing():
            transport.write(data)
        return True

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport; those for a socket that is gone are dropped."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def ask_read(self) -> None:
        """Have :attr:`on_read` called when the peer has read what was written; here, where it cannot be asked, soon."""
        if self.on_read is not None:
            asyncio.get_running_loop().call_soon(self.on_read)

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye with a code and a reason where the medium has them, and cut the socket after a while."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._close(code, reason)
        except OSError:  # TimeoutError too: a polite close waits for ever for a peer that does not read
            self.transport.abort()
        except BaseException:
            self.transport.abort()
            raise


class PeerWebSocket(PeerSocket):
    """A WebSocket of aiohttp, made with ``autoping=False``; each message is one binary frame."""

    is_stream = False

    def __init__(
        self,
        websocket: web.WebSocketResponse,
        writer: AbstractStreamWriter,
        transport: asyncio.Transport,
    ) -> None:
        self._websocket = websocket
        self._writer = writer
        self.transport = transport

    def wire(self, broadcast: Broadcast) -> bytes:
        """Return WebSocket frames: they are written to the transport as they are, one copy for all."""
        return broadcast.websocket

    async def receive(self) -> bytes | None:
        """Return the next message."""
        while True:
            message = await self._websocket.receive()
            if message.type is WSMsgType.BINARY:
                return bytes(message.data)
            if message.type is WSMsgType.PING:
                await self._websocket.pong(message.data)
            elif message.type is not WSMsgType.PONG:
                break
            elif self.on_read is not None:
                self.on_read()
        if message.type is WSMsgType.TEXT:
            raise WrongFrameError
        return None

    def ask_read(self) -> None:
        """Send a ping frame, which a peer answers behind everything before it."""
        self.write(_PING)

    async def drain(self) -> None:
        """Wait until the transport wants more."""
        await self._writer.drain()

    async def _close(self, code: int, reason: str) -> None:
        await self._websocket.close(code=code, message=reason.encode()[:123])


class PeerStream(PeerSocket):
    """A TCP (or TLS) stream of concatenated messages; it can say nothing at its close."""

    is_stream = True

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.transport = cast("asyncio.Transport", writer.transport)

    def wire(self, broadcast: Broadcast) -> bytes:
        """Return the messages one after the other."""
        return broadcast.stream

    async def receive(self) -> bytes | None:
        """Return whatever has arrived."""
        try:
            data = await self._reader.read(_STREAM_READ_BYTES)
        except OSError:
            return None
        return data or None

    async def drain(self) -> None:
        """Wait until the transport wants more."""
        await self._writer.drain()

    async def _close(self, code: int, reason: str) -> None:
        del code, reason
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
