"""Directories that go back in time or are copied: a server's, a replica's. Nothing is lost, nothing collides."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentlayers import limits
from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.journal import EventJournal, KeyValueJournal, SQLiteJournal
from agentlayers.key_value import FileSystemKeyValueStore
from agentlayers.schedule import fixed
from agentlayers.server import MemoryServerStorage, SQLiteServerStorage, SyncServer
from agentlayers.server.storage import ServerStorage
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifact_chunk import CONTENT_STORE
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.sync.flags import SyncFlag
from agentlayers.sync.service import SyncService
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import IDENTITY, Replica, replica

CHAT = "chat_history"
JournalIn = Callable[[Path], contextlib.AbstractAsyncContextManager[EventJournal]]
KEY = IDENTITY.for_store(CHAT).public_key


@pytest.fixture(autouse=True)
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.1)


def reach(server: SyncServer) -> WebSocketTransport:
    return WebSocketTransport(server.websocket_url)


@contextlib.asynccontextmanager
async def serving(directory: Path, port: int = 0) -> AsyncIterator[tuple[SyncServer, ServerStorage]]:
    async with SQLiteServerStorage(directory) as storage, SyncServer(storage, port=port) as server:
        yield server, storage


def put_back(backup: Path, live: Path) -> None:
    shutil.rmtree(live)
    shutil.copytree(backup, live)


# -- a server that goes back ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def with_artifacts(directory: Path, server: SyncServer) -> AsyncIterator[tuple[ArtifactStore, SyncService]]:
    flags: dict[str, SyncFlag] = {"artifacts": True, "artifact_content": "on_demand"}
    sync = SyncService(reach(server), AesGcmEncryption(), stores=flags, schedule=fixed(0.01))
    async with SQLiteJournal(directory) as journal, sync, ArtifactStore(journal, IDENTITY, sync=sync) as artifacts:
        yield artifacts, sync


async def put(artifacts: ArtifactStore, name: str) -> bytes:
    content = random.Random(name).randbytes(3_000_000)

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    await artifacts.put_stream(ArtifactRecord(id=name, session_id="s", kind="file", content=b""), pieces())
    return content


async def test_a_server_that_lost_content_on_demand_gets_it_again(tmp_path: Path) -> None:
    """Nobody follows it, so nothing but the loss of what is followed tells that it may be gone."""
    live, backup = tmp_path / "live", tmp_path / "backup"
    async with serving(live) as (server, _), with_artifacts(tmp_path / "one", server) as (one, sync):
        await put(one, "before the backup")
        await sync.sync_now()
    shutil.copytree(live, backup)
    async with serving(live) as (server, _), with_artifacts(tmp_path / "one", server) as (one, sync):
        content = await put(one, "after it")
        await sync.sync_now()
    put_back(backup, live)
    async with serving(live) as (server, storage):
        async with with_artifacts(tmp_path / "one", server) as (one, sync):
            (log,) = (log for log in one.further_logs() if log.store == CONTENT_STORE)
            async with asyncio.timeout(20):
                while await storage.head("default", log.public_key) < 14:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        async with with_artifacts(tmp_path / "other", server) as (other, sync):
            await sync.sync_now()

            assert b"".join([piece async for piece in other.open("after it")]) == content


@contextlib.asynccontextmanager
async def ahead_of_backup(
    live: Path, backup: Path, journal: SQLiteJournal
) -> AsyncIterator[tuple[SyncServer, Replica]]:
    """A server and its replica, which has written five more since the server's data was copied."""
    async with serving(live) as (server, _), replica(reach(server), journal=journal) as one:
        await one.write_many(3)
        await one.sync.sync_now()
    shutil.copytree(live, backup)
    async with serving(live) as (server, _), replica(reach(server), journal=journal) as one:
        await one.write_many(5)
        await one.sync.sync_now()
        yield server, one


