"""A journal in a key-value store whose medium fails, is small, or cuts what it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest

from agentlayers.errors import StorageError, StorageUnavailableError
from agentlayers.journal.compaction import ByAge
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.journal.text_search import parse_terms
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value import KeyValueCapabilities, KeyValueStore, MemoryKeyValueStore
from agentlayers.testing.contracts.event_journal import EventJournalContract
from agentlayers.testing.contracts.event_journal_world import notes
from helpers.key_value_journal_check import check_indexes

Changes = Mapping[bytes, bytes | None]


class Small(MemoryKeyValueStore):
    """Takes short values only, and is reached from the journal's thread by way of the loop, as Redis is."""

    capabilities: ClassVar[KeyValueCapabilities] = replace(MemoryKeyValueStore.capabilities, value_bytes_max=100)
    blocking = KeyValueStore.blocking


class Tight(MemoryKeyValueStore):
    """Takes small batches only."""

    capabilities: ClassVar[KeyValueCapabilities] = replace(MemoryKeyValueStore.capabilities, batch_bytes_max=100_000)


class Lossy(MemoryKeyValueStore):
    """Loses the answer to a write: one that is done, that is done late, or never."""

    mode: str | None = None
    late: tuple[dict[bytes, bytes | None], dict[bytes, bytes | None]]

    def write_now(self, changes: Changes, expected: Changes | None = None) -> None:
        mode, self.mode = self.mode, None
        if mode in {None, "done"}:
            super().write_now(changes, expected or {})
        if mode is not None:
            self.late = dict(changes), dict(expected or {})
            raise StorageUnavailableError(backend="lossy", operation="write", reason="the answer was lost")


class Dying(MemoryKeyValueStore):
    """Is gone after so many writes."""

    left: int | None = None

    def write_now(self, changes: Changes, expected: Changes | None = None) -> None:
        if self.left is not None:
            if self.left == 0:
                raise StorageUnavailableError(backend="dying", operation="write", reason="gone")
            self.left -= 1
        super().write_now(changes, expected or {})


class TestKeyValueJournalOfCutValues(EventJournalContract):
    """The whole contract where every value is cut in pieces."""

    @pytest.fixture
    async def medium(self, clock: Callable[[], float]) -> AsyncIterator[Callable[..., EventJournal]]:
        async with Small() as store:
            yield lambda name="a": KeyValueJournal(store, name=name, clock=clock)


class TestKeyValueJournalIndexes(EventJournalContract):
    """After every test of the contract the indexes say what the entries say."""

    @pytest.fixture
    async def medium(self, clock: Callable[[], float]) -> AsyncIterator[Callable[..., EventJournal]]:
        names = set[str]()
        async with MemoryKeyValueStore() as store:

            def make(name: str = "a") -> EventJournal:
                names.add(name)
                return KeyValueJournal(store, name=name, clock=clock)

            yield make
            for name in names:
                await check_indexes(store, name)


@pytest.mark.parametrize("mode", ["done", "late", "never"])
async def test_a_commit_whose_answer_is_lost_is_never_done_twice(mode: str) -> None:
    async with Lossy() as store:
        async with KeyValueJournal(store) as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "a", {})
            store.mode = mode
            with pytest.raises(StorageUnavailableError):
                await journal.write("notes", "line", "ambiguous", {})
            if mode == "late":
                await journal.entries("notes")  # reads the older state
                store.write_now(*store.late)
                store.mode = None
                with pytest.raises(StorageUnavailableError, match="done after all"):
                    await journal.write("notes", "line", "b", {})
            await journal.write("notes", "line", "b", {})
            found = [stored.entry.primary_key for stored in await journal.entries("notes")]

        assert found == (["a", "b"] if mode == "never" else ["a", "ambiguous", "b"])
        await check_indexes(store)
        async with KeyValueJournal(store) as journal:
            assert [stored.entry.primary_key for stored in await journal.entries()] == found


async def test_a_destroy_that_was_interrupted_is_finished_by_the_next_opening() -> None:
    async with Dying() as store:
        async with KeyValueJournal(store) as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "a", {})
            store.left = 1
            with pytest.raises(StorageUnavailableError):
                await journal.destroy()
            store.left = None
        async with KeyValueJournal(store) as journal:
            assert await journal.entries() == []


async def test_a_transaction_past_the_batch_limit_fails_alone() -> None:
    def many(tx: JournalTransaction) -> None:
        for number in range(200):
            tx.write("notes", "line", str(number), {"text": "x" * 500})

    async with Tight() as store, KeyValueJournal(store) as journal:
        await journal.register(notes())
        small = [journal.write("notes", "line", f"b{number}", {"text": "y" * 900}) for number in range(100)]
        large, *others = await asyncio.gather(journal.transact(many), *small, return_exceptions=True)

        assert isinstance(large, StorageError)
        assert "at once" in str(large)
        assert not [one for one in others if isinstance(one, BaseException)]
        assert len(await journal.entries()) == 100


async def test_cut_values_may_grow_shrink_and_grow_again() -> None:
    def put(tx: JournalTransaction, value: bytes | None) -> None:
        if value is None:
            tx.delete(b"k")
        else:
            tx.put(b"k", value)

    async with Small() as store, KeyValueJournal(store) as journal:
        for size in (5, 950, 50, 250, 99, 100, 98, 500, 0, 101, 950):
            await journal.transact(partial(put, value=b"x" * size))
            assert await journal.read(lambda tx: tx.get(b"k")) == b"x" * size
        await journal.transact(partial(put, value=None))
        pieces = [key async for page in store.scan(b"journal\0journal\0p") for key, _ in page]

        assert pieces == []


async def test_a_dropped_entry_is_not_found_by_its_text() -> None:
    def project(tx: Any, entry: Any, _heads: object) -> None:
        tx.index_text("notes", entry.id, "cat")

    async def found(journal: KeyValueJournal) -> int:
        return len(await journal.read(lambda tx: tx.search_text("notes", parse_terms("cat"), limit=1000)))

    async with MemoryKeyValueStore() as store, KeyValueJournal(store) as journal:
        await journal.register(StoreSchema(name="notes", project=project))  # it retracts nothing
        for number in range(300):
            await journal.write("notes", "line", str(number), {})
        before = await found(journal)
        await journal.compact("notes", ByAge(0))

        assert (before, await found(journal)) == (300, 0)
        await check_indexes(store)


async def test_the_check_itself_finds_damage() -> None:
    async with MemoryKeyValueStore() as store:
        async with KeyValueJournal(store) as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "a", {})
        keys = [key async for page in store.scan(b"journal\0journal\0i") for key, _ in page]
        await check_indexes(store)
        await store.delete(keys[0])
        with pytest.raises(AssertionError):
            await check_indexes(store)
