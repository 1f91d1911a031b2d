"""A replica and its server that hold different entries find out at the next heartbeat, and mend it."""

import asyncio
import shutil
from pathlib import Path

import pytest

from agentlayers import limits
from agentlayers.journal import MemoryJournal, SQLiteJournal
from agentlayers.server import MemoryServerStorage, SQLiteServerStorage, SyncServer
from agentlayers.server.storage import ServerStorage
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import Replica, replica

CHAT = "chat_history"


@pytest.fixture(autouse=True)
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.1)


def serving(storage: ServerStorage, port: int = 0) -> SyncServer:
    return SyncServer(storage, port=port)


def reach(server: SyncServer) -> WebSocketTransport:
    return WebSocketTransport(server.websocket_url)


async def until_verified(one: Replica, *, after: object = None) -> None:
    await one.until(lambda sync: sync.status.stores[CHAT].last_verified not in (None, after))


async def test_a_heartbeat_confirms_what_both_hold(tmp_path: Path) -> None:
    async with (
        SQLiteServerStorage(tmp_path / "server") as storage,
        serving(storage) as server,
        replica(reach(server), journal=SQLiteJournal(tmp_path / "one")) as one,
        replica(reach(server)) as other,
    ):
        await asyncio.gather(one.write_many(300), other.write_many(200))
        everything = await one.ids() | await other.ids()
        await one.until_ids(everything)
        await other.until_ids(everything)
        await one.until(lambda sync: sync.status.stores[CHAT].next_sequence == 500)
        for each in (one, other):
            await until_verified(each, after=each.sync.status.stores[CHAT].last_verified)
            status = each.sync.status
            assert status.behind == 0
            assert not status.stores[CHAT].is_diverged


@pytest.mark.parametrize("is_the_second_time", [False, True])
async def test_a_server_restored_from_a_backup_that_went_on_is_noticed_and_mended(
    is_the_second_time: bool, tmp_path: Path
) -> None:
    """
    Same ids, same incarnation, a head beyond our cursor: only the digest tells that the history is another.

    Also when it was noticed a moment ago of another backup, and not mended yet.
    """
    live, backup = tmp_path / "live", tmp_path / "backup"
    ours = SQLiteJournal(tmp_path / "one")
    async with (
        SQLiteServerStorage(live) as storage,
        serving(storage) as server,
        replica(reach(server), journal=ours) as one,
    ):
        await one.write_many(5)
        await one.sync.sync_now()
    shutil.copytree(live, backup)
    async with (
        SQLiteServerStorage(live) as storage,
        serving(storage) as server,
        replica(reach(server), journal=ours) as one,
    ):
        await one.write_many(5)
        await one.sync.sync_now()
        held = await one.ids()

    async with SQLiteServerStorage(backup) as storage, serving(storage) as server, replica(reach(server)) as other:
        await other.write_many(7)
        await other.sync.sync_now()
        assert await storage.head("default", other.logs[CHAT].public_key) == 12
        async with replica(reach(server), journal=ours) as one:
            if is_the_second_time:
                (remote,) = one.sync._remotes.values()
                registration = remote.registrations[CHAT]
                registration.is_diverged, registration.diverged_at = True, asyncio.get_running_loop().time()
            everything = held | await other.ids()
            await one.until_ids(everything)
            await other.until_ids(everything)
            await until_verified(one)

            assert await one.ids() == await other.ids() == everything
            assert len(everything) == 17
            assert not one.sync.status.stores[CHAT].is_diverged


async def test_a_server_that_forgets_a_subscriber_is_asked_again() -> None:
    """Staleness shows within one heartbeat; within two the replica reads again from its cursor."""
    async with (
        MemoryServerStorage() as storage,
        serving(storage) as server,
        replica(reach(server)) as one,
        replica(reach(server)) as other,
    ):
        await one.until(lambda sync: sync.status.is_connected and sync.status.stores[CHAT].pending == 0)
        await asyncio.sleep(0.05)
        (channel,) = server._hub._channels.values()
        channel.subscriptions.clear()
        await other.write("nobody is told")
        await one.until(lambda sync: sync.status.behind == 1)

        await one.until_ids(await other.ids())
        await one.until(lambda sync: sync.status.behind == 0)


async def test_a_journal_of_an_older_release_takes_the_servers_digest_as_its_start() -> None:
    journal = MemoryJournal()
    async with MemoryServerStorage() as storage, serving(storage) as server, replica(reach(server)) as one:
        await one.write_many(10)
        await one.sync.sync_now()
        async with replica(reach(server), journal=journal) as other:
            await other.until_ids(await one.ids())
            await other.sync.sync_now()
            remote_id = bytes.fromhex(other.sync.status.remote_id or "")
            name = f"remote_known:{CHAT}:{remote_id.hex()}"
            await other.sync.disconnect()
            before = other.sync.status.stores[CHAT].last_verified
            await journal.transact(lambda tx: tx.put_setting(name, b""))
            await other.sync.connect()
            await until_verified(other, after=before)
            kept = await journal.read(lambda tx: tx.get_setting(name))
            expected = await storage.digest("default", other.logs[CHAT].public_key, 10)

            assert kept is not None
            assert kept[16:] == expected


class LyingStorage(MemoryServerStorage):
    """Claims another history than it sends."""

    async def digest(self, tenant: str, public_key: str, sequence: int) -> bytes | None:
        return b"not what it sent"


async def test_a_server_that_goes_on_claiming_something_else_is_reported_and_not_fought() -> None:
    """Everything is exchanged again once; what cannot be mended stays visible, and the sync goes on."""
    async with LyingStorage() as storage, serving(storage) as server, replica(reach(server)) as one:
        await one.write_many(3)
        await one.until(lambda sync: sync.status.stores[CHAT].is_diverged)
        await one.until(lambda sync: sync.status.is_connected and sync.status.stores[CHAT].next_sequence == 3)
        await asyncio.sleep(0.2)
        await one.until(lambda sync: sync.status.is_connected)
        connected_since = one.sync.status.since
        await asyncio.sleep(0.4)
        await one.write("still replicated")
        await one.until_pushed()

        assert one.sync.status.since == connected_since
        assert one.sync.status.stores[CHAT].is_diverged
        assert one.sync.status.stores[CHAT].last_verified is None
