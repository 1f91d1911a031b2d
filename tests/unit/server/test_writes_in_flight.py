"""A connection is read further only while little of what it wrote is under way."""

from __future__ import annotations

import asyncio

import pytest

from agentlayers.server.writes_in_flight import (
    ACKS_OWED_MAX,
    WRITE_BYTES_IN_FLIGHT_MAX,
    WRITES_IN_FLIGHT_MAX,
    WritesInFlight,
)


async def is_waiting(task: asyncio.Task[None]) -> bool:
    """Whether a task still waits, once everything that waits for nothing has happened."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


@pytest.mark.parametrize(("count", "size"), [(WRITES_IN_FLIGHT_MAX, 0), (1, WRITE_BYTES_IN_FLIGHT_MAX)])
async def test_what_is_not_committed_bounds_it(count: int, size: int) -> None:
    writes = WritesInFlight()
    for number in range(count):
        assert not writes.is_full, number
        writes.add(size)
    waiting = asyncio.create_task(writes.wait_for_room())
    assert await is_waiting(waiting)

    writes.settle(size)
    await waiting
    assert (writes.is_full, writes.bytes) == (False, 0)


async def test_acks_that_are_owed_bound_it_too() -> None:
    writes = WritesInFlight()
    for number in range(ACKS_OWED_MAX):
        assert not writes.is_full, number
        writes.add(1)
        writes.settle(1)
    waiting = asyncio.create_task(writes.wait_for_room())
    assert await is_waiting(waiting)

    writes.acknowledge()
    await waiting


async def test_one_of_several_bounds_is_enough_to_wait() -> None:
    writes = WritesInFlight()
    for _ in range(WRITES_IN_FLIGHT_MAX + 1):
        writes.add(0)
    waiting = asyncio.create_task(writes.wait_for_room())
    writes.acknowledge()
    writes.settle(0)
    assert await is_waiting(waiting)

    writes.settle(0)
    await waiting


async def test_a_connection_that_ends_is_not_kept_waiting() -> None:
    writes = WritesInFlight()
    writes.add(WRITE_BYTES_IN_FLIGHT_MAX)
    waiting = asyncio.create_task(writes.wait_for_room())
    assert await is_waiting(waiting)
    writes.release()
    await waiting
    await writes.wait_for_room()

    assert writes.is_full
