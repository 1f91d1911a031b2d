"""
A journal in memory that behaves as one on disk seen from the loop: it takes its time, and fails now and then.

Transactions run one after the other in a writer of their own; one whose caller gave up is still done if it had begun.
Between the commit and the moment anybody hears of it, time passes.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

from sortedcontainers import SortedList, SortedSet

from agentlayers.errors import StateError, StorageUnavailableError
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.memory.data import MemoryData
from agentlayers.journal.memory.transaction import MemoryTransaction
from agentlayers.journal.transaction import JournalTransaction
from simulation.chance import pause

__all__ = ["SimulatedJournal"]

T = TypeVar("T")


class SimulatedJournal(MemoryJournal):
    """
    See the module.

    Args:
        clock: Its replica's wall clock.
        random: Decides about all it does.
        data: What it holds to begin with.

    Attributes:
        ailing: Chance of a failure, for each transaction and read.
        after_commit: Called after each commit, before anybody hears of it.
    """

    def __init__(self, *, clock: Callable[[], float], random: Random, data: MemoryData | None = None) -> None:
        super().__init__(clock=clock, random=random)
        self._chance = random
        if data is not None:
            self._data = data
        self.ailing = 0.0
        self.after_commit: Callable[[], None] | None = None
        self._queue: deque[tuple[Callable[[JournalTransaction], Any], asyncio.Future[Any]]] = deque()
        self._filled = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._is_killed = False

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._filled = asyncio.Event()
        self._writer = asyncio.get_running_loop().create_task(self._write_all(), name="journal writer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_open = False
        self._filled.set()
        if self._writer is not None:
            await self._writer
        await super().__aexit__(kind, error, traceback)

    def kill(self) -> MemoryData:
        """Commit nothing any more, and return a copy of what is committed by now."""
        self._is_killed = True
        return self.copied_data()

    @property
    def data(self) -> MemoryData:
        """What is committed."""
        return self._data

    def copied_data(self) -> MemoryData:
        """Return a copy of what is committed, as a backup would be."""
        made = MemoryData()
        for name, table in vars(self._data).items():
            setattr(made, name, _copy_of(table))
        return made

    @property
    def published(self) -> int:
        """Up to this position all has heard of what is committed."""
        return self._hub.last_position

    @property
    def listeners(self) -> int:
        """How many still listen."""
        return len(self._hub._listeners) + len(self._hub._followers)

    async def transact(self, work: Callable[[JournalTransaction], T]) -> T:
        """Queue a transaction and wait for it."""
        self._require_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((work, future))
        self._filled.set()
        return await future

    async def read(self, work: Callable[[JournalTransaction], T]) -> T:
        """Read a snapshot of some moment from now."""
        self._require_open()
        await self._struggle("read")
        if not self._is_open and not self._queue:
            raise StateError("the journal is closed")
        result = work(MemoryTransaction(self._registry, self._data, read_only=True))
        await pause(self._chance)
        return result

    async def _struggle(self, operation: str) -> None:
        await pause(self._chance)
        if self._is_killed:
            raise StateError("the process was killed")
        if self._chance.random() < self.ailing:
            raise StorageUnavailableError(backend="simulated", operation=operation, reason="it is ailing")

    async def _write_all(self) -> None:
        while self._is_open or self._queue:
            if not self._queue:
                self._filled.clear()
                await self._filled.wait()
                continue
            work, future = self._queue.popleft()
            if future.cancelled():
                continue
            try:
                await self._struggle("write")
                result, commit = self._commit(work)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
                continue
            if self.after_commit is not None:
                self.after_commit()
            await pause(self._chance)
            if not future.done():
                future.set_result(result)
            if commit is not None:
                self._hub.publish(commit)


def _copy_of(table: Any) -> Any:
    """Copy containers; what they hold in the end never changes."""
    if isinstance(table, dict):
        return type(table)({key: _copy_of(value) for key, value in table.items()})
    return copy.copy(table) if isinstance(table, SortedList | SortedSet) else table
