"""One query, several readers: who sees what, and who waits for whom."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from agentlayers.errors import BackendError, QueryTimeoutError, StateError, UsageError
from agentlayers.runtime import AgentRuntime, QuerySupervisor, RuntimeSettings
from agentlayers.runtime.broadcast import Broadcast
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.query_handle import QueryHandle
from unit.runtime.conftest import Stores
from unit.runtime.fake_agent import INIT, RESULT, FakeBackend, FakeQuery, said
from unit.runtime.test_query_handle import Watcher, opened


def talk(count: int) -> list[dict[str, Any]]:
    return [INIT, *(said(str(number)) for number in range(count)), RESULT]


def numbers(count: int) -> list[str]:
    return ["system", *map(str, range(count)), "ok"]


async def texts(messages: AsyncIterator[AgentMessage]) -> list[str]:
    return [message.text or message.type for message in [message async for message in messages]]


async def take(messages: AsyncIterator[AgentMessage], count: int) -> list[str]:
    return [message.text or message.type for message in [await anext(messages) for _ in range(count)]]


async def idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def shared(*messages: Any, taps: Iterable[Watcher] = ()) -> tuple[QueryHandle, FakeQuery]:
    query = FakeQuery(*messages)
    return await opened(query, *taps), query


async def test_every_reader_gets_every_message() -> None:
    handle, _ = await shared(*talk(50), None)
    messages = handle.share()

    async with asyncio.timeout(5):
        read = await asyncio.gather(*(texts(aiter(messages)) for _ in range(3)))

    assert [numbers(50)] * 3 == read
    await handle.aclose()


async def test_a_broadcast_misses_nothing_though_a_reader_begins_later() -> None:
    handle, _ = await shared(*talk(10), None)

    first, second = handle.broadcast(2)
    early = await take(first, 5)
    async with asyncio.timeout(5):
        late, rest = await asyncio.gather(texts(second), texts(first))

    assert numbers(10) == late == early + rest
    await handle.aclose()


async def test_the_fastest_is_never_further_ahead_than_the_capacity() -> None:
    handle, _ = await shared(*talk(50), None)
    fast, slow = handle.broadcast(2, capacity=4)
    got: list[str] = []

    async def read() -> None:
        async for message in fast:
            got.append(message.text)  # noqa: PERF401 - counted while it grows

    reading = asyncio.create_task(read())
    await idle()
    ahead = len(got)
    await slow.aclose()
    await asyncio.wait_for(reading, 5)

    # One more than fits may be on its way: the fast one comes first in some orders.
    assert 4 <= ahead <= 5
    assert 52 == len(got)
    await handle.aclose()


@pytest.mark.parametrize(("strategy", "kept"), [("dropping", ["system", "0"]), ("sliding", ["19", "ok"])])
async def test_a_slow_reader_loses_messages_where_the_strategy_says_so(strategy: Any, kept: list[str]) -> None:
    handle, _ = await shared(*talk(20), None)
    fast, slow = handle.broadcast(2, capacity=2, strategy=strategy)

    async def read() -> list[str]:
        return [message.text or message.type async for message in fast]

    async with asyncio.timeout(5):
        read_by_fast = await read()
        read_by_slow = await texts(slow)

    assert kept == read_by_slow
    assert (20, 22) == (slow.missed, len(read_by_fast) + fast.missed)
    await handle.aclose()


async def test_one_that_joins_later_sees_what_comes_and_what_is_replayed() -> None:
    handle, query = await shared(*talk(5)[:-1])
    messages = handle.share(replay=2)
    first = aiter(messages)
    before = await take(first, 6)

    late = aiter(messages)
    query.feed.put_nowait(RESULT)
    query.feed.put_nowait(None)

    assert numbers(5)[:-1] == before
    assert ["3", "4", "ok"] == await texts(late)
    assert ["ok"] == await texts(first)
    assert ["4", "ok"] == await texts(aiter(messages)), "after the end there is the replay, and the end"
    await handle.aclose()


@pytest.mark.parametrize("replay", [0, 3])
async def test_messages_wait_while_there_is_no_reader(replay: int) -> None:
    """Also the one that was on its way to the reader that left."""
    handle, _ = await shared(*talk(50), None)
    messages = handle.share(capacity=2, replay=replay)
    async with messages.subscribe() as first:
        before = await take(first, 1)
        await idle()
        assert 2 == len(first._subscriber.items)
    await idle()

    rest = await texts(aiter(messages))

    assert ["system"] == before
    assert numbers(50)[3 - min(replay, 3) :] == rest, "only what was handed to the first reader is gone"
    await handle.aclose()


async def test_a_query_whose_readers_left_leaves_nothing() -> None:
    handle, _ = await shared(*talk(9)[:-1])
    async with handle.share(capacity=1).subscribe() as reader:
        await anext(reader)
    await idle()

    await handle.aclose()

    assert [] == [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_reader_that_is_forgotten_holds_nobody_up() -> None:
    handle, _ = await shared(*talk(50), None)
    messages = handle.share(capacity=2)
    fast, forgotten = aiter(messages), aiter(messages)
    reading = asyncio.create_task(texts(fast))
    await idle()
    assert not reading.done()

    del forgotten
    gc.collect()

    assert numbers(50) == await asyncio.wait_for(reading, 5)
    await handle.aclose()


async def test_the_error_of_the_query_reaches_every_reader_after_its_messages() -> None:
    handle, _ = await shared(INIT, said("a"), BackendError("killed"))
    readers = handle.broadcast(2)

    for reader in readers:
        assert ["system", "a"] == await take(reader, 2)
        with pytest.raises(BackendError, match="killed"):
            await anext(reader)
    await handle.aclose()


async def test_a_timeout_reaches_every_reader() -> None:
    runtime = AgentRuntime(
        FakeBackend(FakeQuery(INIT)), QuerySupervisor(), settings=RuntimeSettings(query_timeout=0.05)
    )
    async with asyncio.timeout(5), runtime.query("x") as turn:
        for reader in turn.broadcast(2):
            with pytest.raises(QueryTimeoutError):
                await texts(reader)


async def test_leaving_the_query_ends_its_readers_and_leaves_nothing() -> None:
    handle, _ = await shared(INIT)
    readers = handle.broadcast(3, capacity=1)
    reading = asyncio.create_task(texts(readers[0]))
    await idle()

    await asyncio.wait_for(handle.aclose(), 5)

    assert "system" in await reading
    assert [] == [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_slow_reader_never_stalls_the_recording(stores: Stores) -> None:
    """Of an agent that says things whether they are read or not; what it said must not wait to be recorded."""
    query = FakeQuery(INIT, *(said(str(number)) for number in range(3000)), RESULT, None)
    query.reads_ahead = True  # type: ignore[misc]
    runtime = AgentRuntime(FakeBackend(query), QuerySupervisor(), chat_history=stores.chat)

    async with runtime.query("x") as turn:
        fast, slow = turn.broadcast(2, capacity=1)
        await anext(fast)
        async with asyncio.timeout(20):
            await query.closed.wait()
            while turn.status.recording_pending:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        recorded = len(await stores.chat.list("s", limit=5000))
        await slow.aclose()

    assert 3003 == recorded


async def test_a_query_is_read_in_one_way() -> None:
    handle, _ = await shared(*talk(3), None)
    handle.share()

    with pytest.raises(StateError, match="are shared; iterate over what share"):
        await anext(handle)
    with pytest.raises(StateError, match="shared or read already"):
        handle.broadcast(2)
    await handle.aclose()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"capacity": 0}, "capacity must be a whole number from 1, got 0"),
        ({"replay": -1}, "replay must be a whole number from 0, got -1"),
        ({"strategy": "slide"}, "strategy 'slide' is unknown; it is one of suspend, dropping, sliding"),
    ],
)
async def test_what_cannot_be_shared_says_why(arguments: dict[str, Any], text: str) -> None:
    handle, _ = await shared(*talk(1), None)

    with pytest.raises(UsageError) as raised:
        handle.share(**arguments)
    with pytest.raises(UsageError, match="at least one reader"):
        handle.broadcast(0)

    assert text == str(raised.value)
    assert ["system", "0", "ok"] == await texts(handle), "a refused share changes nothing"
    await handle.aclose()


@pytest.mark.parametrize("replay", [0, 1])
async def test_who_comes_while_a_publisher_waits_gets_what_it_publishes_once(replay: int) -> None:
    broadcast: Broadcast[int] = Broadcast(capacity=1, strategy="suspend", replay=replay)
    slow = broadcast.subscribe()
    await broadcast.publish(1)
    publishing = asyncio.create_task(broadcast.publish(2))
    await idle()

    late = broadcast.subscribe()
    assert 1 == await anext(slow)
    got = [await anext(late) for _ in range(replay + 1)]
    await asyncio.wait_for(publishing, 5)

    assert [1, 2][1 - replay :] == got
    assert [] == list(late._subscriber.items)


async def test_a_publisher_that_waits_is_freed_when_the_broadcast_closes() -> None:
    broadcast: Broadcast[int] = Broadcast(capacity=1, strategy="suspend")
    reader = broadcast.subscribe()
    await broadcast.publish(1)
    publishing = asyncio.create_task(broadcast.publish(2))
    await idle()

    broadcast.close()

    await asyncio.wait_for(publishing, 5)
    assert 1 == len([number async for number in reader])
