"""
Replicas of ours, with the stock Effect server between them.

How ours speaks to it: one entry in each WriteEntries (the server keeps one nonce for all entries of a message), never a
batch of duplicates (it would close), one connection for each store (it has one position for all keys of a connection),
nothing written before its backlog is read, and the backlog read again where it may have hidden an entry.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal import SQLiteJournal
from helpers.sync_world import Replica
from interop.stock_peers import STORE, StockPeers, StockServer, our_replica

LARGE = 700_000
Serve = Callable[..., contextlib.AbstractAsyncContextManager[StockServer]]


@pytest.fixture(params=["memory", "sqlite"])
def serve(request: pytest.FixtureRequest, stock: StockPeers) -> Serve:
    """Run a stock server over one of its two storages; the same file each time."""
    if request.param == "sqlite" and stock.installed.without_sqlite:
        pytest.skip(stock.installed.without_sqlite)

    @contextlib.asynccontextmanager
    async def serving(**options: object) -> AsyncIterator[StockServer]:
        storage = "server.db" if request.param == "sqlite" else ""
        async with stock.server(storage=storage, **options) as server:  # type: ignore[arg-type]
            yield server

    return serving


def identity() -> Identity:
    """Make a new identity."""
    return Identity.generate()


async def write_notes(one: Replica, count: int, prefix: str, size: int = 0, store: str = STORE) -> set[bytes]:
    """Write notes in one transaction and return their ids."""

    def work(tx: Any) -> set[bytes]:
        return {
            tx.write(store, "note", f"{prefix}-{n}", {"id": f"{prefix}-{n}", "text": "x" * size}).id
            for n in range(count)
        }

    return await one.logs[store].transact(work)


async def stored(server: StockServer, public_key: str) -> list[str]:
    """Return the ids a server keeps, sorted, after checking that no nonce was used twice."""
    entries = await server.entries(public_key)

    assert len({entry["iv"] for entry in entries}) == len(entries)
    return sorted(entry["id"] for entry in entries)


def in_hex(ids: set[bytes]) -> list[str]:
    """Write ids as a stock peer does, sorted."""
    return sorted(entry_id.hex() for entry_id in ids)


def pending(one: Replica) -> int:
    """Return how much the server has not acknowledged."""
    return one.sync.status.stores[STORE].pending or 0


async def test_two_replicas_of_ours_converge_through_a_stock_server(serve: Serve) -> None:
    """A thousand entries each way, some of them beyond the chunk size, then live ones at the same time."""
    shared = identity()
    async with serve() as server, our_replica(server.url, shared) as one, our_replica(server.url, shared) as other:
        ids = await write_notes(one, 1000, "one", 200) | await write_notes(one, 2, "large", LARGE)
        await one.sync.sync_now()
        await other.until_ids(ids, STORE)
        ids |= await write_notes(other, 1000, "other", 200) | await write_notes(other, 2, "large too", LARGE)
        await other.sync.sync_now()
        await one.until_ids(ids, STORE)
        both = await asyncio.gather(write_notes(one, 100, "at once"), write_notes(other, 100, "at once"))
        ids |= set.union(*both)
        for each in (one, other, one, other):
            await each.sync.sync_now()

        assert len(ids) == 2204
        assert await one.ids(STORE) == await other.ids(STORE) == ids
        assert await stored(server, shared.public_key) == in_hex(ids)


async def test_a_restarted_stock_server_is_found_again(serve: Serve) -> None:
    """With SQLite it goes on; with memory it is a new, empty one and gets everything again."""
    shared = identity()
    async with contextlib.AsyncExitStack() as stack:
        async with serve() as server:
            one = await stack.enter_async_context(our_replica(server.url, shared))
            other = await stack.enter_async_context(our_replica(server.url, shared))
            ids = await write_notes(one, 300, "before")
            await one.sync.sync_now()
            await other.until_ids(ids, STORE)
            port = server.port
        ids |= await write_notes(one, 20, "meanwhile") | await write_notes(other, 20, "meanwhile too")
        async with serve(port=port) as server:
            for each in (one, other, one, other):
                await each.sync.sync_now()

            assert await one.ids(STORE) == await other.ids(STORE) == ids
            assert await stored(server, shared.public_key) == in_hex(ids)


async def test_connections_cut_in_the_middle_lose_and_repeat_nothing(serve: Serve) -> None:
    """Acks get lost; what was stored all the same comes back as Changes and is not sent again."""
    shared = identity()
    async with serve() as server, our_replica(server.url, shared) as one:
        await one.sync.sync_now()
        ids = await write_notes(one, 800, "note", 2000)
        for _ in range(3):
            acknowledged = 800 - pending(one)
            await one.until(lambda _, seen=acknowledged: 800 - pending(one) > seen or not pending(one))  # type: ignore[misc]
            await server.process.call("drop")
        await one.sync.sync_now()

        assert await stored(server, shared.public_key) == in_hex(ids)
        assert server.process.is_running


async def test_a_restarted_replica_of_ours_sends_nothing_again(serve: Serve, tmp_path: Path) -> None:
    """Its position is in its journal, across the gaps in a stock SQL server's numbers."""
    shared = identity()
    async with serve() as server, our_replica(server.url, shared) as other:
        async with our_replica(server.url, shared, SQLiteJournal(tmp_path / "journal")) as one:
            ids = await write_notes(one, 300, "before")
            await one.sync.sync_now()
        ids |= await write_notes(other, 5, "other")
        await other.sync.sync_now()
        async with our_replica(server.url, shared, SQLiteJournal(tmp_path / "journal")) as one:
            ids |= await write_notes(one, 5, "after")
            report = await one.sync.sync_now()
            again = await one.sync.sync_now()
            await other.until_ids(ids, STORE)

            assert (report.sent, report.received) == ({STORE: 5}, {STORE: 5})
            assert (again.sent, again.received) == ({STORE: 0}, {STORE: 0})


async def test_two_stores_on_one_stock_server_do_not_hide_each_others_entries(serve: Serve) -> None:
    """A stock server keeps one position for all keys of a connection (W4), so each store has its own."""
    shared, names = identity(), (STORE, "chat_history")
    async with (
        serve() as server,
        our_replica(server.url, shared, names=names) as one,
        our_replica(server.url, shared, names=names) as other,
    ):
        ids = {
            name: await write_notes(one, count, name, store=name) for name, count in zip(names, (50, 3), strict=True)
        }
        await one.sync.sync_now()
        for name in names:
            await other.until_ids(ids[name], name)


async def test_single_small_writes_converge_over_tcp(serve: Serve) -> None:
    """All that is safe there: a stock TCP server exits on two messages in one read, or one in two."""
    shared = identity()
    async with (
        serve(transport="tcp") as server,
        our_replica(server.url, shared) as one,
        our_replica(server.url, shared) as other,
    ):
        ids = await write_notes(one, 40, "one")
        await one.sync.sync_now()
        await other.sync.sync_now()
        ids |= await write_notes(other, 40, "other")
        await other.sync.sync_now()
        await one.sync.sync_now()

        assert await one.ids(STORE) == await other.ids(STORE) == ids
        assert server.process.is_running
