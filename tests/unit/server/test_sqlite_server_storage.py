"""What only the SQLite storage can get wrong: files, crashes, groups."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentlayers.errors import (
    MigrationError,
    StateError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
)
from agentlayers.server import SQLiteServerStorage, SyncServer
from agentlayers.server.sqlite_file import FILE_NAME, SERVER_FORMAT
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.wire_client import websocket_client

EVERYTHING = {"entries_max": 100_000, "bytes_max": 1 << 30}


async def test_the_directory_and_its_files_are_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "server"
    async with SQLiteServerStorage(directory) as storage:
        await storage.append("tenant", "key", sealed_entries(1))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert FILE_NAME in modes
    assert set(modes.values()) == {0o600}


async def test_a_closed_storage_says_so(tmp_path: Path) -> None:
    storage = SQLiteServerStorage(tmp_path)
    with pytest.raises(StateError, match="not open"):
        await storage.append("tenant", "key", sealed_entries(1))
    async with storage:
        with pytest.raises(StateError, match="open already"):
            await storage.__aenter__()
    with pytest.raises(StateError, match="not open"):
        await storage.head("tenant", "key")


async def test_a_second_server_on_the_directory_is_refused(tmp_path: Path) -> None:
    async with SQLiteServerStorage(tmp_path):
        with pytest.raises(StorageUnavailableError, match="another server has this directory open"):
            await SQLiteServerStorage(tmp_path).__aenter__()
    async with SQLiteServerStorage(tmp_path):
        pass


async def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with SQLiteServerStorage(tmp_path) as storage:
        await storage.append("tenant", "key", sealed_entries(1))
        await storage.head("tenant", "key")
    left = {thread.name for thread in set(threading.enumerate()) - before if "sqlite" in thread.name}

    assert left == set()


async def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is not a database at all, whatever its name says" * 100)
    with pytest.raises(StorageCorruptionError, match="no SQLite database"):
        await SQLiteServerStorage(tmp_path).__aenter__()


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("CREATE TABLE theirs (value)")
    connection.close()
    with pytest.raises(MigrationError, match="no agentlayers server storage"):
        await SQLiteServerStorage(tmp_path).__aenter__()


async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    async with SQLiteServerStorage(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(f"PRAGMA user_version = {SERVER_FORMAT.schema_version + 1}")
    connection.close()
    with pytest.raises(MigrationError, match="a newer agentlayers"):
        await SQLiteServerStorage(tmp_path).__aenter__()


async def test_a_new_file_says_whose_it_is(tmp_path: Path) -> None:
    async with SQLiteServerStorage(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    try:
        assert connection.execute("PRAGMA application_id").fetchone() == (SERVER_FORMAT.application_id,)
        assert connection.execute("PRAGMA user_version").fetchone() == (SERVER_FORMAT.schema_version,)
    finally:
        connection.close()


@pytest.mark.parametrize("name", [FILE_NAME, "."])
async def test_a_place_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "server"
    if name == ".":
        directory.write_text("a file where the directory should be")
    else:
        (directory / name).mkdir(parents=True)
    with pytest.raises(StorageUnavailableError, match="server"):
        await SQLiteServerStorage(directory).__aenter__()


async def test_a_damaged_page_is_reported_and_not_served(tmp_path: Path) -> None:
    async with SQLiteServerStorage(tmp_path) as storage:
        await storage.append("tenant", "key", sealed_entries(2_000, size=400))
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[40 * 4096 : 200 * 4096] = os.urandom(160 * 4096)
    path.write_bytes(data)

    async with SQLiteServerStorage(tmp_path) as storage:
        with pytest.raises(StorageCorruptionError):
            await storage.read("tenant", "key", 0, **EVERYTHING)


async def test_a_gap_is_reported_and_not_served(tmp_path: Path) -> None:
    """A reader's cursor would silently skip what is missing."""
    async with SQLiteServerStorage(tmp_path) as storage:
        await storage.append("tenant", "key", sealed_entries(5))
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("DELETE FROM entries WHERE position % 1024 = 2")
    connection.commit()
    connection.close()

    async with SQLiteServerStorage(tmp_path) as storage:
        with pytest.raises(StorageCorruptionError, match="sequence 2 of a journal is missing"):
            await storage.read("tenant", "key", 0, **EVERYTHING)


