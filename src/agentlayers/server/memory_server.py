"""
A server without a socket: the real sessions, hub and storage for replicas of the same process.

For tests, demos and simulations; what it does not have is what belongs to the network: tokens, TLS, limits on
connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from types import TracebackType
from typing import Self, cast

from agentlayers.errors import AuthorizationError, ConnectionLostError, StateError
from agentlayers.protocol.messages import Hello
from agentlayers.protocol.server_session import ServerSession
from agentlayers.server.auth import DEFAULT_TENANT
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.close import CloseReason
from agentlayers.server.connection import Connection
from agentlayers.server.greeting import greeting_of
from agentlayers.server.hub import Hub
from agentlayers.server.memory_storage import MemoryServerStorage
from agentlayers.server.peer_socket import PeerSocket
from agentlayers.server.storage import ServerStorage
from agentlayers.transport.memory import MemoryConnection, MemoryTransport

__all__ = ["MemoryServer"]


class MemoryServer:
    """
    Serves replicas in this process while it is open (``async with``).

    Args:
        storage: Where journals are kept, open; in memory if not given.
        tenant: Whose journals they are.
    """

    def __init__(self, storage: ServerStorage | None = None, *, tenant: str = DEFAULT_TENANT) -> None:
        self._storage = storage or MemoryServerStorage()
        self._tenant = tenant
        self._hub: Hub | None = None
        # In the order in which they came, so that a run that is repeated closes them in the same order.
        self._connections: dict[Connection, None] = {}
        self._connection_ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        """Begin to serve."""
        if self._hub is not None:
            raise StateError("the server is open already")
        self._hub = Hub(self._storage, clock=asyncio.get_running_loop().time)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Store and acknowledge what was received, and close every connection."""
        hub, self._hub = self._hub, None
        if hub is not None:
            await hub.close()
        for connection in list(self._connections):
            connection.end(CloseReason.GOING_AWAY)

    def transport(self) -> MemoryTransport:
        """Return a way to it, for one replica."""
        return MemoryTransport(self.serve, is_stream=True)

    async def serve(self, connection: MemoryConnection) -> None:
        """Serve one connection until it ends; give this to a :class:`MemoryTransport` with ``is_stream``."""
        if self._hub is None:
            raise ConnectionLostError(reason="the server is not open")
        session = ServerSession(is_stream=True, hello=await greeting_of(self._storage, self._tenant))
        served = Connection(
            MemoryPeerSocket(connection),
            session,
            self._hub,
            tenant=self._tenant,
            connection_id=next(self._connection_ids),
            admit=self._admit,
        )
        self._connections[served] = None
        try:
            await served.run()
        finally:
            self._connections.pop(served, None)

    async def _admit(self, tenant: str, token: str) -> Hello:
        """Let a peer in that says who it is, as an open server does: with any token, into the only tenant."""
        del token
        if tenant != self._tenant:
            raise AuthorizationError(f"this server has no tenant but {self._tenant!r}")
        return await greeting_of(self._storage, tenant)


class MemoryPeerSocket(PeerSocket):
    """The server's end of an in-memory connection, as a stream."""

    is_stream = True

    def __init__(self, connection: MemoryConnection) -> None:
        self._connection = connection
        # Nothing but this class touches the transport of a peer socket.
        self.transport = cast("asyncio.Transport", self)

    def wire(self, broadcast: Broadcast) -> bytes:
        """Return the messages one after the other."""
        return broadcast.stream

    def write_now(self, data: bytes) -> bool:
        """Hand over at once if the peer's queue has room."""
        return self._connection.send_nowait(data)

    def write(self, data: bytes) -> None:
        """Hand over after :meth:`drain`."""
        self._connection.send_nowait(data)

    async def receive(self) -> bytes | None:
        """Return the next bytes."""
        try:
            return await self._connection.receive()
        except ConnectionLostError:
            return None

    async def drain(self) -> None:
        """Wait until the peer's queue has room."""
        with contextlib.suppress(ConnectionLostError):
            await self._connection.until_room()

    def abort(self) -> None:
        """Nothing is left to cut: closing is immediate."""

    async def _close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)
