"""Over real sockets: a reader that takes nothing costs the server nothing, and still hears its heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from agentlayers.limits import CREDIT_ENTRY_BYTES
from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.credit import cost_of
from agentlayers.protocol.events import ChangesReceived, PongReceived
from agentlayers.protocol.messages import Credit
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.wire_client import Client, stream_client, websocket_client

Connect = Callable[[SyncServer], AbstractAsyncContextManager[Client]]
SIZE = 50_000


@pytest.fixture
async def server() -> AsyncIterator[SyncServer]:
    async with SyncServer(MemoryServerStorage(), port=0, tcp_port=0) as made:
        yield made


@pytest.fixture(params=[websocket_client, stream_client], ids=["websocket", "tcp"])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_a_reader_that_grants_nothing_is_kept_for_nothing_and_hears_its_heartbeat(
    server: SyncServer, connect: Connect
) -> None:
    async with connect(server) as reader, websocket_client(server) as writer:
        await reader.hello()
        await writer.hello()
        reader.session.request_changes("key", 0, 1)
        reader.session.request_changes("small", 0, 10 * CREDIT_ENTRY_BYTES)
        await reader.flush()
        await reader.pong()
        for number in range(0, 400, 20):
            await writer.write(sealed_entries(20, first=number, size=SIZE))
        await writer.write(sealed_entries(1), "small")
        async with asyncio.timeout(2):
            reader.session.ping()
            await reader.flush()
            await reader.next(PongReceived)
            first = [await reader.next(ChangesReceived) for _ in range(2)]

        assert sorted(len(event.entries) for event in first) == [1, 1]
        assert {event.public_key for event in first} == {"key", "small"}
        assert max(connection._outbox.size for connection in server._connections) == 0

        seen, taken = 1, cost_of(next(event for event in first if event.public_key == "key").entries)
        while seen < 400:
            reader.session.grant_credit("key", taken)
            await reader.flush()
            event = await reader.next(ChangesReceived)
            assert [entry.sequence for entry in event.entries] == list(range(seen, seen + len(event.entries)))
            seen, taken = seen + len(event.entries), cost_of(event.entries)


async def test_a_nonsense_grant_ends_the_connection_and_no_other(server: SyncServer, connect: Connect) -> None:
    async with connect(server) as bad, connect(server) as good:
        await bad.hello()
        await good.hello()
        bad.session.request_changes("key", 0)
        await bad.flush()
        await bad.socket.send(encode_message(Credit("key", 5)))
        closed = await bad.closed()
        await good.pong()

    assert closed.code in (1002, None)