async def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    async with SQLiteServerStorage(tmp_path) as storage:
        await storage.append("tenant", "key", sealed_entries(10))
        assert storage._writer is not None
        database = storage._writer._connection
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone()

        with pytest.raises(StorageUnavailableError, match="disk is full"):
            await storage.append("tenant", "key", sealed_entries(50, first=10, size=1_000))

        assert await storage.head("tenant", "key") == 10
        database.execute("PRAGMA max_page_count = 100000").fetchone()
        appended = await storage.append("tenant", "key", sealed_entries(50, first=10, size=1_000))

    assert appended.sequences == tuple(range(10, 60))


async def test_a_group_that_fails_fails_each_of_its_appends(tmp_path: Path) -> None:
    async with SQLiteServerStorage(tmp_path) as storage:
        await storage.append("tenant", "key", sealed_entries(1))
        assert storage._writer is not None
        database = storage._writer._connection
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone()
        batches = [sealed_entries(20, first=100 * n, size=1_000) for n in range(1, 5)]

        results = await asyncio.gather(
            *(storage.append("tenant", "key", batch) for batch in batches), return_exceptions=True
        )
        database.execute("PRAGMA max_page_count = 100000").fetchone()
        head = await storage.head("tenant", "key")

    failed = [result for result in results if isinstance(result, StorageError)]
    assert failed
    assert head == 1 + 20 * (len(results) - len(failed))


async def test_appends_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    """The cost of many small writers is one synchronisation of the disk, not one for each."""
    async with SQLiteServerStorage(tmp_path) as storage:
        await storage.append("tenant", "key", sealed_entries(1))
        assert storage._writer is not None
        statements: list[str] = []
        storage._writer._connection.set_trace_callback(statements.append)
        await asyncio.gather(*(storage.append("tenant", "key", sealed_entries(1, first=n)) for n in range(1, 201)))

    commits = sum(text.startswith(("INSERT", "COMMIT")) for text in statements)
    assert 0 < commits < 20


async def test_another_process_that_wrote_meanwhile_is_noticed(tmp_path: Path) -> None:
    """Where the lock does not hold (some network file systems), numbers are still given once."""
    async with SQLiteServerStorage(tmp_path) as storage:
        await storage.append("tenant", "key", sealed_entries(1))
        other = sqlite3.connect(tmp_path / FILE_NAME)
        other.execute("INSERT INTO entries SELECT position + 1, journal, x'00', iv, ciphertext, digest FROM entries")
        other.commit()
        other.close()

        appended = await storage.append("tenant", "key", sealed_entries(1, first=1))

    assert appended.sequences == (2,)


# -- kill -9 ----------------------------------------------------------------------------------------

SERVER = """
import asyncio, sys
from agentlayers.server import SQLiteServerStorage, SyncServer
async def main():
    async with SQLiteServerStorage(sys.argv[1]) as storage, SyncServer(storage, port=0) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def start_server(directory: Path) -> tuple[subprocess.Popen[bytes], SyncServer]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    address = SyncServer(SQLiteServerStorage(directory), port=port)
    return process, address


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Three kills in the middle of a stream of writes; nothing acknowledged is lost or renumbered."""
    acknowledged: dict[bytes, int] = {}
    number = 0
    for _ in range(3):
        process, address = start_server(tmp_path)
        try:
            async with websocket_client(address) as client:
                await client.hello()
                in_flight = {}
                for _ in range(60):
                    entries = sealed_entries(3, first=number)
                    number += 3
                    in_flight[client.session.write_entries("key", entries)] = entries
                await client.flush()
                for _ in range(20):
                    ack = await client.next()
                    entries = in_flight[ack.message_id]
                    for entry, sequence in zip(entries, ack.sequence_numbers, strict=True):
                        acknowledged[entry.entry_id] = sequence
                process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    async with SQLiteServerStorage(tmp_path) as storage:
        stored = await storage.read("default", "key", 0, **EVERYTHING)

    assert [entry.sequence for entry in stored] == list(range(len(stored)))
    found = {entry.entry_id: entry.sequence for entry in stored}
    assert len(acknowledged) == 180
    assert {entry_id: found.get(entry_id) for entry_id in acknowledged} == acknowledged