async def test_a_server_restored_twice_in_a_row_gets_back_what_it_lost_both_times(tmp_path: Path) -> None:
    """The second time while the first is not verified yet."""
    live, backup = tmp_path / "live", tmp_path / "backup"
    journal = SQLiteJournal(tmp_path / "one")
    async with ahead_of_backup(live, backup, journal) as (server, one):
        port, held = server.port, await one.ids()
    put_back(backup, live)
    async with replica(reach(server), journal=journal) as one:
        for _ in range(2):
            async with serving(live, port) as (_, storage), asyncio.timeout(10):
                while await storage.head("default", KEY) < len(held):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            put_back(backup, live)
        async with serving(live, port) as (_, storage):
            await one.sync.sync_now()
            await one.until(lambda sync: sync.status.stores[CHAT].last_verified is not None)
            await one.until(lambda sync: not sync.status.stores[CHAT].is_diverged)

            assert await storage.head("default", KEY) == len(held)


async def test_a_server_that_has_less_is_noticed_although_no_digest_is_known(tmp_path: Path) -> None:
    """After an upgrade, say: no digest on one side and none on the other are no proof of anything."""
    live, backup = tmp_path / "live", tmp_path / "backup"
    journal = SQLiteJournal(tmp_path / "one")
    async with ahead_of_backup(live, backup, journal) as (server, one):
        remote_id = one.sync.status.remote_id
        await one.sync.disconnect()
        await one.journal.transact(lambda tx: tx.put_setting(f"remote_known:{CHAT}:{remote_id}", b""))
    put_back(backup, live)
    async with serving(live) as (server, storage), replica(reach(server), journal=journal) as one:
        async with asyncio.timeout(10):
            while await storage.head("default", KEY) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await one.until(lambda sync: sync.status.stores[CHAT].last_verified is not None)

        assert await storage.head("default", KEY) == 8


class DamagedStorage(MemoryServerStorage):
    """Has lost the digest of what it holds; of nothing at all it still knows it."""

    async def digest(self, tenant: str, public_key: str, sequence: int) -> bytes | None:
        right = await super().digest(tenant, public_key, sequence)
        return right if sequence == 0 else bytes(16)


async def test_a_server_with_a_damaged_digest_is_not_sent_everything_at_every_heartbeat() -> None:
    async with DamagedStorage() as storage, SyncServer(storage, port=0) as server, replica(reach(server)) as one:
        await one.write_many(3)
        await one.until(lambda sync: sync.status.stores[CHAT].is_diverged)
        await asyncio.sleep(0.2)
        await one.until(lambda sync: sync.status.is_connected and sync.status.stores[CHAT].next_sequence == 3)
        connected_since, verified = one.sync.status.since, one.sync.status.stores[CHAT].last_verified
        await asyncio.sleep(0.5)

        assert one.sync.status.since == connected_since
        assert one.sync.status.stores[CHAT].is_diverged
        assert one.sync.status.stores[CHAT].last_verified == verified


# -- a replica that goes back, or is copied ------------------------------------------------------------------------


async def exchanged(*replicas: Replica) -> None:
    for _ in range(2):
        for one in replicas:
            await one.sync.sync_now()


async def test_a_replica_restored_from_an_older_copy_gets_back_what_it_wrote_and_collides_with_nothing(
    tmp_path: Path,
) -> None:
    home, backup = tmp_path / "home", tmp_path / "backup"
    async with serving(tmp_path / "server") as (server, storage), replica(reach(server)) as other:
        async with replica(reach(server), journal=SQLiteJournal(home)) as one:
            await one.write_many(4)
            await exchanged(one, other)
        shutil.copytree(home, backup)
        async with replica(reach(server), journal=SQLiteJournal(home)) as one:
            await asyncio.gather(one.write_many(6), other.write_many(5))
            await exchanged(one, other)
            held = await one.ids()
        put_back(backup, home)
        async with replica(reach(server), journal=SQLiteJournal(home)) as one:
            # As many as were lost, so that every position and every sequence is used a second time.
            await one.write_many(6)
            held |= await one.ids()
            await exchanged(one, other)

            assert len(held) == 21
            assert await one.ids() == await other.ids() == held
            assert await storage.head("default", KEY) == 21
            assert (await one.sync.refresh()).pending == 0
            await one.until(lambda sync: sync.status.stores[CHAT].last_verified is not None)
            assert not one.sync.status.stores[CHAT].is_diverged


