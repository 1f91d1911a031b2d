"""What a server said of one store and is not in the journal yet: in order, and bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentlayers import limits
from agentlayers.protocol.messages import RemoteEncryptedEntry
from agentlayers.sync.signal import Signal

__all__ = ["Acknowledged", "Inbox", "Received"]

_BYTES_MAX: Final = 8 * limits.MIB
"""Ciphertext waiting for the journal; one message always fits, however long."""


@dataclass(frozen=True, slots=True)
class Received:
    """Changes of this store, still sealed; ``size`` is what they cost of the credit."""

    entries: Sequence[RemoteEncryptedEntry]
    through: int | None
    size: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An Ack, with the local positions and the ids of what it acknowledges."""

    positions: Sequence[int]
    sequences: Sequence[int]
    through: int | None
    entry_ids: Sequence[bytes] = ()
    barrier: asyncio.Future[None] | None = None
    size: int = 0


class Inbox:
    """
    A queue bounded in messages and in bytes, or by the credit the server was given.

    Args:
        has_credit: The server sends no more than there is room for, so nobody ever waits to put something in.
    """

    def __init__(self, *, has_credit: bool = False) -> None:
        self._has_credit = has_credit
        self._messages: deque[Received | Acknowledged] = deque()
        self._size = 0
        self._is_closed = False
        self._changed = Signal()

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be put in."""
        if self._has_credit or self._is_closed:
            return False
        return len(self._messages) >= limits.PULL_QUEUE_MESSAGES_MAX or self._size >= _BYTES_MAX

    def close(self) -> None:
        """Drop what is in it, and what comes: nobody takes anything out any more, and nobody is to wait for that."""
        self._is_closed = True
        self._messages.clear()
        self._changed.notify()

    async def put(self, message: Received | Acknowledged) -> None:
        """Add a message, waiting for room."""
        if self.is_full:
            await self._changed.until(lambda: not self.is_full)
        if self._is_closed:
            return
        self._messages.append(message)
        self._size += message.size
        self._changed.notify()

    async def filled_or(self, task: asyncio.Task[None]) -> None:
        """Return once there is a message or a task is done, at once if so already."""

        def is_done(_: object) -> None:
            self._changed.notify()

        task.add_done_callback(is_done)
        try:
            await self._changed.until(lambda: bool(self._messages) or task.done())
        finally:
            task.remove_done_callback(is_done)

    async def get(self) -> Received | Acknowledged:
        """Take the oldest message, waiting for one."""
        if not self._messages:
            await self._changed.until(lambda: bool(self._messages))
        message = self._messages.popleft()
        self._size -= message.size
        self._changed.notify()
        return message
