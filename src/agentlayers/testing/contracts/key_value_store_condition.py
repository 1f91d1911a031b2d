"""
What a :class:`~agentlayers.key_value.KeyValueStore` has to do for callers that race, and for threads that wait.

Subclass next to :class:`~agentlayers.testing.contracts.key_value_store.KeyValueStoreContract`; for stores that
several processes share there is :class:`RacingKeyValueStoreContract` as well.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from functools import partial
from typing import Any

import pytest

from agentlayers.errors import StateError, StorageConflictError, UsageError
from agentlayers.key_value import BlockingKeyValueStore, Delete, KeyRange, Put
from agentlayers.testing.contracts.key_value_store import Make, numbered, read_all
from agentlayers.testing.contracts.key_value_store_processes import StoreRecipe

__all__ = ["ConditionalKeyValueStoreContract", "RacingKeyValueStoreContract"]


class ConditionalKeyValueStoreContract:
    """Batches that depend on what is there, many keys at once, and the view of a thread."""

    async def test_a_batch_happens_if_all_is_as_expected(self, make: Make) -> None:
        """Values present and keys absent can both be asked for."""
        async with make() as store:
            await store.put(b"a", b"1")
            await store.put(b"gone", b"")
            await store.batch([Put(b"a", b"2"), Delete(b"gone")], expect={b"a": b"1", b"gone": b"", b"new": None})

            assert await read_all(store) == [(b"a", b"2")]

    @pytest.mark.parametrize(
        "expect",
        [
            {b"a": b"2"},
            {b"a": b""},
            {b"a": None},
            {b"empty": None},
            {b"missing": b""},
            {b"missing": b"1"},
            {b"a": b"1", b"missing": b"1"},
        ],
    )
    async def test_a_batch_does_nothing_if_something_is_not_as_expected(
        self, make: Make, expect: dict[bytes, bytes | None]
    ) -> None:
        """An empty value and no value differ; the error names the key and no value."""
        before = [(b"a", b"1"), (b"empty", b"")]
        async with make() as store:
            await store.batch([Put(*pair) for pair in before])
            with pytest.raises(StorageConflictError, match="nothing was done") as caught:
                await store.batch([Put(b"a", b"new"), Put(b"b", b"new"), Delete(b"empty")], expect=expect)

            assert await read_all(store) == before
        assert not caught.value.retryable

    async def test_an_expectation_alone_is_a_check(self, make: Make) -> None:
        """A batch may do nothing but compare."""
        async with make() as store:
            await store.put(b"a", b"1")
            await store.batch([], expect={b"a": b"1"})
            with pytest.raises(StorageConflictError):
                await store.batch([], expect={b"a": b"2"})

    async def test_of_many_at_once_that_expect_the_same_one_wins(self, make: Make) -> None:
        """A counter that everybody raises counts everybody who was told so, and harms no other write."""
        async with make() as store:
            await store.put(b"count", b"0")
            race = [store.batch([Put(b"count", b"%d" % at)], expect={b"count": b"0"}) for at in range(1, 9)]
            others = [store.put(b"other %d" % at, b"value") for at in range(8)]
            outcomes = await asyncio.gather(*race, *others, return_exceptions=True)

            won = [at for at, outcome in enumerate(outcomes[:8], 1) if outcome is None]
            assert len(won) == 1
            assert outcomes[8:] == [None] * 8
            assert await store.get(b"count") == b"%d" % won[0]

    async def test_a_batch_past_its_bounds_is_refused_whole(self, make: Make) -> None:
        """The error says what the medium takes."""
        async with make() as store:
            limits = store.capabilities
            many = [Put(b"%d" % at, b"") for at in range(limits.batch_operations_max + 1)]
            with pytest.raises(UsageError, match=str(limits.batch_operations_max)):
                await store.batch(many)
            large = bytes(limits.value_bytes_max)
            with pytest.raises(UsageError, match=str(limits.batch_bytes_max)):
                await store.batch([Put(b"%d" % at, large) for at in range(limits.batch_bytes_max // len(large) + 1)])

            assert await read_all(store) == []

    async def test_many_values_are_read_at_once(self, make: Make) -> None:
        """In the order asked for, absent and repeated keys included."""
        async with make() as store:
            await store.batch([Put(b"a", b"1"), Put(b"b", b"")])

            assert await store.get_many([b"b", b"none", b"a", b"b"]) == [b"", None, b"1", b""]
            assert await store.get_many([]) == []
            with pytest.raises(UsageError, match="str"):
                await store.get_many([b"a", "b"])  # type: ignore[list-item]

    async def test_a_thread_sees_and_does_the_same(self, make: Make) -> None:
        """Reads, pages, writes and conflicts of the blocking view are those of the store."""
        pairs = numbered(1300)

        def work(blocking: BlockingKeyValueStore) -> list[Any]:
            seen: list[Any] = [blocking.read(b"key:000007"), blocking.read(b"none")]
            seen.append(blocking.read_many([b"none", b"key:000001"]))
            seen.append([pair for page in blocking.pages(KeyRange.of(b"key:")) for pair in page])
            seen.append([pair for page in blocking.pages(KeyRange.of(b"key:", reverse=True), 3) for pair in page])
            left_early = blocking.pages(KeyRange())
            next(left_early)
            left_early.close()  # type: ignore[attr-defined]
            seen.append(list(blocking.pages(KeyRange.of(b"", start=b"b", end=b"a"))))
            blocking.write({b"mine": b"1", b"key:000000": None})
            blocking.write({b"mine": b"2"}, {b"mine": b"1"})
            with pytest.raises(StorageConflictError):
                blocking.write({b"mine": b"3"}, {b"mine": b"1"})
            return seen

        async with make() as store:
            await store.batch([Put(*pair) for pair in pairs.items()])
            seen = await asyncio.to_thread(work, store.blocking())

            assert seen == [
                pairs[b"key:000007"],
                None,
                [None, pairs[b"key:000001"]],
                list(pairs.items()),
                list(pairs.items())[:-4:-1],
                [],
            ]
            assert (await store.get(b"mine"), await store.get(b"key:000000")) == (b"2", None)

    async def test_a_closed_store_refuses_threads_too(self, make: Make) -> None:
        """With the error that callers of the store get."""
        async with make() as store:
            blocking = store.blocking()
        for use in (partial(blocking.read, b"a"), partial(blocking.write, {b"a": b"1"})):
            with pytest.raises(StateError):
                await asyncio.to_thread(use)


_RACER = textwrap.dedent(
    """
    import asyncio, importlib, json, sys
    from agentlayers.errors import StorageConflictError
    from agentlayers.key_value import Put

    async def main(constructor, arguments, rounds):
        module, _, name = constructor.partition(":")
        async with getattr(importlib.import_module(module), name)(**arguments) as store:
            won = 0
            while won < rounds:
                found = await store.get(b"count")
                try:
                    await store.batch([Put(b"count", b"%d" % (int(found or b"0") + 1))], expect={b"count": found})
                except StorageConflictError:
                    continue
                won += 1

    asyncio.run(main(*json.loads(sys.argv[1])))
    """
)


class RacingKeyValueStoreContract:
    """Two processes whose batches depend on each other's; the fixture ``recipe`` as for the shared suites."""

    async def test_a_counter_of_two_processes_loses_no_count(self, make: Make, recipe: StoreRecipe) -> None:
        """Comparing and writing are one step for every process."""
        order = json.dumps([recipe.constructor, recipe.arguments, 60])
        async with make() as store:
            racers = [subprocess.Popen([sys.executable, "-c", _RACER, order]) for _ in range(2)]  # noqa: S603, ASYNC220
            try:
                assert [await asyncio.to_thread(racer.wait, 30) for racer in racers] == [0, 0]
            finally:
                for racer in racers:
                    racer.kill()
                    racer.wait()

            assert await store.get(b"count") == b"120"
