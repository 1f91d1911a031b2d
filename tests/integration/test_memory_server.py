"""Replicas and a server in one process, without a socket: the same sessions, hub and journals."""

import asyncio

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption, Encryption
from agentlayers.errors import SettingsError
from agentlayers.server import MemoryServer
from agentlayers.sync.service import SyncService
from agentlayers.sync.status import SyncState
from helpers.sync_world import replica


async def test_replicas_converge_and_leave_nothing_behind() -> None:
    """Bursts larger than what may wait in a queue go through, too."""
    async with (
        MemoryServer() as server,
        replica(server.transport()) as one,
        replica(server.transport()) as other,
    ):
        await asyncio.gather(one.write_many(3000, size=500), other.write_many(2000, size=500))
        everything = await one.ids() | await other.ids()
        await one.until_ids(everything)
        await other.until_ids(everything)

        assert len(await one.ids()) == len(await other.ids()) == 5000
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_late_joiner_gets_a_backlog_far_larger_than_its_queue() -> None:
    async with MemoryServer() as server:
        async with replica(server.transport()) as one:
            await one.write_many(20_000, size=300)
            await one.sync.sync_now()
            everything = await one.ids()
        async with replica(server.transport()) as late:
            await late.sync.sync_now()

            assert await late.ids() == everything


async def test_two_remotes_at_once_each_keep_their_own_place() -> None:
    """One journal, a service for each server; what is written goes to both."""
    async with (
        MemoryServer() as server,
        MemoryServer() as second,
        replica(server.transport()) as one,
        SyncService(second.transport(), AesGcmEncryption(), stores={"chat_history": True}) as backup,
        replica(second.transport()) as other,
    ):
        unregister = backup.register(one.logs["chat_history"])
        await one.write_many(100)
        await other.until_ids(await one.ids())
        await one.sync.sync_now()
        report = await backup.sync_now()
        await unregister()

        assert one.sync.status.pending == backup.status.pending == 0
        assert report.received["chat_history"] == 0


async def test_the_layer_connects_to_the_server_given() -> None:
    async with MemoryServer() as server:
        layer = SyncService.layer_memory(server.serve).provide(Encryption.layer_aes_gcm())
        async with layer.build(SyncService) as sync:
            status = await sync.connect()

            assert status.state is SyncState.CONNECTED
            assert not status.is_stock


async def test_a_server_that_is_closed_refuses() -> None:
    server = MemoryServer()
    async with replica(server.transport()) as one:
        await one.until(lambda sync: sync.status.state is SyncState.WAITING)


@pytest.mark.parametrize("url", ["ftp://host", "host:1", "ws:/x", ""])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="ws://"):
        SyncService.with_remote_sync(url)


@pytest.mark.parametrize("url", ["ws://h:1", "wss://h", "tcp://h:1", "tls://h:1"])
async def test_an_address_says_how_to_connect(url: str) -> None:
    layer = SyncService.with_remote_sync(url, token="t", tenant="a", schedule=None).provide(Encryption.layer_aes_gcm())
    async with layer.build(SyncService) as sync:
        assert sync.url.startswith(url)
