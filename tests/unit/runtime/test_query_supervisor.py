"""The supervisor: slots, queue strategies, timeouts, events, and closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlayers.errors import (
    BackendError,
    QueryPendingCanceledError,
    QueryPendingTimeoutError,
    QueryQueueFullError,
    StateError,
)
from agentlayers.runtime.backend import Prompt
from agentlayers.runtime.query_event import QueryCompleted, QueryQueued, QueryStarted, QueryStartFailed
from agentlayers.runtime.query_handle import QueryHandle
from agentlayers.runtime.query_supervisor import QuerySupervisor
from agentlayers.runtime.settings import SupervisorSettings
from unit.runtime.fake_agent import INIT, RESULT, FakeQuery


def supervisor(**settings: Any) -> QuerySupervisor:
    return QuerySupervisor(SupervisorSettings(**settings), clock=lambda: 5.0)


def starting(query: FakeQuery) -> Any:
    async def start(prompt: Prompt) -> FakeQuery:
        return query

    return start


async def submitted(owner: QuerySupervisor, query: FakeQuery) -> tuple[asyncio.Task[QueryHandle], FakeQuery]:
    task = asyncio.create_task(owner.submit(starting(query)))
    await asyncio.sleep(0.005)
    return task, query


def finish(query: FakeQuery) -> None:
    query.feed.put_nowait(RESULT)
    query.feed.put_nowait(None)


async def test_no_more_than_the_limit_run_and_waiters_start_first_come_first_served() -> None:
    async with supervisor(concurrency_limit=2) as owner:
        queries = [FakeQuery(INIT) for _ in range(5)]
        tasks = [(await submitted(owner, query))[0] for query in queries]

        assert [True, True, False, False, False] == [task.done() for task in tasks]
        assert (2, 3) == (owner.stats.active, owner.stats.pending)
        for index in range(3):
            finish(queries[index])
            await asyncio.wait_for(asyncio.shield(tasks[index + 2]), 5)
            assert index + 3 == sum(task.done() for task in tasks)
        assert (2, 0, 5, 3) == (
            owner.stats.active,
            owner.stats.pending,
            owner.stats.started,
            owner.stats.completed,
        )


async def test_a_slot_is_free_when_the_agent_is_gone_though_nobody_read_it() -> None:
    async with supervisor(concurrency_limit=1) as owner:
        first = await owner.submit(starting(FakeQuery(INIT, RESULT, None)))

        second = await asyncio.wait_for(owner.submit(starting(FakeQuery(INIT, RESULT, None))), 5)

        assert 2 == len(await first.collect())
        assert 2 == len(await second.collect())


async def test_dropping_refuses_the_newest() -> None:
    async with supervisor(concurrency_limit=1, pending_queue_capacity=1, pending_queue_strategy="dropping") as owner:
        running, _ = await submitted(owner, FakeQuery(INIT))
        waiting, _ = await submitted(owner, FakeQuery(INIT))

        with pytest.raises(QueryQueueFullError, match=r"pending queue of 1 is full \(strategy dropping\)"):
            await owner.submit(starting(FakeQuery()))

        assert (True, False) == (running.done(), waiting.done())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_sliding_tells_the_displaced_waiter() -> None:
    async with supervisor(concurrency_limit=1, pending_queue_capacity=1, pending_queue_strategy="sliding") as owner:
        _running, first = await submitted(owner, FakeQuery(INIT))
        displaced, _ = await submitted(owner, FakeQuery(INIT))
        newest, _ = await submitted(owner, FakeQuery(INIT))

        with pytest.raises(QueryQueueFullError, match="strategy sliding"):
            await asyncio.wait_for(displaced, 5)
        finish(first)
        await asyncio.wait_for(newest, 5)

        assert 1 == owner.stats.active


async def test_suspend_waits_for_room_in_the_queue() -> None:
    async with supervisor(concurrency_limit=1, pending_queue_capacity=1) as owner:
        _running, first = await submitted(owner, FakeQuery(INIT))
        queued, second = await submitted(owner, FakeQuery(INIT))
        suspended, _ = await submitted(owner, FakeQuery(INIT))

        assert (1, 1) == (owner.stats.active, owner.stats.pending)
        finish(first)
        await asyncio.wait_for(queued, 5)
        assert 1 == owner.stats.pending
        finish(second)
        await asyncio.wait_for(suspended, 5)
        assert 0 == owner.stats.pending


async def test_without_a_queue_suspend_waits_and_the_others_refuse() -> None:
    async with supervisor(concurrency_limit=1, pending_queue_capacity=0) as owner:
        _running, first = await submitted(owner, FakeQuery(INIT))
        waiting, _ = await submitted(owner, FakeQuery(INIT))

        assert ("disabled", 0, False) == (
            owner.stats.pending_queue_strategy,
            owner.stats.pending,
            waiting.done(),
        )
        finish(first)
        await asyncio.wait_for(waiting, 5)
    for strategy in ("dropping", "sliding"):
        async with supervisor(concurrency_limit=1, pending_queue_capacity=0, pending_queue_strategy=strategy) as owner:
            await owner.submit(starting(FakeQuery(INIT)))
            with pytest.raises(QueryQueueFullError):
                await owner.submit(starting(FakeQuery(INIT)))


async def test_a_wait_that_is_too_long_times_out_and_gives_its_place_back() -> None:
    async with supervisor(concurrency_limit=1, max_pending_time=0.03) as owner:
        _running, first = await submitted(owner, FakeQuery(INIT))

        with pytest.raises(QueryPendingTimeoutError, match=r"no slot became free within 0\.03 s"):
            await owner.submit(starting(FakeQuery()))

        assert 0 == owner.stats.pending
        finish(first)
        await asyncio.wait_for(owner.submit(starting(FakeQuery(INIT))), 5)


async def test_a_waiter_that_is_cancelled_as_it_is_granted_gives_the_slot_back() -> None:
    async with supervisor(concurrency_limit=1) as owner:
        _running, first = await submitted(owner, FakeQuery(INIT))
        waiting, _ = await submitted(owner, FakeQuery(INIT))
        third, _ = await submitted(owner, FakeQuery(INIT))

        finish(first)
        while owner.stats.pending == 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        waiting.cancel()  # its slot is granted, but it has not run since
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(third, 5)

        assert waiting.cancelled()
        assert (1, 0) == (owner.stats.active, owner.stats.pending)


async def test_slots_are_never_lost_or_doubled_whatever_is_cancelled() -> None:
    async with supervisor(concurrency_limit=2, pending_queue_capacity=3, max_pending_time=0.5) as owner:
        most = 0

        async def one(number: int) -> None:
            nonlocal most
            handle = await owner.submit(starting(FakeQuery(INIT, RESULT, None)))
            most = max(most, owner.stats.active)
            await asyncio.sleep(0.001 * (number % 3))
            await handle.aclose()

        tasks = [asyncio.create_task(one(number)) for number in range(60)]
        for number, task in enumerate(tasks):
            if number % 4 == 0:
                asyncio.get_running_loop().call_later(0.0007 * number, task.cancel)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        await asyncio.sleep(0.01)

        assert most <= 2
        assert (0, 0) == (owner.stats.active, owner.stats.pending)


async def test_a_start_that_fails_frees_the_slot_and_is_told() -> None:
    async def start(prompt: Prompt) -> FakeQuery:
        raise BackendError("no command")

    async with supervisor(concurrency_limit=1, emit_events=True) as owner:
        events = owner.events()
        with pytest.raises(BackendError, match="no command"):
            await owner.submit(start)

        failed = await asyncio.wait_for(anext(events), 5)
        assert isinstance(failed, QueryStartFailed)
        assert ("backend", 5.0) == (failed.error, failed.failed_at)
        assert (0, 1) == (owner.stats.active, owner.stats.failed)


async def test_events_tell_the_story_of_each_query() -> None:
    async with supervisor(concurrency_limit=1, emit_events=True) as owner:
        events = owner.events()
        first = await owner.submit(starting(FakeQuery(INIT, RESULT, None)))
        second_task, second = await submitted(owner, FakeQuery(INIT))
        handle = await asyncio.wait_for(second_task, 5)
        await handle.aclose()
        await asyncio.sleep(0)

    story = [event async for event in events]
    assert [
        QueryStarted(first.query_id, 5.0),
        QueryCompleted(first.query_id, 5.0, "success"),
        QueryStarted(handle.query_id, 5.0),
        QueryCompleted(handle.query_id, 5.0, "interrupted"),
    ] == [event for event in story if not isinstance(event, QueryQueued)]
    assert second.closed.is_set()


async def test_waiting_queries_are_announced() -> None:
    async with supervisor(concurrency_limit=1, emit_events=True) as owner:
        await owner.submit(starting(FakeQuery(INIT)))
        events = owner.events()
        waiting, _ = await submitted(owner, FakeQuery(INIT))

        assert isinstance(await asyncio.wait_for(anext(events), 5), QueryQueued)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_following_events_that_are_off_is_an_error() -> None:
    async with supervisor() as owner:
        with pytest.raises(StateError, match="emit_events"):
            owner.events()


@pytest.mark.parametrize(("strategy", "kept"), [("sliding", [3, 4]), ("dropping", [0, 1])])
async def test_a_slow_follower_is_bounded(strategy: Any, kept: list[int]) -> None:
    async with supervisor(emit_events=True, event_buffer_capacity=2, event_buffer_strategy=strategy) as owner:
        events = owner.events()
        for number in range(5):
            await owner._emit(QueryQueued(str(number), 0.0))

    assert kept == [int(event.query_id) async for event in events]


async def test_a_follower_with_suspend_makes_publishers_wait() -> None:
    async with supervisor(emit_events=True, event_buffer_capacity=1, event_buffer_strategy="suspend") as owner:
        events: AsyncIterator[Any] = owner.events()
        await owner._emit(QueryQueued("0", 0.0))
        publishing = asyncio.create_task(owner._emit(QueryQueued("1", 0.0)))
        await asyncio.sleep(0.01)
        waited = not publishing.done()

        assert ["0", "1"] == [(await asyncio.wait_for(anext(events), 5)).query_id for _ in range(2)]
        await publishing
        assert waited


async def test_interrupt_all_interrupts_what_runs_and_leaves_what_waits() -> None:
    async with supervisor(concurrency_limit=2) as owner:
        queries = [FakeQuery(INIT) for _ in range(3)]
        tasks = [(await submitted(owner, query))[0] for query in queries]

        await owner.interrupt_all()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)

        assert [True, True, False] == ["interrupt" in query.calls for query in queries]


async def test_closing_ends_what_runs_and_tells_what_waits() -> None:
    owner = supervisor(concurrency_limit=1)
    running, query = await submitted(owner, FakeQuery(INIT))
    waiting, _ = await submitted(owner, FakeQuery(INIT))

    await asyncio.wait_for(owner.aclose(), 5)

    with pytest.raises(QueryPendingCanceledError):
        await waiting
    assert running.done()
    assert query.closed.is_set()
    with pytest.raises(StateError, match="supervisor is closed"):
        await owner.submit(starting(FakeQuery()))
    assert [] == [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_durations_are_counted_when_metrics_are_on() -> None:
    async with supervisor(metrics_enabled=True, tracing_enabled=True) as owner:
        handle = await owner.submit(starting(FakeQuery(INIT, RESULT, None)))
        await handle.collect()

        assert 1 == sum(owner.metrics.buckets) == owner.metrics.buckets[0]
        assert owner.metrics.total_ms > 0


async def test_closing_does_not_wait_for_a_follower_that_stopped_reading() -> None:
    owner = supervisor(emit_events=True, event_buffer_capacity=1, event_buffer_strategy="suspend")
    events = owner.events()
    handle = await owner.submit(starting(FakeQuery(INIT)))

    await asyncio.wait_for(owner.aclose(), 5)

    assert "interrupted" == handle.status.state
    assert isinstance(await anext(events), QueryCompleted)
