"""What waits to be written to one socket: bounded by its owner, and measured, so that a slow reader is noticed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from agentlayers.server.peer_socket import PeerSocket
from agentlayers.server.spacing import MessageSpacer

__all__ = ["STALL_SECONDS_MAX", "Outbox"]

STALL_SECONDS_MAX: Final = 60.0
"""A peer that takes not one queued frame in this time is closed; it resumes from its cursor."""


class Outbox:
    """
    Bytes on their way to one peer, in order but for what a spacer lets go first.

    While the socket takes what it is given nothing is queued and no task runs.

    Args:
        socket: Where they go.
        on_stall: Called once if the peer reads nothing for ``stall_seconds``.
        stall_seconds: See :data:`STALL_SECONDS_MAX`.

    Attributes:
        spacer: Where set, each ``put`` is one message, and the next is not written before it says so.
        size: Bytes queued here, beside what the operating system and the transport hold.
    """

    __slots__ = ("_first", "_on_stall", "_queue", "_socket", "_stall_seconds", "_task", "_waiters", "size", "spacer")

    def __init__(
        self,
        socket: PeerSocket,
        *,
        on_stall: Callable[[], None],
        stall_seconds: float = STALL_SECONDS_MAX,
    ) -> None:
        self._socket = socket
        self._on_stall = on_stall
        self._stall_seconds = stall_seconds
        self._queue: deque[bytes] = deque()
        self._first: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self.spacer: MessageSpacer | None = None
        self.size = 0

    def put(self, data: bytes) -> None:
        """Write at once if nothing is queued and the socket has room, queue otherwise."""
        if self._task is None and not self._queue and self.spacer is None and self._socket.write_now(data):
            return
        goes_first = self.spacer is not None and self.spacer.goes_first(data)
        (self._first if goes_first else self._queue).append(data)
        self.size += len(data)
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def stop_spacing(self) -> None:
        """Write whatever is queued without a pause."""
        spacer, self.spacer = self.spacer, None
        if spacer is not None:
            spacer.release()

    async def wait_below(self, size: int) -> None:
        """Return once fewer than ``size`` bytes are queued."""
        while self.size >= size:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((size, waiter))
            await waiter

    async def close(self) -> None:
        """Drop what is queued and end the task."""
        self._clear()
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        try:
            while self._queue or self._first:
                async with asyncio.timeout(self._stall_seconds):
                    await self._socket.drain()
                if not self._queue and not self._first:
                    break
                taken = await self._write_next()
                self.size -= taken  # not in one: more may have been queued meanwhile
                self._wake()
        except TimeoutError:
            self._clear()
            self._on_stall()
        except OSError:
            self._clear()  # the socket is gone, which the reader notices too
        finally:
            self._task = None
            if not self._queue and not self._first:
                self.size = 0
            self._wake()

    async def _write_next(self) -> int:
        """Write what is next, and return how much shorter the queue is."""
        queue, spacer = self._first or self._queue, self.spacer
        if spacer is None:
            data = queue.popleft()
            self._socket.write(data)
            return len(data)
        data, taken = spacer.next_message(queue)
        self._socket.write(data)
        async with asyncio.timeout(self._stall_seconds):
            await spacer.until_read()
        return taken

    def _clear(self) -> None:
        self._queue.clear()
        self._first.clear()

    def _wake(self) -> None:
        if not self._waiters:
            return
        waiting, self._waiters = self._waiters, []
        for size, waiter in waiting:
            if waiter.done():
                continue
            if self.size < size:
                waiter.set_result(None)
            else:
                self._waiters.append((size, waiter))
