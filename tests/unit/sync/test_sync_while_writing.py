"""An exchange comes to its end though others never stop writing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from agentlayers import limits
from agentlayers.protocol.messages import Hello, WriteWindow
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import Peer, Replica, SmallServer, replica


class OneBehind(SmallServer):
    """Acknowledges each message when the next one has come: while somebody writes, one is always on its way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held: tuple[Peer, Any] | None = None

    async def _write(self, peer: Peer, event: Any) -> None:
        before, self.held = self.held, (peer, event)
        if before is not None and before[0] is peer:
            await super()._write(*before)


class Second(MemoryTransport):
    """A way to another server."""

    @property
    def url(self) -> str:
        return "memory://second"


@contextlib.asynccontextmanager
async def writing(one: Replica) -> AsyncIterator[None]:
    """Write without end, one entry after the other."""

    async def write() -> None:
        while True:
            await one.write("x")
            await asyncio.sleep(0)

    task = asyncio.create_task(write())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_an_exchange_ends_though_something_is_always_on_its_way() -> None:
    """What was written before it was asked for is acknowledged; what is written meanwhile is another matter."""
    server = OneBehind()
    async with replica(MemoryTransport(server.serve)) as one:
        before = {await one.write("before") for _ in range(5)}
        async with writing(one):
            report = await one.sync.sync_now(10)
            acknowledged = {entry.entry_id for entries in server.journals.values() for entry in entries}

    assert before <= acknowledged
    assert report.sent["chat_history"] >= 5


async def test_an_exchange_ends_though_there_is_always_something_to_be_relayed() -> None:
    """What came from the first server before it was asked for is at the second."""
    first, second = SmallServer(), OneBehind(remote_id=b"other-remote-16b")
    async with (
        replica(MemoryTransport(first.serve)) as writer,
        replica(MemoryTransport(first.serve), remotes=[Second(second.serve)], relay=True) as both,
    ):
        before = {await writer.write("before") for _ in range(5)}
        await both.until_ids(before)
        async with writing(writer):
            await both.sync.sync_now(10)
            relayed = {entry.entry_id for entries in second.journals.values() for entry in entries}

    assert before <= relayed


class OneAtATime(SmallServer):
    """Allows one message without an Ack, as another implementation may."""

    def hello(self) -> Hello:
        hello = super().hello()
        assert hello.extensions is not None
        return replace(hello, extensions=replace(hello.extensions, write_window=WriteWindow(1, limits.MIB)))


async def test_a_window_that_an_exchange_has_just_filled_is_waited_for() -> None:
    """It asks where the server stands while the journal is read for what is to be sent next."""
    server = OneAtATime()
    transport = MemoryTransport(server.serve)
    async with replica(transport) as one:
        await one.until_pushed()
        (remote,) = one.sync._remotes.values()
        found = remote._pool.link_of(remote.registrations["chat_history"])
        assert found is not None
        real = one.journal.uncommitted
        asking: list[asyncio.Task[None]] = []

        async def uncommitted(*args: Any, **options: Any) -> Any:
            batch = await real(*args, **options)
            if batch and not asking:
                asking.append(asyncio.create_task(found[1]._caught_up()))
                await asyncio.sleep(0)
            return batch

        one.journal.uncommitted = uncommitted  # type: ignore[method-assign]
        await one.write("x")
        await one.sync.sync_now()
        await asyncio.gather(*asking)

        assert (len(server.sent_ids), len(asking)) == (1, 1)
    assert transport.connections == 1
