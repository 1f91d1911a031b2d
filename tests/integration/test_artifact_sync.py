"""Large artifacts between replicas with durable journals, through the real server over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.errors import SettingsError, StorageUnavailableError
from agentlayers.journal import SQLiteJournal
from agentlayers.limits import ARTIFACT_CHUNK_BYTES
from agentlayers.schedule import fixed
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifact_chunk import CONTENT_STORE
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.sync.flags import SyncFlag
from agentlayers.sync.service import SyncService
from agentlayers.transport.offline import OfflineTransport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import IDENTITY

SIZE = 5_000_000


@contextlib.asynccontextmanager
async def replica(
    directory: Path, url: str, *, content: SyncFlag = True
) -> AsyncIterator[tuple[ArtifactStore, SyncService]]:
    """Open a replica that syncs its artifacts."""
    flags = {"artifacts": True, "artifact_content": content}
    sync = SyncService(WebSocketTransport(url), AesGcmEncryption(), stores=flags, schedule=fixed(0.01))
    async with (
        SQLiteJournal(directory) as journal,
        sync,
        ArtifactStore(journal, IDENTITY, sync=sync) as artifacts,
    ):
        yield artifacts, sync


async def stream(seed: int) -> AsyncIterator[bytes]:
    chance = random.Random(seed)
    for _ in range(SIZE // 50_000):
        yield chance.randbytes(50_000)


async def complete(artifacts: ArtifactStore, name: str) -> bytes:
    """Wait until an artifact is complete, woken by commits."""
    committed = asyncio.Event()
    stop = artifacts.journal.on_commit(lambda commit: committed.set())
    try:
        async with asyncio.timeout(30):
            while True:
                record = await artifacts.get(name, with_content=False)
                if record is not None and record.is_complete:
                    return b"".join([piece async for piece in artifacts.open(name)])
                await committed.wait()
                committed.clear()
    finally:
        stop()


async def test_large_artifacts_reach_replicas_that_are_connected_and_one_that_comes_late(tmp_path: Path) -> None:
    """The same content is sent once; a deletion frees its space where it was acknowledged."""
    sent = b"".join([piece async for piece in stream(1)])
    async with MemoryServerStorage() as storage, SyncServer(storage, auth=None, port=0) as server:
        url = server.websocket_url
        async with replica(tmp_path / "a", url) as (a, sync_a), replica(tmp_path / "b", url) as (b, _):
            await a.put_stream(ArtifactRecord(id="one", session_id="s", kind="file", content=b""), stream(1))

            assert await complete(b, "one") == sent
            await b.put_stream(ArtifactRecord(id="two", session_id="t", kind="file", content=b""), stream(1))
            assert await complete(a, "two") == sent
            entries = await a.journal.entries()
            assert len(entries) == -(-SIZE // ARTIFACT_CHUNK_BYTES) + 2
            await sync_a.sync_now()
        async with replica(tmp_path / "late", url) as (late, _):
            assert await complete(late, "two") == sent
            await late.purge_session("s")
            await late.purge_session("t")
            report = await late.cleanup()
            assert report is not None
            assert report.dropped == -(-SIZE // ARTIFACT_CHUNK_BYTES)


async def put(artifacts: ArtifactStore, name: str, seed: int) -> bytes:
    await artifacts.put_stream(ArtifactRecord(id=name, session_id="s", kind="file", content=b""), stream(seed))
    return b"".join([piece async for piece in stream(seed)])


async def read(artifacts: ArtifactStore, name: str) -> bytes:
    return b"".join([piece async for piece in artifacts.open(name)])


async def held(artifacts: ArtifactStore) -> int:
    """Count the pieces of content that are here."""
    return len(await artifacts.journal.entries(CONTENT_STORE))


async def test_content_on_demand_comes_when_it_is_opened_and_only_what_is_opened(tmp_path: Path) -> None:
    pieces = -(-SIZE // ARTIFACT_CHUNK_BYTES)
    async with MemoryServerStorage() as storage, SyncServer(storage, auth=None, port=0) as server:
        url = server.websocket_url
        async with (
            replica(tmp_path / "writer", url) as (writer, sync_writer),
            replica(tmp_path / "lazy", url, content="on_demand") as (lazy, sync_lazy),
        ):
            sent = [await put(writer, name, seed) for seed, name in enumerate(("one", "two"))]
            await sync_writer.sync_now()
            await sync_lazy.sync_now()
            listed = await lazy.list("s")
            before = await held(lazy)
            first = await read(lazy, "two")

            assert [(one.id, one.is_complete, one.size_bytes) for one in listed] == [
                ("one", False, SIZE),
                ("two", False, SIZE),
            ]
            assert (before, await held(lazy)) == (0, pieces)
            assert first == sent[1]
            assert await read(lazy, "two") == first  # fetched once
            assert await held(lazy) == pieces
            # What it writes itself reaches the others, and its own content never comes back to it.
            own = await put(lazy, "own", 7)
            await sync_lazy.sync_now()
            await sync_writer.sync_now()
            assert await read(writer, "own") == own
            assert await held(lazy) == 2 * pieces
            assert not any(status.is_diverged for status in sync_lazy.status.stores.values())


async def test_content_that_cannot_be_fetched_says_why_and_comes_later(tmp_path: Path) -> None:
    async with MemoryServerStorage() as storage, SyncServer(storage, auth=None, port=0) as server:
        url, port = server.websocket_url, server.port
        async with (
            replica(tmp_path / "writer", url) as (writer, sync_writer),
            replica(tmp_path / "lazy", url, content="on_demand") as (lazy, sync_lazy),
        ):
            sent = await put(writer, "one", 1)
            await sync_writer.sync_now()
            await sync_lazy.sync_now()
            await sync_lazy.disconnect()
            await server.__aexit__(None, None, None)
            with pytest.raises(StorageUnavailableError, match="cannot be fetched: cannot connect"):
                await read(lazy, "one")
            async with SyncServer(storage, auth=None, port=port):
                assert await read(lazy, "one") == sent


async def test_a_replica_that_turns_to_all_content_gets_what_it_had_passed_over(tmp_path: Path) -> None:
    async with MemoryServerStorage() as storage, SyncServer(storage, auth=None, port=0) as server:
        url = server.websocket_url
        async with replica(tmp_path / "writer", url) as (writer, sync):
            sent = await put(writer, "one", 1)
            await sync.sync_now()
        async with replica(tmp_path / "other", url, content="on_demand") as (artifacts, sync):
            await put(artifacts, "two", 2)
            await sync.sync_now()
            assert await held(artifacts) == -(-SIZE // ARTIFACT_CHUNK_BYTES)
        async with replica(tmp_path / "other", url) as (artifacts, sync):
            await sync.sync_now()
            record = await artifacts.get("one", with_content=False)
            assert record is not None
            assert record.is_complete
            assert await read(artifacts, "one") == sent


async def test_on_demand_is_for_content_only() -> None:
    with pytest.raises(SettingsError, match="on_demand is for artifact_content"):
        SyncService(OfflineTransport(), AesGcmEncryption(), stores={"chat_history": "on_demand"})
