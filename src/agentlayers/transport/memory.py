"""
In memory: a pair of bounded queues instead of a socket, for tests and simulations.

The server's end is a :class:`MemoryConnection` too; a callable is given it and serves until it
ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self

from agentlayers.errors import ConnectError, ConnectionLostError
from agentlayers.protocol.messages import Authenticate
from agentlayers.transport.transport import Connection, Transport

__all__ = ["MemoryConnection", "MemoryTransport", "ServeMemory"]

_MESSAGES_MAX: Final = 16
"""Messages on their way in one direction; then ``send`` waits, as it does on a socket."""

_CLOSE_SECONDS: Final = 1.0


class _Pipe:
    """One direction: a bounded queue that can be closed at either end."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(_MESSAGES_MAX)
        self.closed = asyncio.Event()
        self.room = asyncio.Event()
        self.lost = ConnectionLostError(reason="the connection is closed")

    async def until_closed(self, work: Awaitable[bytes | None]) -> bytes | None:
        """Wait for ``work``, or raise when the pipe is closed first."""
        task = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait((task, closing), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise self.lost
        finally:
            task.cancel()
            closing.cancel()


class MemoryConnection(Connection):
    """One end of an in-memory connection; what one end sends the other receives, in order."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._serving: asyncio.Task[None] | None = None

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        """Return both ends of a new connection."""
        one, other = _Pipe(), _Pipe()
        return cls(one, other), cls(other, one)

    @property
    def is_open(self) -> bool:
        """Whether neither end has closed."""
        return not self._outgoing.closed.is_set()

    async def send(self, data: bytes) -> None:
        """Hand over one message, waiting while the other end does not receive."""
        pipe = self._outgoing
        if pipe.closed.is_set():
            raise pipe.lost
        if pipe.queue.full():
            await pipe.until_closed(pipe.queue.put(bytes(data)))
        else:
            pipe.queue.put_nowait(bytes(data))

    def send_nowait(self, data: bytes) -> bool:
        """Hand over one message if there is room at once; on a closed connection it is dropped, as by a socket."""
        pipe = self._outgoing
        if pipe.closed.is_set():
            return True
        if pipe.queue.full():
            return False
        pipe.queue.put_nowait(data)
        return True

    async def until_room(self) -> None:
        """
        Wait until the other end has taken enough for one more message.

        Raises:
            ConnectionLostError: It closed meanwhile.
        """
        pipe = self._outgoing
        while pipe.queue.full():
            pipe.room.clear()
            await pipe.until_closed(_nothing_after(pipe.room))

    async def receive(self) -> bytes:
        """Return the next message; those sent before a close still arrive."""
        pipe = self._incoming
        pipe.room.set()
        if not pipe.queue.empty():
            return pipe.queue.get_nowait()
        if pipe.closed.is_set():
            raise pipe.lost
        data = await pipe.until_closed(pipe.queue.get())
        assert data is not None
        return data

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close both directions, and wait for the serving callable to end."""
        for pipe in (self._incoming, self._outgoing):
            if not pipe.closed.is_set():
                pipe.lost = ConnectionLostError(reason=reason or "the other end closed", close_code=code)
                pipe.closed.set()
        serving, self._serving = self._serving, None
        if serving is not None and serving is not asyncio.current_task():
            await asyncio.wait({serving}, timeout=_CLOSE_SECONDS)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    def serve_with(self, serve: ServeMemory, other: MemoryConnection) -> None:
        """Run ``serve`` for the other end until it returns; then this end is closed as well."""

        async def run() -> None:
            try:
                await serve(other)
            except ConnectionLostError:
                pass
            finally:
                await other.close(1006, "the server ended")

        self._serving = asyncio.get_running_loop().create_task(run(), name="memory server")


async def _nothing_after(event: asyncio.Event) -> None:
    await event.wait()


ServeMemory = Callable[[MemoryConnection], Awaitable[None]]


class MemoryTransport(Transport):
    """
    Connects to a callable in this process.

    Args:
        server: Given the server's end of each new connection; serves until it ends. :obj:`None`
            makes every attempt fail, like a server that is not running. May be replaced any time.
        authenticate: What the client session is to send before anything else.
        is_stream: Tell the sessions that bytes may be cut anywhere, as on TCP.
        name: Tells it from others, where a replica is synced with several servers.
    """

    def __init__(
        self,
        server: ServeMemory | None,
        *,
        authenticate: Authenticate | None = None,
        is_stream: bool = False,
        name: str = "",
    ) -> None:
        self.server = server
        self._url = f"memory://{name}"
        self.connections = 0
        self._authenticate, self._is_stream = authenticate, is_stream

    @property
    def url(self) -> str:
        """Where to: the same for all that were given no name, because there is only this process."""
        return self._url

    async def connect(self) -> MemoryConnection:
        """Open a connection and start serving its other end."""
        if self.server is None:
            raise ConnectError(url=self.url, reason="connection refused; is the server running there?")
        client, server = MemoryConnection.pair()
        client.is_stream = server.is_stream = self._is_stream
        client.authenticate = self._authenticate
        client.serve_with(self.server, server)
        self.connections += 1
        return client

    def __repr__(self) -> str:
        return "MemoryTransport()"
