"""The journal over a key-value store."""

from __future__ import annotations

import random as random_module
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from agentlayers.errors import StateError
from agentlayers.journal.key_value.thread import JournalThread
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.journal.transactional import TransactionalJournal
from agentlayers.key_value.key_value_store import KeyValueStore
from agentlayers.key_value.keys import pack_key

__all__ = ["KeyValueJournal"]

T = TypeVar("T")

_NEEDED: Final = ("ordered_scans", "atomic_batches", "conditional_batches")


class KeyValueJournal(TransactionalJournal):
    """
    Keeps everything in a key-value store, under keys that begin with its name; as durable as the store is.

    What arrives while it commits shares the next commit, which is one batch of the store. It has one writer at a
    time: a journal that is opened a second time, in this process or another, is taken over from whoever had it
    open, who gets :class:`~agentlayers.errors.StateError` from then on and has lost nothing that was acknowledged.
    """

    def __init__(
        self,
        store: KeyValueStore,
        *,
        name: str = "journal",
        clock: Callable[[], float] = time.time,
        random: random_module.Random | None = None,
    ) -> None:
        """
        Name the journal; nothing is read or written yet.

        Args:
            store: Open for as long as the journal is. It may hold other things.
            name: Journals of different names share a store without meeting.
            clock: Seconds since the epoch.
            random: Entropy of entry ids.

        Raises:
            LayerError: The store has no ordered scans, or no batches that are atomic and conditional.
        """
        super().__init__(clock=clock, random=random)
        store.capabilities.require(*_NEEDED, medium=repr(store), user="a journal")
        self._store, self._name = store, name
        self._thread: JournalThread | None = None

    def __repr__(self) -> str:
        return f"KeyValueJournal({self._store!r}, name={self._name!r})"

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise StateError(f"{self!r} is open already")
        thread = JournalThread(
            self._store.blocking(),
            self._store.capabilities,
            pack_key("journal", self._name),
            what=f"the journal {self._name!r} in {self._store!r}",
            registry=self._registry,
            publish=self._hub.publish,
            home=await self._store.home(),
        )
        self._hub.last_position = await thread.start()
        self._thread, self._is_open = thread, True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        self._hub.close()
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.stop()
        self._registry.clear()

    def _running(self) -> JournalThread:
        if self._thread is None:
            self._require_open()
            raise StateError("the journal is closing")
        return self._thread

    async def transact(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` in a transaction; see :meth:`EventJournal.transact`."""
        return await self._running().submit(work)

    async def read(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` on what is committed; see :meth:`EventJournal.read`."""
        return await self._running().read(work)

    async def destroy(self) -> None:
        """Delete everything the journal holds, for good, and close it."""
        thread = self._running()
        await thread.destroy()
        await self.__aexit__(None, None, None)
