"""A disk that is full at a server or a replica: said plainly, mended by room alone, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlayers.errors import AgentLayersError, StorageError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal import MemoryJournal, SQLiteJournal
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.limits import KIB
from agentlayers.server import MemoryServerStorage, SQLiteServerStorage, SyncServer
from agentlayers.transport.websocket import WebSocketTransport
from helpers.small_disk import SmallDisk, mounted
from helpers.sync_world import IDENTITY, replica

CHAT, AUDIT = "chat_history", "audit_log"
ENTRIES, SIZE = 60, 64 * KIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", size="2m") as disk:
        yield disk


async def test_a_server_whose_disk_is_full_takes_the_rest_once_there_is_room(disk: SmallDisk) -> None:
    async with SQLiteServerStorage(disk.path) as storage, SyncServer(storage, port=0) as server:
        url = server.websocket_url
        async with replica(WebSocketTransport(url)) as one, replica(WebSocketTransport(url)) as other:
            await one.write_many(ENTRIES, size=SIZE)
            with pytest.raises(AgentLayersError):
                await one.sync.sync_now(2)
            pending = (await one.sync.refresh()).pending
            assert 0 < pending <= ENTRIES
            # Who has nothing to write still reads what there is.
            await other.sync.sync_now()
            assert len(await other.ids()) >= ENTRIES - pending
            disk.change("size=64m")
            await one.sync.sync_now()
            await other.sync.sync_now()

            assert await other.ids() == await one.ids()
            assert len(await other.ids()) == ENTRIES
            assert (await one.sync.refresh()).pending == 0
            assert await storage.head("default", IDENTITY.for_store(CHAT).public_key) == ENTRIES


async def test_a_replica_whose_disk_is_full_says_so_and_goes_on_with_its_other_stores(disk: SmallDisk) -> None:
    """The store behind it catches up as soon as it can be written."""
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0) as server:
        transport = WebSocketTransport(server.websocket_url)
        async with (
            replica(transport, names=(CHAT, AUDIT)) as other,
            SQLiteJournal(disk.path) as small,
            replica(transport, names=(AUDIT,), journal=MemoryJournal()) as one,
        ):
            log = EventLog(small, IDENTITY, StoreSchema(name=CHAT))
            await log.open()
            unregister = one.sync.register(log)
            await one.sync.sync_now()
            await other.write_many(ENTRIES, size=SIZE)
            await one.until(lambda sync: sync.status.stores[CHAT].last_error is not None)
            heard = await other.write("of another store", AUDIT)
            await one.until_ids({heard}, AUDIT)
            with pytest.raises(StorageError):
                await one.sync.sync_now(10)
            assert one.sync.status.is_connected
            disk.change("size=64m")
            await one.sync.sync_now()

            assert len(await small.entries(CHAT, entries_max=1000)) == ENTRIES
            assert one.sync.status.stores[CHAT].last_error is None
            await asyncio.wait_for(unregister(), 5)
