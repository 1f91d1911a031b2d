"""What another process does to the journal, and a server to the connection, while something is exchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentlayers.errors import AgentLayersError, StateError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.schedule import fixed
from agentlayers.server import MemoryServer
from agentlayers.server.close import CloseReason
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, Peer, SmallServer, replica

STORE = "chat_history"
KEYS = IDENTITY.for_store(STORE)


@pytest.mark.parametrize("is_stock", [False, True], ids=["ours", "stock"])
async def test_a_cursor_that_another_process_set_back_stays_there(is_stock: bool) -> None:
    """It reads anew from there, with another key perhaps; what comes here meanwhile must not take it past that."""
    server = SmallServer(is_stock=is_stock)
    async with replica(MemoryTransport(server.serve)) as writer, replica(MemoryTransport(server.serve)) as one:
        await writer.write_many(5)
        await writer.sync.sync_now()
        await one.sync.sync_now()
        await one.journal.reset_remote(STORE, server.remote_id, incarnation=b"" if is_stock else server.incarnation)
        late = await writer.write("late")
        await one.until_ids({late})
        await one.write("ours")
        await one.until_pushed()
        state = await one.journal.remote_state(STORE, server.remote_id)
        await one.sync.disconnect()
        await one.sync.connect()
        async with asyncio.timeout(10):
            await server.heard.until(lambda: server.requests[-1] == (KEYS.public_key, 0))

    assert state.next_sequence == 0


async def test_a_server_that_breaks_off_each_time_is_not_stormed_by_an_exchange() -> None:
    """The first attempt is made at once, the others when the schedule says so."""

    class Breaking(SmallServer):
        async def _handle(self, peer: Peer, event: object) -> None:
            await peer.connection.close(1006, "on purpose")

    server = Breaking()
    transport = MemoryTransport(server.serve)
    async with replica(transport, schedule=fixed(0.2)) as one:
        with pytest.raises(AgentLayersError):
            await one.sync.sync_now(1.0)

    assert 2 <= transport.connections <= 8


async def test_what_is_fetched_comes_though_the_connection_breaks_meanwhile() -> None:
    """As when another store of the replica is opened again."""
    name = "artifact_content"
    async with MemoryServer() as server:
        async with replica(server.transport(), names=[name], stores={name: True}) as writer:
            written = [await writer.write(f"piece {number}", name) for number in range(200)]
            await writer.sync.sync_now()
        async with replica(server.transport(), names=[name], stores={name: "on_demand"}) as one:
            await one.sync.connect()
            real = one.journal.transact

            async def transact(work: Callable[[Any], Any]) -> Any:
                one.journal.transact = real  # type: ignore[method-assign]
                for connection in list(server._connections):
                    connection.end(CloseReason.GOING_AWAY)
                return await real(work)

            one.journal.transact = transact  # type: ignore[method-assign]

            assert await one.sync.fetch(name, written) == []
            assert await one.ids(name) == {*written}


async def test_a_store_that_is_closed_while_it_is_fetched_from_is_told_of() -> None:
    name = "artifact_content"
    async with MemoryServer() as server, replica(server.transport(), names=[name], stores={name: "on_demand"}) as one:
        await one.sync.disconnect()
        fetching = asyncio.create_task(one.sync.fetch(name, [bytes(16)]))
        await asyncio.sleep(0)  # it waits for the connection
        await one.unregister.pop(name)()

        with pytest.raises(StateError, match="was closed meanwhile"):
            await fetching


async def test_a_store_whose_key_cannot_be_used_does_not_keep_the_others_from_being_synced() -> None:
    """Its status says why, and so does an exchange; the connection stays."""
    server = SmallServer()
    transport = MemoryTransport(server.serve)
    identity = Identity(IDENTITY.public_key, IDENTITY.private_key, {STORE: Identity(KEYS.public_key, bytes(20))})
    async with replica(transport, names=("audit_log", STORE), identity=identity) as one:
        await one.write("kept")
        others = {await one.write("sent", "audit_log") for _ in range(3)}
        await one.until(lambda sync: sync.status.stores[STORE].last_error is not None)
        await one.until_pushed("audit_log")
        with pytest.raises(UsageError, match="not 20"):
            await one.sync.sync_now()

        assert "not 20" in str(one.sync.status.stores[STORE].last_error)
        assert one.sync.status.stores[STORE].pending == 1
    assert {*server.sent_ids} == others
    assert transport.connections == 1
