"""A replica of ours between our server and the stock one, each with a replica of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.sync_world import Replica
from interop.stock_peers import STORE, StockPeers, notes_of, our_replica, our_server

COUNT = 150


async def write_notes(one: Replica, prefix: str) -> None:
    """Write notes in one transaction."""

    def work(tx: Any) -> None:
        for number in range(COUNT):
            tx.write(STORE, "note", f"{prefix}-{number}", {"id": f"{prefix}-{number}", "text": prefix})

    await one.logs[STORE].transact(work)


async def until_held(one: Replica, ids: set[str]) -> None:
    """Wait until a replica of ours has some entries."""
    async with asyncio.timeout(30):
        while not ids <= set(await notes_of(one)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("transport", ["websocket", "tcp"])
async def test_a_stock_replica_and_one_of_ours_meet_over_two_servers(stock: StockPeers, transport: str) -> None:
    """With ``relay`` switched on, because a stock server is not relayed to otherwise; every entry arrives once."""
    async with (
        our_server() as ours,
        stock.server() as theirs,
        stock.client() as stock_replica,
        our_replica(ours.websocket_url, stock_replica.identity) as one,
        our_replica(
            (ours.tcp_url or "") if transport == "tcp" else ours.websocket_url,
            stock_replica.identity,
            remotes=[theirs.url],
            relay=True,
        ) as bridge,
    ):
        await stock_replica.connect(theirs.url)
        await bridge.sync.sync_now()
        await asyncio.gather(
            write_notes(one, "one"), write_notes(bridge, "bridge"), stock_replica.write_notes(COUNT, "stock")
        )
        await stock_replica.until(handled=3 * COUNT)
        written = await stock_replica.entries()
        await until_held(one, set(written))
        await bridge.sync.sync_now()
        stored = await theirs.entries(stock_replica.identity.public_key)

        assert {entry.copies for entry in written.values()} == {1}
        assert len(written) == 3 * COUNT
        assert written.keys() == (await notes_of(one)).keys() == (await notes_of(bridge)).keys()
        assert len(stored) == len({entry["id"] for entry in stored}) == 3 * COUNT


async def test_a_stock_server_gets_own_entries_only_by_default(stock: StockPeers) -> None:
    """What is written there comes to ours all the same."""
    async with (
        our_server() as ours,
        stock.server() as theirs,
        stock.client() as stock_replica,
        our_replica(ours.websocket_url, stock_replica.identity) as one,
        our_replica(ours.websocket_url, stock_replica.identity, remotes=[theirs.url]) as bridge,
    ):
        await stock_replica.connect(theirs.url)
        await write_notes(one, "one")
        await one.sync.sync_now()
        await write_notes(bridge, "bridge")
        await stock_replica.write_notes(COUNT, "stock")
        await stock_replica.until(handled=2 * COUNT)
        await until_held(one, set(await stock_replica.entries()))
        await bridge.sync.sync_now()

        assert len(await notes_of(one)) == 3 * COUNT
        assert len(await stock_replica.entries()) == 2 * COUNT
