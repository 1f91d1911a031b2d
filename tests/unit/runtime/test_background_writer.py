"""The background writer keeps order, loses nothing silently, and closes in bounded time."""

import asyncio
from collections.abc import Sequence

import pytest

from agentlayers.errors import StorageUnavailableError, UsageError
from agentlayers.runtime.background_writer import BATCH_ITEMS_MAX, BackgroundWriter


def unavailable() -> StorageUnavailableError:
    return StorageUnavailableError(backend="test", operation="write", reason="disk full")


class Medium:
    """Keeps what is written; fails as told."""

    def __init__(self, *failures: Exception, bad: frozenset[int] = frozenset(), leading: int | None = None) -> None:
        self.kept: list[int] = []
        self.batches: list[int] = []
        self.failures = list(failures)
        self.bad = bad
        self.leading = leading
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, batch: Sequence[int]) -> int:
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.bad.intersection(batch):
            raise UsageError("cannot be encoded")
        taken = batch[: self.leading]
        self.kept += taken
        self.batches.append(len(taken))
        return len(taken)


@pytest.mark.parametrize("leading", [None, 1, 3])
async def test_items_are_kept_in_order_in_batches(leading: int | None) -> None:
    medium = Medium(leading=leading)
    writer = BackgroundWriter(medium.write, name="t")
    items = list(range(BATCH_ITEMS_MAX * 2))

    futures = [await writer.put(item) for item in items]
    await writer.aclose()

    assert items == medium.kept
    assert all(future.done() and future.exception() is None for future in futures)
    assert max(medium.batches) == (leading or BATCH_ITEMS_MAX)
    assert (0, 0) == (writer.pending, writer.lost)


async def test_an_error_that_may_pass_is_tried_again() -> None:
    medium = Medium(unavailable(), unavailable())
    writer = BackgroundWriter(medium.write, name="t")

    done = await writer.put(1)
    await asyncio.wait({done}, timeout=5)

    assert ([1], None, 0) == (medium.kept, writer.error, writer.lost)
    await writer.aclose()


async def test_a_strict_writer_keeps_nothing_after_the_first_error() -> None:
    medium = Medium()
    writer = BackgroundWriter(medium.write, name="t", strict=True)
    before = await writer.put(0)
    await asyncio.wait({before}, timeout=5)
    medium.failures = [unavailable()]

    together = [await writer.put(1), await writer.put(2)]
    await asyncio.wait(together, timeout=5)
    after = await writer.put(3)
    await writer.aclose()

    assert all(isinstance(future.exception(), StorageUnavailableError) for future in (*together, after))
    assert ([0], 2) == (medium.kept, writer.lost)


async def test_one_bad_item_does_not_take_its_neighbours_along() -> None:
    medium = Medium(bad=frozenset({3}))
    writer = BackgroundWriter(medium.write, name="t")

    futures = [await writer.put(item) for item in range(6)]
    await writer.aclose()

    assert [0, 1, 2, 4, 5] == medium.kept
    assert [False, False, False, True, False, False] == [future.exception() is not None for future in futures]
    assert (1, "cannot be encoded") == (writer.lost, str(writer.lost_error))


async def test_put_waits_for_room() -> None:
    medium = Medium()
    medium.gate.clear()
    writer = BackgroundWriter(medium.write, name="t", items_max=2)
    await writer.put(1)
    await writer.put(2)

    third = asyncio.create_task(writer.put(3))
    await asyncio.sleep(0.01)
    waited = not third.done()
    medium.gate.set()
    await asyncio.wait_for(third, 5)
    await writer.aclose()

    assert waited
    assert [1, 2, 3] == medium.kept


async def test_closing_gives_up_in_time_and_counts_what_is_lost() -> None:
    medium = Medium()
    medium.gate.clear()
    writer = BackgroundWriter(medium.write, name="t", close_seconds_max=0.05)
    futures = [await writer.put(item) for item in range(3)]

    async with asyncio.timeout(5):
        await writer.aclose()

    assert (3, 0) == (writer.lost, writer.pending)
    assert all(isinstance(future.exception(), TimeoutError) for future in futures)


async def test_closing_an_unused_writer_is_fine() -> None:
    await BackgroundWriter(Medium().write, name="t").aclose()
