"""When a peer has read what it was sent, for whoever has to know it; asked for no more often than it answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from agentlayers.server.outbox import Outbox
from agentlayers.server.peer_socket import PeerSocket

__all__ = ["ReadReceipts"]

Then = Callable[[], None]


class ReadReceipts:
    """
    Calls back once the peer has read what was queued for it.

    Args:
        socket: Asks the peer; its ``on_read`` is taken.
        outbox: What is queued for the peer.
        after: Called behind the others each time that the peer has read something.
    """

    __slots__ = ("_after", "_asked", "_asking", "_is_stopped", "_outbox", "_socket", "_waiting")

    def __init__(self, socket: PeerSocket, outbox: Outbox, after: Then) -> None:
        self._socket = socket
        self._outbox = outbox
        self._after = after
        self._waiting: list[Then] = []
        self._asked: deque[list[Then]] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._is_stopped = False
        socket.on_read = self._has_read

    def when_read(self, then: Then) -> None:
        """Call back when the peer has read all that is queued for it now; those who ask meanwhile share an answer."""
        if self._is_stopped:
            return
        self._waiting.append(then)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())

    def stop(self) -> None:
        """Ask no more and call nobody back any more."""
        self._is_stopped = True

    async def close(self) -> None:
        """Stop, and return when nothing of it is left."""
        self.stop()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask(self) -> None:
        try:
            await self._outbox.wait_below(1)
        finally:
            self._asking = None
        if self._is_stopped:
            return
        waiting, self._waiting = self._waiting, []
        self._asked.append(waiting)
        self._socket.ask_read()

    def _has_read(self) -> None:
        if self._is_stopped or not self._asked:  # a peer may answer what nobody asked
            return
        for then in self._asked.popleft():
            then()
        self._after()
