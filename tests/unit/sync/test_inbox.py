"""What waits for the journal of one store: bounded, in order, and nobody's trap when the store is gone."""

from __future__ import annotations

import asyncio

from agentlayers import limits
from agentlayers.sync.inbox import Acknowledged, Inbox


def message(number: int) -> Acknowledged:
    return Acknowledged((number,), (number,), None)


async def full() -> Inbox:
    inbox = Inbox()
    for number in range(limits.PULL_QUEUE_MESSAGES_MAX):
        await inbox.put(message(number))
    return inbox


async def test_who_puts_waits_for_room_and_the_order_stays() -> None:
    inbox = await full()
    putting = asyncio.create_task(inbox.put(message(99)))
    await asyncio.sleep(0)
    assert not putting.done()

    taken = [await inbox.get() for _ in range(limits.PULL_QUEUE_MESSAGES_MAX)]
    await asyncio.wait_for(putting, 1)

    assert [*taken, await inbox.get()] == [*map(message, range(limits.PULL_QUEUE_MESSAGES_MAX)), message(99)]


async def test_who_waits_for_room_is_let_go_when_the_store_is() -> None:
    """It is the reader of the whole connection: the other stores would wait with it."""
    inbox = await full()
    putting = asyncio.create_task(inbox.put(message(99)))
    await asyncio.sleep(0)

    inbox.close()
    await asyncio.wait_for(putting, 1)
    await inbox.put(message(100))

    assert len(inbox) == 0


async def test_a_server_that_keeps_to_its_credit_never_makes_anybody_wait() -> None:
    inbox = Inbox(has_credit=True)
    for number in range(3 * limits.PULL_QUEUE_MESSAGES_MAX):
        await asyncio.wait_for(inbox.put(message(number)), 1)

    assert len(inbox) == 3 * limits.PULL_QUEUE_MESSAGES_MAX


async def test_a_message_or_the_end_of_a_task_wakes_whoever_waits_for_either() -> None:
    inbox, stop = Inbox(), asyncio.Event()

    async def work() -> None:
        await stop.wait()

    task = asyncio.create_task(work())
    waiting = asyncio.create_task(inbox.filled_or(task))
    await asyncio.sleep(0)
    assert not waiting.done()
    await inbox.put(message(1))
    await asyncio.wait_for(waiting, 1)

    await inbox.get()
    waiting = asyncio.create_task(inbox.filled_or(task))
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.set()
    await asyncio.wait_for(waiting, 1)
    await task
