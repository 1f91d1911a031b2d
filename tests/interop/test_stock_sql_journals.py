"""
A stock replica with an SQLite journal loses what reaches it at once beyond the variables of one statement.

So our server sends it no more than that, by estimate: see 'Stock peers' in ``docs/reference/protocol.md``. Against a
server without that, the first two tests fail: the replica notes none of its entries as sent, or has a fifth of them.

Over TCP two messages in one read are the replica's end besides. On one machine our server sees what it has not read,
and waits; without that, it ends within seconds when it is stopped now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from helpers.peer_sight import needs_peer_sight
from interop.stock_peers import StockClient, StockPeers, our_server


def noted(journal: Path) -> tuple[int, int]:
    """Return how many entries have a sequence in a stock journal, and what it will ask for next."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as opened:
        count, last = opened.execute("SELECT count(*), max(sequence) FROM effect_event_remotes").fetchone()
        return count, 0 if last is None else last + 1


async def until_noted(journal: Path, count: int) -> None:
    """Wait for so many entries with a sequence; it may take long, but not long for none to be added."""
    before = -1
    while (now := noted(journal)[0]) < count:
        assert now > before, f"{now} of {count} are noted, and none was added for half a minute"
        before = now
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                while noted(journal)[0] == before:  # noqa: ASYNC110 - they are in another process
                    await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def stopped_now_and_then(client: StockClient, *, stopped: float, running: float) -> AsyncIterator[None]:
    """Stop a replica's process for some seconds, and let it run for some, again and again."""

    async def stop_and_go_on() -> None:
        while True:
            await asyncio.sleep(running)
            with client.process.stopped():
                await asyncio.sleep(stopped)

    task = asyncio.create_task(stop_and_go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def handled_step_by_step(client: StockClient, count: int, step: int = 500) -> None:
    """Wait for a long backlog; no step of it takes long."""
    for handled in range(step, count, step):
        await client.until(handled=handled)
    await client.until(handled=count)


async def handled_once(client: StockClient, count: int) -> bool:
    entries = (await client.entries()).values()
    return len(entries) == count and {(entry.copies, entry.handled) for entry in entries} == {(1, 1)}


async def test_a_stock_sqlite_replica_that_sends_thousands_notes_all_of_them(sqlite_peers: StockPeers) -> None:
    """The Ack of 7,500 entries in one message lists what fits, and the others come back as Changes."""
    stock, journal = sqlite_peers, sqlite_peers.directory / "journal.db"
    async with our_server() as server, stock.client(journal="journal.db") as one, stock.client(one.identity) as other:
        await one.write_notes(7_500, "offline")
        await asyncio.gather(one.connect(server.websocket_url), other.connect(server.websocket_url))
        await asyncio.gather(until_noted(journal, 7_500), handled_step_by_step(other, 7_500))
        await one.write({"id": "later", "text": "sent alone"})
        await asyncio.gather(until_noted(journal, 7_501), other.until(handled=7_501))

        assert noted(journal) == (7_501, 7_501)
        assert await handled_once(one, 7_501)
        assert await handled_once(other, 7_501)


async def test_a_stock_sqlite_replica_gets_a_long_backlog_whole(sqlite_peers: StockPeers) -> None:
    """It had lost most of it for good with the first entry after that."""
    stock, journal = sqlite_peers, sqlite_peers.directory / "journal.db"
    async with our_server() as server, stock.client() as writer:
        await writer.write_notes(9_000, "backlog", 1_000)
        await writer.connect(server.websocket_url)
        await writer.until(pushed=9_000)
        async with stock.client(writer.identity, "journal.db") as late:
            await late.connect(server.websocket_url)
            await handled_step_by_step(late, 9_000)
            await writer.write({"id": "live", "text": "after the backlog"})
            await late.until(handled=9_001)
            await until_noted(journal, 9_001)
            assert noted(journal) == (9_001, 9_001)
            await late.process.kill()
        await writer.write({"id": "meanwhile", "text": "while it was not there"})
        async with stock.client(writer.identity, "journal.db") as late:
            await late.connect(server.websocket_url)
            await late.until(handled=1)

            assert (await late.entries()).keys() == (await writer.entries()).keys()


async def test_a_stock_sqlite_replica_that_ends_in_the_middle_misses_nothing(sqlite_peers: StockPeers) -> None:
    """Both have something for the other; wherever it is killed, it goes on from there."""
    stock, journal = sqlite_peers, sqlite_peers.directory / "journal.db"
    async with our_server() as server, stock.client() as writer:
        await writer.write_notes(3_000, "backlog")
        await writer.connect(server.websocket_url)
        await writer.until(pushed=3_000)
        async with stock.client(writer.identity, "journal.db") as late:
            await late.write_notes(2_000, "offline")
            await late.connect(server.websocket_url)
            await late.until(handled=2_300)
            await late.process.kill()
        count, following = noted(journal)
        assert 0 < count == following < 5_000
        async with stock.client(writer.identity, "journal.db") as late:
            await late.connect(server.websocket_url)
            await asyncio.gather(until_noted(journal, 5_000), handled_step_by_step(writer, 5_000))

            assert (await late.entries()).keys() == (await writer.entries()).keys()
            assert noted(journal) == (5_000, 5_000)


async def test_stock_sqlite_replicas_that_write_at_the_same_time_miss_nothing(sqlite_peers: StockPeers) -> None:
    """One of them is killed meanwhile; what it asks for next, it has everything before."""
    stock, journal = sqlite_peers, sqlite_peers.directory / "one.db"
    async with our_server() as server, stock.client(journal="other.db") as other:
        await other.connect(server.websocket_url)
        async with stock.client(other.identity, "one.db") as one:
            await one.connect(server.websocket_url)
            await asyncio.gather(one.write_notes(800, "one"), other.write_notes(800, "other"))
            await one.until(handled=1_000)
            await asyncio.gather(other.write_notes(800, "later"), one.until(handled=1_800))
            await one.process.kill()
        count, following = noted(journal)
        assert 0 < count == following
        async with stock.client(other.identity, "one.db") as one:
            await one.connect(server.websocket_url)
            await asyncio.gather(until_noted(journal, 2_400), other.until(handled=2_400))

            assert (await one.entries()).keys() == (await other.entries()).keys()
            assert noted(journal) == (2_400, 2_400)


@needs_peer_sight
@pytest.mark.parametrize(
    ("count", "size"),
    [(1_000, 0), pytest.param(12_000, 0, marks=pytest.mark.slow), pytest.param(3_000, 1_000, marks=pytest.mark.slow)],
)
async def test_a_stock_sqlite_replica_gets_a_backlog_whole_over_tcp(
    sqlite_peers: StockPeers, count: int, size: int
) -> None:
    """Its first Ack and its Pongs do not wait behind the backlog: without a Pong in 10 s it went offline for good."""
    stock, journal = sqlite_peers, sqlite_peers.directory / "journal.db"
    async with our_server() as server, stock.client() as writer:
        assert server.tcp_url is not None
        await writer.write_notes(count, "backlog", size)
        await writer.connect(server.websocket_url)
        await writer.until(pushed=count)
        async with stock.client(writer.identity, "journal.db") as late:
            await late.write_notes(300, "offline")
            await late.connect(server.tcp_url)
            await asyncio.gather(handled_step_by_step(late, count + 300), writer.until(handled=count + 300))
            await writer.write({"id": "live", "text": "after the backlog"})
            await until_noted(journal, count + 301)

            assert noted(journal) == (count + 301, count + 301)
            assert await handled_once(late, count + 301)


@needs_peer_sight
@pytest.mark.parametrize("count", [1_200, pytest.param(12_000, marks=pytest.mark.slow)])
async def test_a_stock_sqlite_replica_that_is_stopped_now_and_then_gets_its_backlog_whole_over_tcp(
    sqlite_peers: StockPeers, count: int
) -> None:
    """It is sent nothing while the last message waits to be read, for more than half of the time."""
    stock, journal = sqlite_peers, sqlite_peers.directory / "journal.db"
    async with our_server() as server, stock.client() as writer:
        assert server.tcp_url is not None
        await writer.write_notes(count, "backlog")
        await writer.connect(server.websocket_url)
        await writer.until(pushed=count)
        async with stock.client(writer.identity, "journal.db") as late:
            await late.connect(server.tcp_url)
            async with stopped_now_and_then(late, stopped=0.7, running=0.5):
                await handled_step_by_step(late, count)
            await writer.write({"id": "live", "text": "after the backlog"})
            await until_noted(journal, count + 1)

            assert noted(journal) == (count + 1, count + 1)
            assert await handled_once(late, count + 1)
