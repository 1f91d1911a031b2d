"""
Stock Effect replicas, with our server between them.

Known faults of the stock replica, which these tests go around because nothing the server does can help:

* an entry written before its first upload is done is sent with the next one only (W9), so they wait for ``following``;
* once connected it never connects again (W8), so a replica that lost its server is started again;
* over TCP it takes what one read returns for one message: our server leaves it time between two, and sends none that
  is longer than a segment if it can be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from agentlayers.server import SyncServer
from interop.stock_peers import StockClient, StockPeers, our_server

LARGE = 700_000
"""Bytes in one payload: its message is cut into chunks."""


def url_of(server: SyncServer, transport: str) -> str:
    """Return where a stock replica reaches the server."""
    assert server.tcp_url is not None
    return server.websocket_url if transport == "websocket" else server.tcp_url


async def converged(*clients: StockClient, count: int) -> None:
    """Wait until all have the same entries, and check that each was taken over once and unchanged."""
    await asyncio.gather(*(client.until(handled=count) for client in clients))
    first, *others = [await client.entries() for client in clients]

    assert len(first) == count
    assert {entry.handled for entry in first.values()} == {1}
    for entries in others:
        assert entries == first


@pytest.mark.parametrize("transport", ["websocket", "tcp"])
async def test_two_stock_replicas_converge_through_our_server(stock: StockPeers, transport: str) -> None:
    """Live and both ways; the second one has the keys from the first one's identity string."""
    async with (
        our_server() as server,
        stock.client() as one,
        stock.client(one.identity) as other,
    ):
        await one.connect(url_of(server, transport))
        await other.connect(url_of(server, transport))
        await one.write({"id": "first", "text": "from one"})
        await asyncio.gather(one.until(pushed=1), other.until(handled=1))
        await other.write({"id": "second", "text": "from other"})
        await converged(one, other, count=2)


async def test_a_stock_backlog_with_large_entries_reaches_a_stock_replica_that_joins_late(stock: StockPeers) -> None:
    """The whole backlog is one WriteEntries, in chunks; the late replica gets Changes of our size."""
    full: dict[str, Any] = {
        "id": "schlüssel/鍵 🔑",
        "text": "Grüße, 世界 👋\u0000\u2028",
        "count": 1_795_396_104_135,
        "flag": False,
        "tags": ["ä", ""],
        "data": bytes(range(256)),
        "meta": {"nested": {"list": [1, -1, 0.5, True, None]}, "": "empty key"},
    }
    async with our_server() as server, stock.client() as one, stock.client(one.identity) as late:
        await one.write_notes(1000, "backlog", 300)
        await one.write_notes(2, "large", LARGE)
        await one.write(full)
        await one.write({"id": "", "text": "", "count": {"$undefined": True}})
        await one.connect(server.websocket_url)
        await one.until(pushed=1004)
        await late.connect(server.websocket_url)
        await converged(one, late, count=1004)
        found = {entry.primary_key: entry.payload for entry in (await late.entries()).values()}

        assert found[full["id"]] == full
        assert found[""] == {"id": "", "text": ""}


async def test_a_stock_backlog_reaches_a_stock_replica_over_tcp(stock: StockPeers) -> None:
    """A thousand entries, each message alone in one read (W7)."""
    async with our_server() as server, stock.client() as one, stock.client(one.identity) as late:
        await one.write_notes(1000, "backlog", 100)
        await one.connect(url_of(server, "tcp"))
        await one.until(pushed=1000)
        await late.connect(url_of(server, "tcp"))
        await converged(one, late, count=1000)


async def test_stock_writers_at_the_same_time_converge_over_tcp(stock: StockPeers) -> None:
    """Acks and the other's Changes for each of them, a thousand entries in all."""
    async with our_server() as server, stock.client() as one, stock.client(one.identity) as other:
        await one.connect(url_of(server, "tcp"))
        await other.connect(url_of(server, "tcp"))
        await asyncio.gather(one.write_notes(500, "one", 100), other.write_notes(500, "other", 100))
        await converged(one, other, count=1000)


