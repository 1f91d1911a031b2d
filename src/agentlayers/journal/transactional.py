"""What every journal does the same way once it has ``transact`` and ``read``."""

from __future__ import annotations

import random as random_module
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Final

from agentlayers.errors import StateError
from agentlayers.journal import retention
from agentlayers.journal.compaction import CompactionReport, CompactionStrategy
from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.event_journal import Commit, EventJournal, Observation, StoreSchema
from agentlayers.journal.following import CommitHub
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import PAYLOAD_BYTES_MAX

__all__ = ["TransactionalJournal"]

_FOLLOW_ENTRIES: Final = 512
_RETRIED_ENTRIES: Final = 128


class TransactionalJournal(EventJournal):
    """Registration, following and compaction over ``transact`` and ``read``."""

    def __init__(self, *, clock: Callable[[], float], random: random_module.Random | None) -> None:
        self._registry = JournalRegistry(clock=clock, random=random)
        self._hub = CommitHub()
        self._is_open = False

    @property
    def replica_id(self) -> str:
        """Name of this replica in causal summaries: random, kept with the journal."""
        self._require_open()
        return self._registry.replica_id

    def _require_open(self) -> None:
        if not self._is_open:
            raise StateError("the journal is not open; use it inside `async with journal:`")

    async def register(self, schema: StoreSchema) -> None:
        """Declare a store and retry its unapplied entries; see :meth:`EventJournal.register`."""
        self._require_open()
        self._registry.add(schema)
        after: int | None = 0
        try:
            # In steps, because an import may have brought a whole store that nobody had opened.
            while after is not None:
                after = await self.transact(partial(_retry_step, store=schema.name, after=after))
        except BaseException:
            self._registry.schemas.pop(schema.name, None)
            raise

    def observe(self, observer: Callable[[JournalTransaction, Observation], None]) -> None:
        """Call ``observer`` inside the transaction for each observation."""
        self._registry.observers.append(observer)

    def on_commit(self, listener: Callable[[Commit], None]) -> Callable[[], None]:
        """Call ``listener`` on the event loop after each commit that added entries; returns how to stop."""
        self._require_open()
        return self._hub.listen(listener)

    def expect_remote(self, store: str, url: str) -> Callable[[], None]:
        """Let compaction spare what was written here until a remote was met; see :meth:`EventJournal.expect_remote`."""
        return self._registry.expect_remote(store, url)

    def changes(self, store: str | None = None, *, after: int | None = None) -> AsyncIterator[StoredEntry]:
        """Follow entries as they are committed; see :meth:`EventJournal.changes`."""
        self._require_open()
        return self._follow(store, self._hub.last_position if after is None else after)

    async def _follow(self, store: str | None, position: int) -> AsyncIterator[StoredEntry]:
        follower = self._hub.follow(store)
        try:
            while not follower.is_closed:
                follower.look()
                stored = await self.read(partial(_page, store=store, after=position))
                for entry in stored:
                    position = entry.position
                    yield entry
                if _is_last(stored) and not follower.is_closed:
                    await follower.wait()
        finally:
            self._hub.leave(follower)

    def commits(self, store: str | None = None) -> AsyncGenerator[int]:
        """Yield at once, and again after commits; see :meth:`EventJournal.commits`."""
        self._require_open()
        return self._commits(store)

    async def _commits(self, store: str | None) -> AsyncGenerator[int]:
        follower = self._hub.follow(store)
        try:
            while not follower.is_closed:
                follower.look()
                yield self._hub.last_position
                if not follower.is_closed:
                    await follower.wait()
        finally:
            self._hub.leave(follower)

    async def compact(self, store: str, strategy: CompactionStrategy) -> CompactionReport:
        """Drop what ``strategy`` selects, in bounded steps; see :meth:`EventJournal.compact`."""
        self._require_open()
        schema = self._registry.schema(store)
        before = await self.read(lambda tx: tx.count_rows(tx.store_number(store)))
        selection = retention.Selection(schema, strategy.selector)
        dropped, held_back, events = 0, 0, set[str]()
        while not selection.is_done:
            positions = await self.read(selection.advance)
            if positions:
                step = await self.transact(partial(retention.drop, schema=schema, positions=positions))
                dropped, held_back = dropped + step.entries, held_back + step.held_back
                events |= step.events
        while await self.transact(lambda tx: retention.forget_horizon(tx, store)):
            pass
        if dropped:
            tags = sorted(events)
            await self.transact(lambda tx: retention.report_compaction(tx, store, before, tags))
            await self._reclaim()
        after = await self.read(lambda tx: tx.count_rows(tx.store_number(store)))
        return CompactionReport(before, after, dropped, tuple(sorted(events)), held_back, self._registry.now_ms())

    async def _reclaim(self) -> None:
        """Give the space of dropped entries back to the medium, where that takes a step of its own."""


def _retry_step(tx: JournalTransaction, *, store: str, after: int) -> int | None:
    return tx.retry_unapplied(store, after=after, entries_max=_RETRIED_ENTRIES)


def _page(tx: JournalTransaction, *, store: str | None, after: int) -> list[StoredEntry]:
    return tx.entries(store, after=after, entries_max=_FOLLOW_ENTRIES, bytes_max=2 * PAYLOAD_BYTES_MAX)


def _is_last(page: list[StoredEntry]) -> bool:
    # A page that was cut for its size lacks less than one payload of the bound.
    return len(page) < _FOLLOW_ENTRIES and sum(len(stored.entry.payload) for stored in page) <= PAYLOAD_BYTES_MAX
