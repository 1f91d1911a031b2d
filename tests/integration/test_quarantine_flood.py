"""A flood of what nobody here can open, over real sockets: it fills no disk, holds up nothing, and is not lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from agentlayers import limits
from agentlayers.eventlog.identity import Identity
from agentlayers.journal import SQLiteJournal
from agentlayers.server import MemoryServer, SQLiteServerStorage, SyncServer
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import IDENTITY, replica

STORE = "chat_history"
KEYS = IDENTITY.for_store(STORE)
STRANGER = Identity(IDENTITY.public_key, IDENTITY.private_key, {STORE: Identity(KEYS.public_key, bytes(32))})
"""Knows the public key, and has another private one."""

BATCHES, BATCH, SIZE = 12, 500, 1000
JUNK_BYTES = BATCHES * BATCH * SIZE


def websocket(server: SyncServer) -> Transport:
    return WebSocketTransport(server.websocket_url)


def tcp(server: SyncServer) -> Transport:
    assert server.tcp_url is not None
    return TCPTransport(server.tcp_url)


def bytes_on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("connect", [websocket, tcp])
async def test_a_flood_of_junk_fills_no_disk_and_is_there_once_the_key_is(
    connect: Callable[[SyncServer], Transport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What others write meanwhile all arrives, on the one connection there is."""
    monkeypatch.setattr(limits, "QUARANTINE_BYTES_MAX", JUNK_BYTES // 12)
    here = tmp_path / "here"
    async with SQLiteServerStorage(tmp_path / "server") as storage, SyncServer(storage, port=0, tcp_port=0) as server:
        async with (
            replica(connect(server)) as friend,
            replica(connect(server), identity=STRANGER) as stranger,
            replica(connect(server), journal=SQLiteJournal(here)) as one,
        ):
            await one.sync.connect()
            for number in range(BATCHES):
                await asyncio.gather(stranger.write_many(BATCH, size=SIZE), friend.write(f"message {number}"))
            written, junk = await friend.ids(), await stranger.ids()
            for writer in (friend, stranger):
                await writer.sync.sync_now()
            await one.until_ids(written)
            await one.sync.sync_now()
            kept = await one.journal.read(lambda tx: tx.quarantined(STORE))
            not_kept = await one.journal.read(lambda tx: tx.count_not_kept(STORE))

            assert await one.ids() == written
            assert len(kept) + not_kept == len(junk) == BATCHES * BATCH
            assert 0 < sum(len(entry.data) for entry in kept) <= limits.QUARANTINE_BYTES_MAX
            assert one.sync.status.stores[STORE].quarantined == len(junk)
            assert (one.sync.status.stores[STORE].received, one.sync.status.attempt) == (BATCHES, 0)
        assert bytes_on_disk(here) < JUNK_BYTES // 4
        told = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(told) < 3 * (limits.QUARANTINE_ENTRIES_MAX + 20)

        async with replica(connect(server), journal=SQLiteJournal(here), identity=STRANGER) as one:
            await one.sync.sync_now()

            assert await one.ids() == written | junk
            assert await one.journal.read(lambda tx: tx.quarantined(STORE)) == []
            assert await one.journal.read(lambda tx: tx.count_not_kept(STORE)) == 0
            assert one.sync.status.pending == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("flag", ["on_demand", True], ids=["on demand", "whole"])
async def test_content_that_there_was_no_room_for_comes_once_the_key_is_there(
    flag: bool | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched once more by who wants it, or by following the store from then on."""
    monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 1)
    name = "artifact_content"
    keys = IDENTITY.for_store(name)
    wrong = Identity(IDENTITY.public_key, IDENTITY.private_key, {name: Identity(keys.public_key, bytes(32))})
    async with MemoryServer() as server:
        async with replica(server.transport(), names=[name], stores={name: True}) as writer:
            written = [await writer.write(f"piece {number}", name) for number in range(3)]
            await writer.sync.sync_now()
        async with replica(
            server.transport(),
            names=[name],
            stores={name: "on_demand"},
            journal=SQLiteJournal(tmp_path),
            identity=wrong,
        ) as one:
            missing = await one.sync.fetch(name, written)

            assert (missing, await one.ids(name)) == ([], set())
            assert await one.journal.read(lambda tx: tx.count_not_kept(name)) == 2
        async with replica(
            server.transport(), names=[name], stores={name: flag}, journal=SQLiteJournal(tmp_path)
        ) as one:
            await one.sync.sync_now()
            if flag == "on_demand":
                await one.sync.fetch(name, written[1:])

            assert await one.ids(name) == {*written}
            assert await one.journal.read(lambda tx: tx.count_not_kept(name)) == 0
