"""``agentlayers status`` beside running replicas, on stopped ones, and on none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.quarantine import UnreadableEntry
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.limits import QUARANTINE_BYTES_MAX
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.sync.service import SyncService
from agentlayers.transport.offline import OfflineTransport

COMMAND = [sys.executable, "-m", "agentlayers", "status"]


def status(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def stores(directory: Path) -> dict[str, Any]:
    outcome = status(str(directory), "--json")
    assert outcome.returncode == 0, outcome.stderr
    return {store["store"]: store for store in json.loads(outcome.stdout)["stores"]}


def sizes(directory: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_size) for path in directory.iterdir())


def watching(directory: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([*COMMAND, str(directory), "--watch"], stdout=subprocess.PIPE, text=True, env=environment)


async def test_it_tells_beside_a_running_replica_what_the_server_lacks(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "identity")
    sync = SyncService(OfflineTransport(), AesGcmEncryption(), stores={"chat_history": True})
    async with (
        MemoryServerStorage() as storage,
        SQLiteJournal(tmp_path) as journal,
        sync,
        ChatHistoryStore(journal, identity, sync=sync) as chat,
    ):
        await chat.append("session", {"type": "user", "text": "before any server"})
        never = stores(tmp_path)["chat_history"]
        async with SyncServer(storage, port=0) as server:
            await sync.connect_websocket(server.websocket_url)
            await sync.sync_now()
            url = sync.url
            synced = stores(tmp_path)["chat_history"]
        await sync.disconnect()
        for number in range(3):
            await chat.append("session", {"type": "user", "text": str(number)})
        before = sizes(tmp_path)
        behind = stores(tmp_path)["chat_history"]
        text = status(str(tmp_path)).stdout

        assert sizes(tmp_path) == before
    assert (never["entries"], never["unsent"], never["remotes"]) == (1, 1, [])
    (remote,) = synced["remotes"]
    assert (remote["pending"], remote["next_sequence"], remote["url"]) == (0, 1, url)
    assert remote["last_contact"].endswith("+00:00")
    assert [one["pending"] for one in behind["remotes"]] == [3]
    assert behind["entries"] == 4
    (row,) = [line for line in text.splitlines() if line.startswith("chat_history")]
    assert row.split()[1:4] == ["4", "3", url]
    # The replica is closed now, and the files say the same.
    assert stores(tmp_path)["chat_history"] == behind


async def test_it_tells_of_what_could_not_be_opened_and_what_of_it_was_not_kept(tmp_path: Path) -> None:
    remote_id = b"r" * 16
    junk = [UnreadableEntry(bytes([at]) * 16, at, bytes(at * QUARANTINE_BYTES_MAX), "cannot decrypt") for at in (0, 2)]
    async with SQLiteJournal(tmp_path) as journal:
        await journal.transact(lambda tx: tx.quarantine("chat_history", remote_id, junk, key_check=b"key"))
    found = stores(tmp_path)["chat_history"]

    assert (found["quarantined"], found["not_kept"]) == (1, 1)
    assert "1 quarantined and 1 not kept" in " ".join(status(str(tmp_path)).stdout.split())


async def test_watching_prints_a_line_for_each_change_and_ends_when_told(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path / "identity")
    async with SQLiteJournal(tmp_path) as journal, ChatHistoryStore(journal, identity) as chat:
        await chat.append("session", {"type": "user", "text": "one"})
        with watching(tmp_path) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            await chat.append("session", {"type": "user", "text": "two"})
            second = process.stdout.readline()
            process.terminate()

    assert "chat_history 1 entries, 1 pending" in first
    assert "chat_history 2 entries, 2 pending" in second


def test_a_directory_without_a_journal_is_one_clear_error(tmp_path: Path) -> None:
    outcome = status(str(tmp_path))

    assert outcome.returncode == 4
    assert outcome.stderr.startswith("error: ")
    assert "no journal" in outcome.stderr
