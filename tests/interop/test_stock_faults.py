"""
Faults of the stock peers that the documentation states and the other tests go around.

They are pinned here so that a new version of the packages that mends one is noticed; see 'Stock peers' in
``docs/reference/protocol.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

import pytest

from agentlayers.eventlog.identity import Identity
from interop.stock_peers import StockPeers, our_server

PING = b"\xde\x00\x02\xa2id\x01\xa4_tag\xa4Ping"


async def test_a_stock_tcp_server_ends_when_two_messages_are_one_read(stock: StockPeers) -> None:
    """So ours sends it nothing before the answer to the message before."""
    async with stock.server(transport="tcp") as server:
        address = urlsplit(server.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(PING + PING)

        assert await server.process.ended() == 1
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_stock_sql_server_gives_no_ack_to_two_hundred_entries(sqlite_peers: StockPeers) -> None:
    """They are stored, and the connection ends; 199 or 201 are taken. Our server takes any number."""
    identity = Identity.generate()
    async with sqlite_peers.server(storage="server.db") as server, sqlite_peers.client(identity) as one:
        await one.write_notes(200, "note")
        await one.process.call("connect", url=server.url)
        async with asyncio.timeout(20):
            while len(await server.entries(identity.public_key)) < 200:  # noqa: ASYNC110 - they are in another process
                await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await one.until(pushed=200)
    async with our_server() as server_of_ours, sqlite_peers.client(identity) as one:
        await one.write_notes(200, "note")
        await one.connect(server_of_ours.websocket_url)
        await one.until(pushed=200)


async def test_a_stock_replica_does_not_connect_again(stock: StockPeers) -> None:
    """Our server is there again on the same port, and nobody comes."""
    async with stock.client() as one:
        async with our_server() as server:
            await one.connect(server.websocket_url)
            port = server.port
        async with our_server(port=port) as server:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await one.until(following=2)

            assert server.connection_count == 0
