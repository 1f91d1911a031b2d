"""Large artifacts between replicas with durable journals, through the real server over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.journal import SQLiteJournal
from agentlayers.limits import ARTIFACT_CHUNK_BYTES
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.sync.schedule import fixed
from agentlayers.sync.service import SyncService
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import IDENTITY

SIZE = 5_000_000


@contextlib.asynccontextmanager
async def replica(directory: Path, url: str) -> AsyncIterator[tuple[ArtifactStore, SyncService]]:
    """Open a replica that syncs its artifacts."""
    sync = SyncService(WebSocketTransport(url), AesGcmEncryption(), stores={"artifacts": True}, schedule=fixed(0.01))
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
            entries = await a.journal.entries("artifacts")
            assert len(entries) == -(-SIZE // ARTIFACT_CHUNK_BYTES) + 2
            await sync_a.sync_now()
        async with replica(tmp_path / "late", url) as (late, _):
            assert await complete(late, "two") == sent
            await late.purge_session("s")
            await late.purge_session("t")
            report = await late.cleanup()
            assert report is not None
            assert report.dropped == -(-SIZE // ARTIFACT_CHUNK_BYTES)
