"""Rows of an older release get their digest behind the server's back."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from agentlayers.protocol.sequence_digest import EMPTY_DIGEST, extend_digest
from agentlayers.server import SQLiteServerStorage, sqlite_digest
from agentlayers.server.sqlite_file import FILE_NAME, SERVER_FORMAT
from agentlayers.testing.contracts.server_storage import sealed_entries

EVERYTHING = {"entries_max": 100_000, "bytes_max": 1 << 30}
ENTRIES = sealed_entries(30)
DIGESTS = [EMPTY_DIGEST, *extend_digest(EMPTY_DIGEST, 0, [entry.entry_id for entry in ENTRIES])]


async def a_file_of_version_1(directory: Path, *, counts: dict[str, int]) -> None:
    async with SQLiteServerStorage(directory) as storage:
        for key, count in counts.items():
            await storage.append("tenant", key, ENTRIES[:count])
    with sqlite3.connect(directory / FILE_NAME) as connection:
        connection.execute("ALTER TABLE entries DROP COLUMN digest")
        connection.execute("PRAGMA user_version = 1")
        assert connection.execute("PRAGMA application_id").fetchone() == (SERVER_FORMAT.application_id,)
    connection.close()


async def until_filled(storage: SQLiteServerStorage) -> None:
    async with asyncio.timeout(5):
        await storage._filling


@pytest.mark.parametrize("rows", [1, 7, 1000])
async def test_an_older_file_is_filled_in_bounded_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(sqlite_digest, "ROWS_PER_STEP", rows)
    await a_file_of_version_1(tmp_path, counts={"empty": 0, "key": 20, "other": 30})
    async with SQLiteServerStorage(tmp_path) as storage:
        await until_filled(storage)

        assert [await storage.digest("tenant", "key", n) for n in range(22)] == [*DIGESTS[:21], None]
        assert await storage.digest("tenant", "other", 30) == DIGESTS[30]
        read = await storage.read("tenant", "key", 0, **EVERYTHING)
        assert [entry.ciphertext for entry in read] == [entry.ciphertext for entry in ENTRIES[:20]]


async def test_appends_meanwhile_are_filled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_digest, "ROWS_PER_STEP", 2)
    await a_file_of_version_1(tmp_path, counts={"key": 20})
    async with SQLiteServerStorage(tmp_path) as storage:
        for number in range(20, 30):
            await storage.append("tenant", "key", ENTRIES[number - 1 : number + 1])
        await until_filled(storage)

        assert [await storage.digest("tenant", "key", n) for n in range(31)] == DIGESTS


async def test_a_restart_goes_on_where_filling_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_digest, "ROWS_PER_STEP", 3)
    await a_file_of_version_1(tmp_path, counts={"key": 30})
    steps = 0

    async def two_steps(self: SQLiteServerStorage, writer: object, journal: int) -> bool:
        nonlocal steps
        steps += 1
        return steps <= 2 and await real(self, writer, journal)  # type: ignore[arg-type]

    real = SQLiteServerStorage._fill_step
    with monkeypatch.context() as patched:
        patched.setattr(SQLiteServerStorage, "_fill_step", two_steps)
        async with SQLiteServerStorage(tmp_path) as storage:
            await until_filled(storage)
            assert [await storage.digest("tenant", "key", n) for n in (6, 7)] == [DIGESTS[6], None]
    async with SQLiteServerStorage(tmp_path) as storage:
        await until_filled(storage)

        assert [await storage.digest("tenant", "key", n) for n in range(31)] == DIGESTS
