"""
What every :class:`~agentlayers.key_value.KeyValueStore` has to do.

Subclass :class:`KeyValueStoreContract` in a test module and give it the fixture ``make``: a function that
returns a store, not open yet, of one and the same place at each call. A store that outlives its process also
gets the suites of :mod:`agentlayers.testing.contracts.key_value_store_medium`, one that several processes share
those of :mod:`agentlayers.testing.contracts.key_value_store_processes`. Needs pytest with
asyncio in automatic mode.
"""
# ruff: noqa: FBT001

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, cast

import pytest

from agentlayers.errors import StateError, StorageUnavailableError, UsageError
from agentlayers.key_value import Delete, KeyValueStore, Put
from agentlayers.limits import KEY_VALUE_PAGE_BYTES_MAX, KEY_VALUE_PAGE_ENTRIES_MAX

__all__ = [
    "KeyValueStoreContract",
    "Make",
    "numbered",
    "read_all",
]

Make = Callable[[], KeyValueStore]
"""Returns a store of always the same place, not open yet."""

AWKWARD_KEYS = (
    b"",
    b"\x00",
    b"\x00\x00",
    b".",
    b"..",
    b"/",
    b"../../etc/passwd",
    b"A",
    b"a",
    b"a\x00",
    b"a\x00b",
    b"a\n",
    b"a%2F",
    b"a'\"; DROP TABLE pair; --",
    b"con",
    "schl\u00fcssel".encode(),
    b"\xc3\x28",
    b"\xff",
    b"\xff\xff",
    *(b"long" + bytes([last]) * 300 for last in (0, 1, 255)),
    b"x" * 119,
    b"x" * 120,
    b"x" * 121,
    b"y" * 4096,
    b"y" * 4095 + b"z",
)
"""Keys that a careless encoding confuses, loses or sorts wrongly."""


async def read_all(store: KeyValueStore, *arguments: bytes, **named: Any) -> list[tuple[bytes, bytes]]:
    """Return the pairs of a whole scan."""
    return [pair async for page in store.scan(*arguments, **named) for pair in page]


def numbered(count: int, *, prefix: bytes = b"key:", size: int = 10) -> dict[bytes, bytes]:
    """Return pairs whose keys sort by number, each value different."""
    return {prefix + b"%06d" % number: (b"%d:" % number).ljust(size, b"v") for number in range(count)}


async def fill(store: KeyValueStore, pairs: dict[bytes, bytes]) -> None:
    """Store pairs in a batch."""
    await store.batch([Put(key, value) for key, value in pairs.items()])