async def test_a_replica_copied_to_a_second_machine_and_both_used_keep_what_both_write(tmp_path: Path) -> None:
    """With entries that neither had sent at the time of the copy."""
    first, second = tmp_path / "first", tmp_path / "second"
    async with serving(tmp_path / "server") as (server, storage):
        async with replica(reach(server), journal=SQLiteJournal(first)) as one:
            await one.write_many(4)
            await one.sync.sync_now()
            await one.sync.disconnect()
            await one.write_many(3)
        shutil.copytree(first, second)
        async with (
            replica(reach(server), journal=SQLiteJournal(first)) as one,
            replica(reach(server), journal=SQLiteJournal(second)) as copy,
        ):
            for _ in range(3):
                await asyncio.gather(one.write_many(5), copy.write_many(5))
            held = await one.ids() | await copy.ids()
            await exchanged(one, copy)

            assert len(held) == 37
            assert await one.ids() == await copy.ids() == held
            assert await storage.head("default", KEY) == 37


@contextlib.asynccontextmanager
async def key_value_files(directory: Path) -> AsyncIterator[EventJournal]:
    async with FileSystemKeyValueStore(directory) as store, KeyValueJournal(store) as journal:
        yield journal


@contextlib.asynccontextmanager
async def artifacts_of(
    directory: Path, server: SyncServer, keep: JournalIn = SQLiteJournal
) -> AsyncIterator[tuple[ArtifactStore, SyncService]]:
    sync = SyncService(reach(server), AesGcmEncryption(), stores={"artifacts": True}, schedule=fixed(0.01))
    async with keep(directory) as journal, sync, ArtifactStore(journal, IDENTITY, sync=sync) as artifacts:
        yield artifacts, sync


async def put_text(artifacts: ArtifactStore, text: str) -> None:
    await artifacts.put(ArtifactRecord(id="plan", session_id="s", kind="other", content=text))


@pytest.mark.parametrize("keep", [SQLiteJournal, key_value_files])
@pytest.mark.parametrize("way", ["copied", "restored"])
async def test_what_a_copy_wrote_never_counts_as_seen_because_the_original_was(
    tmp_path: Path, way: str, keep: JournalIn
) -> None:
    """
    Both would write under one name, of which others know no more than the highest entry they saw.

    A third replica that answers the later write has not seen the earlier one, which it never met.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    async with serving(tmp_path / "server") as (server, _):
        async with artifacts_of(first, server, keep) as (one, sync):
            await put_text(one, "to begin with")
            await sync.sync_now()
        shutil.copytree(first, second)
        if way == "restored":  # the copy is the backup, and takes the place of the first
            first, second = second, first
        async with (
            artifacts_of(first, server, keep) as (one, sync_one),
            artifacts_of(second, server, keep) as (copy, sync_copy),
            artifacts_of(tmp_path / "third", server) as (third, sync_third),
        ):
            await sync_one.disconnect()
            await put_text(one, "what the first wrote")
            await asyncio.sleep(0.002)
            await put_text(copy, "what the copy wrote")
            await sync_copy.sync_now()
            await sync_third.sync_now()
            await put_text(third, "an answer to the copy")
            await sync_third.sync_now()
            await sync_one.sync_now()
            for sync in (sync_copy, sync_third, sync_one):
                await sync.sync_now()
            heads = [
                {each.record.content for each in await store.versions("plan") if each.is_head and each.record}
                for store in (one, copy, third)
            ]

            assert heads == [{"what the first wrote", "an answer to the copy"}] * 3