async def test_writers_at_the_same_time_lose_nothing(stock: StockPeers) -> None:
    """A stock server hides an entry from a replica that wrote the next one (W5); ours does not."""
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(our_server())
        one = await stack.enter_async_context(stock.client())
        clients = [one] + [await stack.enter_async_context(stock.client(one.identity)) for _ in range(2)]
        await asyncio.gather(*(client.connect(server.websocket_url) for client in clients))
        await asyncio.gather(*(client.write_notes(200, f"writer {n}") for n, client in enumerate(clients)))
        await converged(*clients, count=600)


async def test_a_stock_replica_that_opens_a_second_connection_repeats_nothing(stock: StockPeers) -> None:
    """Both connections upload the same entries; a stock server closes on a batch of duplicates (W3)."""
    async with our_server() as server, stock.client() as one, stock.client(one.identity) as other:
        await one.write_notes(50, "note")
        first = await one.connect(server.websocket_url)
        await one.until(pushed=50)
        await one.process.call("disconnect", connection=first)
        await asyncio.gather(
            one.connect(server.websocket_url, following=3), one.connect(server.websocket_url, following=3)
        )
        await one.write({"id": "last", "text": "sent on both"})
        await other.connect(server.websocket_url)
        await other.until(handled=51)

        assert {entry.copies for entry in (await other.entries()).values()} == {1}
        assert server.connection_count == 3


async def test_an_empty_stock_sqlite_journal_gets_the_first_entry_too(sqlite_peers: StockPeers) -> None:
    """It asks from 1 when it has nothing, and our first sequence is 0 (W16)."""
    stock = sqlite_peers
    async with our_server() as server, stock.client() as one, stock.client(one.identity, "journal.db") as other:
        await one.write_notes(3, "note")
        await one.connect(server.websocket_url)
        await one.until(pushed=3)
        await other.connect(server.websocket_url)
        await converged(one, other, count=3)


async def test_a_restarted_stock_replica_resumes(sqlite_peers: StockPeers) -> None:
    """Killed with entries that were not sent; its journal is in SQLite, and nothing comes twice."""
    stock = sqlite_peers
    async with our_server() as server, stock.client() as other:
        await other.connect(server.websocket_url)
        async with stock.client(other.identity, "journal.db") as one:
            await one.connect(server.websocket_url)
            await one.write_notes(100, "before")
            await asyncio.gather(one.until(pushed=100), other.until(handled=100))
            await one.process.kill()
        await other.write_notes(100, "meanwhile")
        async with stock.client(other.identity, "journal.db") as one:
            await one.write({"id": "offline", "text": "written before it connects"})
            await one.connect(server.websocket_url)
            await asyncio.gather(one.until(handled=101), other.until(handled=201, pushed=100))
            ours, theirs = await one.entries(), await other.entries()

            assert ours.keys() == theirs.keys()
            assert {entry.copies for entry in [*ours.values(), *theirs.values()]} == {1}


async def test_our_restarted_server_is_the_same_to_stock_replicas(sqlite_peers: StockPeers, tmp_path: Path) -> None:
    """It keeps its remote id, so a stock replica uploads only what is new."""
    stock = sqlite_peers
    async with our_server(tmp_path / "server") as server, stock.client(journal="journal.db") as one:
        await one.write_notes(300, "before")
        await one.connect(server.websocket_url)
        await one.until(pushed=300)
        identity = one.identity
    async with (
        our_server(tmp_path / "server") as server,
        stock.client(identity, "journal.db") as one,
        stock.client(identity) as other,
    ):
        await one.write({"id": "after", "text": "written while the server was down"})
        await one.connect(server.websocket_url)
        await one.until(pushed=1)
        await other.connect(server.websocket_url)
        await other.until(handled=301)

        assert (await one.entries()).keys() == (await other.entries()).keys()