def as_scanned(store: KeyValueStore, pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return pairs as they are, or sorted where the store promises no order."""
    return list(pairs) if store.capabilities.ordered_scans else sorted(pairs)


class KeyValueStoreContract:
    """Each test is one promise of the port; the fixture ``make`` leads to an empty place."""

    @pytest.fixture
    async def store(self, make: Make) -> AsyncIterator[KeyValueStore]:
        """Return an open, empty store."""
        async with make() as store:
            yield store

    @pytest.fixture
    async def ordered(self, store: KeyValueStore) -> KeyValueStore:
        """Return the store where its scans are ordered."""
        if not store.capabilities.ordered_scans:
            pytest.skip("this medium has no ordered scans, and says so")
        return store

    @pytest.fixture
    async def atomic(self, store: KeyValueStore) -> KeyValueStore:
        """Return the store where its batches are atomic."""
        if not store.capabilities.atomic_batches:
            pytest.skip("this medium has no atomic batches, and says so")
        return store

    # -- single keys -----------------------------------------------------------------------------------
    async def test_a_key_that_was_never_stored_has_no_value(self, store: KeyValueStore) -> None:
        """Absence is None, not an error."""
        assert await store.get(b"key") is None

    async def test_what_was_put_is_returned(self, store: KeyValueStore) -> None:
        """The same bytes come back."""
        await store.put(b"key", b"value")

        assert await store.get(b"key") == b"value"

    async def test_a_put_replaces_the_value(self, store: KeyValueStore) -> None:
        """The last one wins, a shorter one too."""
        await store.put(b"key", b"first value")
        await store.put(b"key", b"2")

        assert await store.get(b"key") == b"2"

    async def test_an_empty_value_is_a_value(self, store: KeyValueStore) -> None:
        """It is not the same as none."""
        await store.put(b"key", b"")

        assert await store.get(b"key") == b""
        assert await read_all(store) == [(b"key", b"")]

    async def test_a_deleted_key_has_no_value(self, store: KeyValueStore) -> None:
        """Neither for get nor for scan."""
        await store.put(b"key", b"value")
        await store.put(b"other", b"value")
        await store.delete(b"key")

        assert await store.get(b"key") is None
        assert await read_all(store) == [(b"other", b"value")]

    async def test_a_key_that_is_not_there_can_be_deleted(self, store: KeyValueStore) -> None:
        """Deleting says what shall be, not what was."""
        await store.delete(b"key")

        assert await store.get(b"key") is None

    async def test_a_deleted_key_can_be_put_again(self, store: KeyValueStore) -> None:
        """A deletion leaves nothing behind."""
        await store.put(b"key", b"first")
        await store.delete(b"key")
        await store.put(b"key", b"second")

        assert await read_all(store) == [(b"key", b"second")]

    @pytest.mark.parametrize("key", AWKWARD_KEYS, ids=lambda key: repr(key[:24])[2:-1] + f"({len(key)})")
    async def test_a_key_may_hold_any_bytes(self, store: KeyValueStore, key: bytes) -> None:
        """No byte means anything to the medium."""
        await store.put(key, b"value of " + key)

        assert await store.get(key) == b"value of " + key
        assert await read_all(store) == [(key, b"value of " + key)]

    async def test_keys_that_look_alike_are_different_keys(self, store: KeyValueStore) -> None:
        """No two of the awkward ones meet."""
        for number, key in enumerate(AWKWARD_KEYS):
            await store.put(key, b"%d" % number)

        assert [await store.get(key) for key in AWKWARD_KEYS] == [b"%d" % n for n in range(len(AWKWARD_KEYS))]

    async def test_a_value_may_hold_any_bytes(self, store: KeyValueStore) -> None:
        """Every byte, in get and in scan."""
        value = bytes(range(256)) * 3
        await store.put(b"key", value)

        assert await store.get(b"key") == value
        assert await read_all(store) == [(b"key", value)]

    async def test_a_large_value_comes_back_whole(self, store: KeyValueStore) -> None:
        """Many times what one read of a socket or file returns."""
        value = bytes(range(251)) * 20_000
        await store.put(b"large", value)

        assert await store.get(b"large") == value

    # -- arguments -------------------------------------------------------------------------------------
    async def test_the_longest_key_is_taken_and_a_longer_one_refused(self, store: KeyValueStore) -> None:
        """The capability is the bound."""
        longest = b"k" * store.capabilities.key_bytes_max
        await store.put(longest, b"value")

        assert await store.get(longest) == b"value"
        with pytest.raises(UsageError, match="a key has"):
            await store.put(longest + b"k", b"value")

    async def test_a_value_above_the_bound_is_refused(self, store: KeyValueStore) -> None:
        """Before anything is written."""
        with pytest.raises(UsageError, match="a value has"):
            await store.put(b"key", bytes(store.capabilities.value_bytes_max + 1))

        assert await store.get(b"key") is None

    @pytest.mark.parametrize("wrong", ["text", 7, None, bytearray(b"key"), memoryview(b"key")])
    async def test_what_is_not_bytes_is_refused(self, store: KeyValueStore, wrong: Any) -> None:
        """A key that could change later, or would have to be guessed, is none."""
        with pytest.raises(UsageError, match="expected bytes"):
            await store.put(wrong, b"value")
        with pytest.raises(UsageError, match="expected bytes"):
            await store.put(b"key", wrong)
        with pytest.raises(UsageError, match="expected bytes"):
            await store.get(wrong)

    async def test_a_negative_limit_is_refused(self, store: KeyValueStore) -> None:
        """It is a mistake, not no limit."""
        with pytest.raises(UsageError, match="limit"):
            store.scan(limit=-1)

    # -- batches ---------------------------------------------------------------------------------------
    async def test_a_batch_puts_and_deletes(self, store: KeyValueStore) -> None:
        """All of its operations."""
        await store.put(b"old", b"value")
        await store.batch([Put(b"a", b"1"), Delete(b"old"), Put(b"b", b"2"), Delete(b"never there")])

        assert sorted(await read_all(store)) == [(b"a", b"1"), (b"b", b"2")]

    async def test_in_a_batch_the_last_operation_on_a_key_wins(self, store: KeyValueStore) -> None:
        """As if done one after the other."""
        await store.batch([Put(b"a", b"1"), Delete(b"a"), Put(b"b", b"1"), Put(b"b", b"2"), Put(b"c", b"1")])
        await store.batch([Put(b"c", b"2"), Delete(b"c")])

        assert sorted(await read_all(store)) == [(b"b", b"2")]

    async def test_an_empty_batch_does_nothing(self, store: KeyValueStore) -> None:
        """And is no error."""
        await store.batch([])

        assert await read_all(store) == []

    async def test_a_batch_may_be_large(self, store: KeyValueStore) -> None:
        """Thousands of operations of different sizes."""
        pairs = {key: value * (number % 7) for number, (key, value) in enumerate(numbered(3_000).items())}
        await fill(store, pairs)

        assert dict(await read_all(store)) == pairs

    async def test_a_batch_with_a_mistake_does_nothing(self, store: KeyValueStore) -> None:
        """Arguments are checked before the first operation."""
        with pytest.raises(UsageError):
            await store.batch([Put(b"a", b"1"), Put(b"b", cast("bytes", "text"))])
        with pytest.raises(UsageError, match="Put and Delete"):
            await store.batch([Put(b"a", b"1"), cast("Put", (b"b", b"2"))])

        assert await read_all(store) == []

    async def test_no_reader_sees_half_a_batch(self, atomic: KeyValueStore) -> None:
        """Whatever a scan shows of it, it shows of all of it."""
        keys = [b"%d" % number for number in range(8)]
        is_done = False

        async def write() -> None:
            nonlocal is_done
            for number in range(1, 40):
                gone, there = (keys[:4], keys[4:]) if number % 2 else (keys[4:], keys[:4])
                await atomic.batch([*(Delete(key) for key in gone), *(Put(key, b"%d" % number) for key in there)])
            is_done = True

        async def look() -> None:
            while not is_done:
                found = await read_all(atomic)
                assert len(found) in (0, 4), found
                assert len({value for _, value in found}) <= 1, found
                await asyncio.sleep(0)

        await asyncio.gather(write(), look(), look(), look())

    # -- scans -----------------------------------------------------------------------------------------
    async def test_a_scan_of_an_empty_store_has_no_page(self, store: KeyValueStore) -> None:
        """Not even an empty one."""
        assert [page async for page in store.scan()] == []

    async def test_a_scan_goes_by_the_bytes_of_the_keys(self, ordered: KeyValueStore) -> None:
        """Unsigned, shorter first, whatever the medium does with the names."""
        for key in reversed(AWKWARD_KEYS):
            await ordered.put(key, b"")

        assert [key for key, _ in await read_all(ordered)] == sorted(AWKWARD_KEYS)

    async def test_a_scan_can_go_backwards(self, ordered: KeyValueStore) -> None:
        """The same pairs, last key first."""
        for key in AWKWARD_KEYS:
            await ordered.put(key, b"")

        assert [key for key, _ in await read_all(ordered, reverse=True)] == sorted(AWKWARD_KEYS, reverse=True)

    @pytest.mark.parametrize("prefix", [b"a", b"a\x00", b"\xff", b"\xff\xff", b"long\xff", b"x" * 120, b"none"])
    async def test_a_prefix_bounds_a_scan(self, store: KeyValueStore, prefix: bytes) -> None:
        """Every key that begins with it, itself included, and no other."""
        for key in AWKWARD_KEYS:
            await store.put(key, b"")

        found = [key for key, _ in as_scanned(store, await read_all(store, prefix))]

        assert found == sorted(key for key in AWKWARD_KEYS if key.startswith(prefix))

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_a_scan_begins_at_its_start_and_ends_before_its_end(
        self, store: KeyValueStore, reverse: bool
    ) -> None:
        """Start inclusive, end exclusive, in both directions."""
        pairs = numbered(10)
        await fill(store, pairs)
        keys = sorted(pairs)

        found = await read_all(store, start=keys[3], end=keys[6], reverse=reverse)

        assert sorted(key for key, _ in found) == keys[3:6]

    async def test_a_prefix_and_bounds_hold_together(self, store: KeyValueStore) -> None:
        """The narrower of both counts at each end."""
        await fill(store, {b"a1": b"", b"a2": b"", b"a3": b"", b"b1": b"", b"b2": b""})

        assert sorted(await read_all(store, b"a", start=b"a2", end=b"b2")) == [(b"a2", b""), (b"a3", b"")]
        assert sorted(await read_all(store, b"b", start=b"a2", end=b"b2")) == [(b"b1", b"")]

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_a_range_that_ends_before_it_begins_is_empty(self, store: KeyValueStore, reverse: bool) -> None:
        """An inverted range is no error, and nothing."""
        await fill(store, numbered(5))

        assert await read_all(store, start=b"z", end=b"a", reverse=reverse) == []
        assert await read_all(store, b"key:", end=b"key:", reverse=reverse) == []

    @pytest.mark.parametrize("limit", [0, 1, 3, 10, 11])
    @pytest.mark.parametrize("reverse", [False, True])
    async def test_a_scan_stops_at_its_limit(self, store: KeyValueStore, limit: int, reverse: bool) -> None:
        """The first pairs in its direction, as many as there are."""
        pairs = numbered(10)
        await fill(store, pairs)

        found = await read_all(store, limit=limit, reverse=reverse)

        assert len(found) == min(limit, 10)
        if store.capabilities.ordered_scans:
            assert found == sorted(pairs.items(), reverse=reverse)[:limit]

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_a_long_scan_comes_in_bounded_pages(self, store: KeyValueStore, reverse: bool) -> None:
        """Every pair once, and no page above the bound."""
        pairs = numbered(2 * KEY_VALUE_PAGE_ENTRIES_MAX + 3)
        await fill(store, pairs)

        pages = [page async for page in store.scan(reverse=reverse)]

        found = [pair for page in pages for pair in page]
        assert as_scanned(store, found) == sorted(pairs.items(), reverse=reverse and store.capabilities.ordered_scans)
        assert all(0 < len(page) <= KEY_VALUE_PAGE_ENTRIES_MAX for page in pages)

    async def test_a_limit_may_lie_beyond_the_first_page(self, store: KeyValueStore) -> None:
        """It counts pairs, not pages."""
        await fill(store, numbered(KEY_VALUE_PAGE_ENTRIES_MAX + 50))

        assert len(await read_all(store, limit=KEY_VALUE_PAGE_ENTRIES_MAX + 7)) == KEY_VALUE_PAGE_ENTRIES_MAX + 7

    async def test_a_page_is_bounded_in_bytes_and_holds_one_pair_however_large(self, store: KeyValueStore) -> None:
        """Memory is spent on a page, not on the store."""
        third = KEY_VALUE_PAGE_BYTES_MAX // 3
        pairs = numbered(7, size=third) | {b"z": bytes(2 * KEY_VALUE_PAGE_BYTES_MAX)}
        await fill(store, pairs)

        pages = [page async for page in store.scan()]

        assert dict(pair for page in pages for pair in page) == pairs
        sizes = [sum(len(key) + len(value) for key, value in page) for page in pages]
        assert all(len(page) == 1 or size <= KEY_VALUE_PAGE_BYTES_MAX for page, size in zip(pages, sizes, strict=True))

    async def test_a_scan_ends_while_the_store_is_written(self, store: KeyValueStore) -> None:
        """What was there all the time is seen once; what is deleted ahead of it does not stop it."""
        await fill(store, numbered(KEY_VALUE_PAGE_ENTRIES_MAX * 2))
        found: list[bytes] = []
        async for page in store.scan():
            found += [key for key, _ in page]
            await store.delete(b"key:%06d" % (KEY_VALUE_PAGE_ENTRIES_MAX * 2 - 1))
            await store.put(b"aaa", b"behind")

        kept = set(numbered(KEY_VALUE_PAGE_ENTRIES_MAX * 2 - 1))
        assert kept <= set(found)
        assert len(found) == len(set(found))

    async def test_an_abandoned_scan_holds_nothing_up(self, store: KeyValueStore) -> None:
        """Writes go on behind it."""
        await fill(store, numbered(KEY_VALUE_PAGE_ENTRIES_MAX * 2))
        pages = store.scan()
        await anext(pages)
        await store.put(b"key", b"value")

        assert await store.get(b"key") == b"value"

    # -- concurrency -----------------------------------------------------------------------------------
    async def test_concurrent_writers_lose_nothing(self, store: KeyValueStore) -> None:
        """Every acknowledged write is there."""
        pairs = numbered(300)
        await asyncio.gather(*(store.put(key, value) for key, value in pairs.items()))

        assert dict(await read_all(store)) == pairs

    async def test_concurrent_writes_of_one_key_leave_one_of_them(self, store: KeyValueStore) -> None:
        """Whole, and the same for every reader."""
        values = [b"%d" % number * 1_000 for number in range(20)]
        await asyncio.gather(*(store.put(b"key", value) for value in values))
        found = await store.get(b"key")

        assert found in values
        assert await read_all(store) == [(b"key", found)]

    async def test_a_task_sees_what_it_wrote(self, store: KeyValueStore) -> None:
        """At once, while others write."""

        async def check(key: bytes) -> None:
            for number in range(10):
                await store.put(key, b"%d" % number)
                assert await store.get(key) == b"%d" % number

        await asyncio.gather(*(check(b"task %d" % number) for number in range(8)))

    async def test_a_cancelled_write_leaves_the_store_usable(self, store: KeyValueStore) -> None:
        """It happened or not; nothing hangs, nothing is mixed up."""
        tasks = [asyncio.create_task(store.put(b"cancelled %d" % number, b"value")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.put(b"key", b"value")

        assert await store.get(b"key") == b"value"
        assert {value for _, value in await read_all(store)} == {b"value"}

    # -- lifetime --------------------------------------------------------------------------------------
    async def test_a_store_that_is_not_open_refuses_everything(self, make: Make) -> None:
        """Before it was opened and after it was closed."""
        store = make()
        await _refuses_everything(store)
        async with store:
            pass
        await _refuses_everything(store)

    async def test_a_store_cannot_be_opened_twice(self, store: KeyValueStore) -> None:
        """The second time is a mistake, and harms nothing."""
        with pytest.raises(StateError, match="open already"):
            await store.__aenter__()
        await store.put(b"key", b"value")

        assert await store.get(b"key") == b"value"

    async def test_a_closed_store_can_be_opened_again(self, make: Make) -> None:
        """The object is only the way to its place."""
        store = make()
        async with store:
            await store.put(b"key", b"value")
        async with store:
            await store.put(b"key", b"again")

            assert await store.get(b"key") == b"again"

    async def test_closing_finishes_what_was_begun(self, make: Make) -> None:
        """A write that was asked for is acknowledged or refused, never left waiting."""
        async with make() as store:
            tasks = [asyncio.create_task(store.put(key, value)) for key, value in numbered(20).items()]
            await asyncio.sleep(0)
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

        assert all(outcome is None or isinstance(outcome, StateError | StorageUnavailableError) for outcome in outcomes)

    async def test_capabilities_are_known_before_anything_is_opened(self, make: Make) -> None:
        """So that a graph is refused in time."""
        assert type(make()).capabilities == make().capabilities


async def _refuses_everything(store: KeyValueStore) -> None:
    with pytest.raises(StateError, match="not open"):
        await store.get(b"key")
    with pytest.raises(StateError, match="not open"):
        await store.put(b"key", b"value")
    with pytest.raises(StateError, match="not open"):
        await store.delete(b"key")
    with pytest.raises(StateError, match="not open"):
        await read_all(store)
