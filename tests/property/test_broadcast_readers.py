"""Whatever readers do, each gets what its strategy promises, and none holds up a publisher that need not wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import example, given
from hypothesis import strategies as st

from agentlayers.runtime.broadcast import Broadcast, Subscription

Strategy = Literal["suspend", "dropping", "sliding"]

ACTIONS = st.one_of(
    st.just(("publish", 0, 0)),
    st.just(("subscribe", 0, 0)),
    st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 3)),
    st.tuples(st.just("close"), st.integers(0, 2), st.just(0)),
)


@dataclass
class Reader:
    subscription: Subscription[int]
    first: int
    """The oldest item it may see."""
    got: list[int] = field(default_factory=list)
    is_open: bool = True


class World:
    """A broadcast, its readers, and a publisher that may be waiting for one of them."""

    def __init__(self, strategy: Strategy, capacity: int, replay: int) -> None:
        self.broadcast: Broadcast[int] = Broadcast(capacity=capacity, strategy=strategy, replay=replay)
        self.readers: list[Reader] = []
        self.published = 0
        self.replayable: list[int] = []
        self.replay = replay
        self.publishing: asyncio.Task[bool] | None = None

    async def settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)
        if self.publishing is not None and self.publishing.done():
            if self.publishing.result():
                self.replayable = [*self.replayable, self.published][-self.replay :] if self.replay else []
                self.published += 1
            self.publishing = None

    async def act(self, action: str, which: int, count: int) -> None:
        if action == "publish" and self.publishing is None:
            self.publishing = asyncio.create_task(self.broadcast.publish(self.published))
        elif action == "subscribe" and len(self.readers) < 3:
            first = self.replayable[0] if self.replay and self.replayable else self.published
            self.readers.append(Reader(self.broadcast.subscribe(), first))
        elif which < len(self.readers) and self.readers[which].is_open:
            reader = self.readers[which]
            if action == "close":
                reader.is_open = False
                await reader.subscription.aclose()
            elif action == "read":
                for _ in range(min(count, len(reader.subscription._subscriber.items))):
                    reader.got.append(await anext(reader.subscription))
                    await asyncio.sleep(0)
        await self.settle()


async def play(strategy: Strategy, capacity: int, replay: int, actions: list[Any]) -> World:
    world = World(strategy, capacity, replay)
    for action in actions:
        await world.act(*action)
        if strategy != "suspend":
            assert world.publishing is None, "it waits for nobody"
    world.broadcast.stop_waiting() if strategy != "suspend" else None
    async with asyncio.timeout(10):
        while world.publishing is not None:
            # Whoever is behind reads on, and then it goes on.
            for index in range(len(world.readers)):
                await world.act("read", index, 1)
            await world.settle()
    world.broadcast.close()
    for reader in world.readers:
        if reader.is_open:
            reader.got += [item async for item in reader.subscription]
    return world


@given(
    strategy=st.sampled_from(["suspend", "dropping", "sliding"]),
    capacity=st.integers(1, 3),
    replay=st.integers(0, 3),
    actions=st.lists(ACTIONS, max_size=40),
)
@example(strategy="suspend", capacity=1, replay=0, actions=[("subscribe", 0, 0)] + [("publish", 0, 0)] * 3)
@example(
    strategy="suspend",
    capacity=1,
    replay=1,
    actions=[("subscribe", 0, 0), ("publish", 0, 0), ("publish", 0, 0), ("subscribe", 0, 0), ("close", 0, 0)],
)
def test_readers_get_what_is_promised(strategy: Strategy, capacity: int, replay: int, actions: list[Any]) -> None:
    world = asyncio.run(play(strategy, capacity, replay, actions))

    for reader in world.readers:
        assert sorted(set(reader.got)) == reader.got, "in order, and nothing twice"
        missed = reader.subscription.missed
        if not reader.is_open:
            continue
        expected = list(range(reader.first, world.published))
        if strategy == "suspend":
            assert (expected, 0) == (reader.got, missed)
        else:
            assert set(reader.got) <= set(expected)
            assert len(expected) == len(reader.got) + missed
            if missed and strategy == "sliding":
                assert world.published - 1 == reader.got[-1], "the newest is kept"
