"""The journal in memory: the same contract, no thread, no file."""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from agentlayers.errors import StateError
from agentlayers.journal.event_journal import Commit
from agentlayers.journal.memory.data import MemoryData
from agentlayers.journal.memory.transaction import MemoryTransaction
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.journal.transactional import TransactionalJournal

__all__ = ["MemoryJournal"]

T = TypeVar("T")


class MemoryJournal(TransactionalJournal):
    """
    Keeps everything in this object: closing and opening it again finds what was written.

    Work runs at once on the event loop, so two journals driven by one seeded loop behave the same every time.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, random: random_module.Random | None = None) -> None:
        super().__init__(clock=clock, random=random)
        self._data = MemoryData()

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise StateError("the journal is open already")
        self._registry.load_replica_id(MemoryTransaction(self._registry, self._data, read_only=False))
        self._hub.last_position = self._data.last_position
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        self._hub.close()
        self._registry.clear()

    async def transact(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` in a transaction; see :meth:`EventJournal.transact`."""
        self._require_open()
        result, commit = self._commit(work)
        if commit is not None:
            self._hub.publish(commit)
        # A caller that writes in a loop must let others run, as it does with a journal on disk.
        await asyncio.sleep(0)
        return result

    def _commit(self, work: Callable[[JournalTransaction], T]) -> tuple[T, Commit | None]:
        """Run ``work`` whole or not at all; returns also what is to be told of it, if it added entries."""
        tx = MemoryTransaction(self._registry, self._data, read_only=False)
        savepoint = tx.open_savepoint()
        try:
            result = work(tx)
        except BaseException:
            tx.rollback_savepoint(savepoint)
            raise
        tx.release_savepoint(savepoint)
        if not tx.written_stores:
            return result, None
        return result, Commit(frozenset(tx.written_stores), self._data.last_position, frozenset(tx.sources))

    async def read(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` on what is committed; see :meth:`EventJournal.read`."""
        self._require_open()
        return work(MemoryTransaction(self._registry, self._data, read_only=True))

    async def destroy(self) -> None:
        """Close the journal and drop everything."""
        await self.__aexit__(None, None, None)
        self._data = MemoryData()
