"""
One replica of ours and one stock Effect replica with the same identity, through our server and through theirs.

Known faults of the stock peers, which these tests go around because nothing ours says can help:

* a stock server hides an entry from a stock replica that wrote the next one (W5), so through it the two take turns;
* with SQLite it ends a connection on a batch of 200 entries or a multiple of it, as a stock replica may send one;
* on a batch of nothing but duplicates it ends the connection (W3), so there a stock replica never uploads twice;
* a stock replica never connects again (W8), so it is restarted with its server.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal import SQLiteJournal
from helpers.sync_world import Replica
from interop.stock_peers import STORE, StockClient, StockPeers, notes_of, our_replica, our_server

LARGE = 700_000
FULL: dict[str, Any] = {
    "id": "schlüssel/鍵 🔑",
    "text": "Grüße, 世界 👋\u0000\u2028",
    "count": 1_795_396_104_135,
    "flag": True,
    "tags": ["ä", "", "x" * 300],
    "data": bytes(range(256)),
    "meta": {"nested": {"list": [1, -1, 0.5, True, None, []]}, "": {}, "größe": -(2**40)},
}
"""Every optional field present."""

BARE: dict[str, Any] = {"id": "", "text": ""}
"""Every optional field absent."""

UNDEFINED = {"$undefined": True}
"""An optional field that the stock replica writes although it has no value."""


@dataclass(frozen=True)
class Served:
    """How to run one kind of server, again and again on the same data."""

    kind: str
    stock: StockPeers

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[str]:
        """Run it and give its address."""
        if self.kind == "ours":
            async with our_server(self.stock.directory / "our-server") as server:
                yield server.websocket_url
            return
        async with self.stock.server(storage="server.db" if self.kind == "sqlite" else "") as server:
            yield server.url


@pytest.fixture(params=["ours", "memory", "sqlite"])
def serve(request: pytest.FixtureRequest, stock: StockPeers) -> Served:
    """Our server, and the stock one with each of its storages."""
    if request.param == "sqlite" and stock.installed.without_sqlite:
        pytest.skip(stock.installed.without_sqlite)
    return Served(request.param, stock)


@pytest.fixture(params=["ours", "sqlite"])
def serve_durably(request: pytest.FixtureRequest, sqlite_peers: StockPeers) -> Served:
    """The servers that have their data again when they are restarted."""
    return Served(request.param, sqlite_peers)


async def write(one: Replica, *payloads: dict[str, Any]) -> None:
    """Write notes in one transaction."""

    def work(tx: Any) -> None:
        for payload in payloads:
            tx.write(STORE, "note", payload["id"], payload)

    await one.logs[STORE].transact(work)


def notes(count: int, prefix: str, size: int = 0) -> list[dict[str, Any]]:
    """Make notes like those that the stock replica makes."""
    return [{"id": f"{prefix}-{n}", "text": f"{prefix} {n} {'x' * size}", "count": n} for n in range(count)]


async def until_count(ours: Replica, count: int) -> None:
    """Sync until a replica has so many entries."""
    async with asyncio.timeout(20):
        while len(await ours.ids(STORE)) < count:
            await ours.sync.sync_now()


async def same_journal(ours: Replica, theirs: StockClient, count: int) -> None:
    """Check that both have the same entries with the same content, each once, and that theirs were all handled."""
    await until_count(ours, count)
    await theirs.until(handled=count)
    python = await notes_of(ours)
    effect = await theirs.entries()

    assert len(python) == count
    assert {each.id: (each.event, each.primary_key, each.payload) for each in effect.values()} == python
    assert {(each.copies, each.handled) for each in effect.values()} == {(1, 1)}


async def test_identities_are_read_and_written_alike(stock: StockPeers) -> None:
    """Made by either side, and written again to the byte."""
    ours = Identity.generate()
    async with stock.client(ours) as reading, stock.client() as making:
        theirs = making.process.facts["identity"]

        assert reading.process.facts["identity"] == ours.encode_string()
        assert reading.process.facts["publicKey"] == ours.public_key
        assert Identity.decode_string(theirs).encode_string() == theirs


async def test_a_thousand_entries_each_way_are_the_same_on_both_sides(serve: Served) -> None:
    """Large ones too, with text in any script, optional fields present and absent; one way is a backlog."""
    async with serve() as url, serve.stock.client() as theirs, our_replica(url, theirs.identity) as ours:
        await theirs.write_notes(1000, "theirs", 200)
        await theirs.write_notes(2, "their large", LARGE)
        await theirs.write(FULL)
        await theirs.write({**BARE, "count": UNDEFINED, "meta": UNDEFINED})
        await theirs.connect(url)
        await theirs.until(pushed=1004)
        await ours.sync.sync_now()
        await write(ours, FULL, BARE, *notes(2, "our large", LARGE), *notes(1000, "ours", 200))
        await same_journal(ours, theirs, 2008)
        await theirs.write({"id": "last", "text": "live"})
        await theirs.until(pushed=1005)
        await same_journal(ours, theirs, 2009)


async def test_both_write_at_the_same_time_through_our_server(stock: StockPeers) -> None:
    """Neither misses an entry, however they come to lie."""
    async with (
        our_server() as server,
        stock.client() as theirs,
        our_replica(server.websocket_url, theirs.identity) as ours,
    ):
        await theirs.connect(server.websocket_url)
        for burst in range(5):
            await asyncio.gather(theirs.write_notes(60, f"theirs {burst}"), write(ours, *notes(60, f"ours {burst}")))
        await theirs.until(pushed=300)
        await same_journal(ours, theirs, 600)


async def test_a_restarted_replica_of_ours_goes_on(serve: Served, tmp_path: Path) -> None:
    """While it was away the stock replica wrote, and so did it before it connected."""
    async with serve() as url, serve.stock.client() as theirs:
        identity = theirs.identity
        await theirs.connect(url)
        async with our_replica(url, identity, SQLiteJournal(tmp_path / "journal")) as ours:
            await write(ours, *notes(150, "before"))
            await ours.sync.sync_now()
            await theirs.until(handled=150)
        await theirs.write_notes(150, "meanwhile")
        await theirs.until(pushed=150)
        async with our_replica(url, identity, SQLiteJournal(tmp_path / "journal")) as ours:
            await write(ours, *notes(150, "after"))
            report = await ours.sync.sync_now()

            assert report.sent == {STORE: 150}
            await same_journal(ours, theirs, 450)


async def test_a_restarted_stock_replica_goes_on(serve_durably: Served) -> None:
    """Killed; its journal is in SQLite, and it asks for no more than it misses."""
    stock = serve_durably.stock
    identity = Identity.generate()
    async with serve_durably() as url, our_replica(url, identity) as ours:
        await write(ours, *notes(100, "ours"))
        await ours.sync.sync_now()
        async with stock.client(identity, "journal.db") as theirs:
            await theirs.connect(url)
            await theirs.until(handled=100)
            await theirs.write_notes(100, "theirs")
            await theirs.until(pushed=100)
            await theirs.process.kill()
        await write(ours, *notes(100, "meanwhile"))
        await ours.sync.sync_now()
        async with stock.client(identity, "journal.db") as theirs:
            await theirs.connect(url)
            await theirs.until(handled=100)
            await theirs.write_notes(100, "again")
            await theirs.until(pushed=100, handled=200)
            await until_count(ours, 400)

            assert (await theirs.entries()).keys() == (await notes_of(ours)).keys()


async def test_a_restarted_server_goes_on(serve_durably: Served, tmp_path: Path) -> None:
    """A stock replica never connects again (W8), so it is restarted as well; ours finds the server by itself."""
    stock = serve_durably.stock
    identity = Identity.generate()

    @contextlib.asynccontextmanager
    async def everyone() -> AsyncIterator[tuple[str, Replica, StockClient]]:
        async with (
            serve_durably() as url,
            our_replica(url, identity, SQLiteJournal(tmp_path / "journal")) as ours,
            stock.client(identity, "journal.db") as theirs,
        ):
            yield url, ours, theirs

    async with everyone() as (url, ours, theirs):
        await write(ours, *notes(100, "ours"))
        await ours.sync.sync_now()
        await theirs.connect(url)
        await theirs.until(handled=100)
        await theirs.write_notes(100, "theirs")
        await theirs.until(handled=200, pushed=100)
        await until_count(ours, 200)
    async with everyone() as (url, ours, theirs):
        await write(ours, *notes(10, "ours again"))
        report = await ours.sync.sync_now()
        await theirs.connect(url)
        await theirs.until(handled=10)

        assert report.sent == {STORE: 10}
        assert (await theirs.entries()).keys() == (await notes_of(ours)).keys()
        assert len(await ours.ids(STORE)) == 210


async def test_a_stock_replica_that_uploads_everything_again_changes_nothing(sqlite_peers: StockPeers) -> None:
    """It does so whenever it forgot a server; ours acknowledges duplicates. (A stock server closes on them.)"""
    identity = Identity.generate()
    async with our_server() as server, our_replica(server.websocket_url, identity) as ours:
        async with sqlite_peers.client(identity, "journal.db") as theirs:
            await write(ours, *notes(50, "ours"))
            await ours.sync.sync_now()
            await theirs.write_notes(50, "theirs")
            await theirs.connect(server.websocket_url)
            await same_journal(ours, theirs, 100)
        with contextlib.closing(sqlite3.connect(sqlite_peers.directory / "journal.db")) as database, database:
            database.execute("DELETE FROM effect_event_remotes")
        before = ours.sync.status.stores[STORE].next_sequence
        async with sqlite_peers.client(identity, "journal.db") as theirs:
            await theirs.write({"id": "new", "text": "among a hundred duplicates"})
            await theirs.connect(server.websocket_url)
            await theirs.until(pushed=101)
            await ours.sync.sync_now()

            assert (await theirs.entries()).keys() == (await notes_of(ours)).keys()
            assert ours.sync.status.stores[STORE].next_sequence == before + 1 == 101


async def test_a_replica_of_ours_that_forgot_a_server_sends_it_no_duplicates(serve: Served) -> None:
    """It reads what the server has first; a stock server would close on a batch of duplicates."""
    async with serve() as url, serve.stock.client() as theirs, our_replica(url, theirs.identity) as ours:
        await theirs.connect(url)
        await write(ours, *notes(300, "note"))
        await ours.sync.sync_now()
        remote_id = bytes.fromhex(ours.sync.status.remote_id or "")
        await ours.sync.disconnect()
        await ours.journal.reset_remote(STORE, remote_id, incarnation=b"")
        await write(ours, {"id": "new", "text": "among duplicates"})
        await ours.sync.connect()
        await ours.sync.sync_now()
        await same_journal(ours, theirs, 301)


async def test_single_small_writes_cross_over_tcp(stock: StockPeers) -> None:
    """
    Each is alone on its way, which is all that a stock replica understands there.

    Not through a stock server: the two messages with which a stock replica begins may already end it.
    """
    async with our_server() as server, stock.client() as theirs:
        assert server.tcp_url is not None
        async with our_replica(server.tcp_url, theirs.identity) as ours:
            await ours.sync.sync_now()
            await theirs.connect(server.tcp_url)
            for turn in range(3):
                await write(ours, {**FULL, "id": f"ours {turn}"})
                await theirs.until(handled=2 * turn + 1)
                await theirs.write({**FULL, "id": f"theirs {turn}"})
                await theirs.until(pushed=turn + 1)
                await ours.until_ids({bytes.fromhex(key) for key in await theirs.entries()}, STORE)
            await same_journal(ours, theirs, 6)
