"""A journal file that cannot be used gives one documented error and is left as it is."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from agentlayers.errors import (
    MigrationError,
    SettingsError,
    StateError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
)
from agentlayers.journal.sqlite import JOURNAL_FILE, SCHEMA_VERSION, SQLiteJournal
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.testing.contracts.event_journal_world import notes


async def fill(directory: Path, count: int = 300) -> Path:
    """Write a journal and return its file."""
    async with SQLiteJournal(directory, durability="normal") as journal:
        await journal.register(notes())
        for start in range(0, count, 100):
            await journal.transact(
                lambda tx: [tx.write("notes", "line", str(start + n), {"text": "x" * 200}) for n in range(100)]  # noqa: B023
            )
    return directory / JOURNAL_FILE


async def opening(directory: Path) -> StorageError:
    """Return the error that opening raises."""
    with pytest.raises(StorageError) as caught:
        async with SQLiteJournal(directory) as journal:
            await journal.register(notes())
    return caught.value


async def test_directory_and_files_are_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "replica" / JOURNAL_FILE
    async with SQLiteJournal(path.parent) as journal:
        await journal.register(notes())
        await journal.write("notes", "line", "a", {})
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == dict.fromkeys((JOURNAL_FILE, f"{JOURNAL_FILE}-wal", f"{JOURNAL_FILE}-shm"), 384)


async def test_the_file_is_in_wal_mode_and_every_commit_is_synced(tmp_path: Path) -> None:
    async with SQLiteJournal(tmp_path) as journal:
        assert journal._writer is not None
        modes = await journal._writer.maintain(
            lambda c: [c.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        )

    assert modes == ["wal", 2]


@pytest.mark.parametrize("content", [b"", b"hello, I am a text file\n" * 100], ids=["empty", "text"])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(content)

    error = await opening(tmp_path)

    assert isinstance(error, StorageCorruptionError)
    assert error.path == str(path)
    assert "restore it" in str(error)
    assert path.read_bytes() == content


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
async def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = await fill(tmp_path)
    size = int(path.stat().st_size * keep)
    os.truncate(path, size)

    error = await opening(tmp_path)

    assert isinstance(error, StorageCorruptionError)
    assert path.stat().st_size == size


async def test_a_damaged_page_is_reported_when_it_is_read(tmp_path: Path) -> None:
    """Found at the opening, or at the latest by whoever reads it; always as ours."""
    path = await fill(tmp_path)
    data = bytearray(path.read_bytes())
    for start in range(4096 * 2, len(data), 4096):
        data[start : start + 64] = b"\xff" * 64
    path.write_bytes(bytes(data))

    async def look() -> None:
        async with SQLiteJournal(tmp_path) as journal:
            await journal.register(notes())
            await journal.entries(entries_max=10_000)

    with pytest.raises(StorageCorruptionError):
        await look()


async def test_another_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()

    error = await opening(tmp_path)

    assert isinstance(error, MigrationError)
    assert "no agentlayers journal" in str(error)


async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = await fill(tmp_path, 0)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()

    error = await opening(tmp_path)

    assert isinstance(error, MigrationError)
    assert str(SCHEMA_VERSION + 1) in str(error)


async def test_a_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    error = await opening(tmp_path / "file")

    assert isinstance(error, StorageUnavailableError)
    assert str(tmp_path / "file") in str(error)


async def test_a_full_disk_refuses_the_write_and_loses_nothing(tmp_path: Path) -> None:
    await fill(tmp_path, 100)
    async with SQLiteJournal(tmp_path) as journal:
        await journal.register(notes())
        assert journal._writer is not None
        pages = await journal._writer.maintain(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await journal._writer.maintain(lambda c: c.execute(f"PRAGMA max_page_count={pages + 2}").fetchone())
        with pytest.raises(StorageUnavailableError, match="full"):
            await journal.write("notes", "line", "large", {"text": "x" * 100_000})
        await journal._writer.maintain(lambda c: c.execute("PRAGMA max_page_count=100000").fetchone())
        await journal.write("notes", "line", "again", {})
        keys = [stored.entry.primary_key for stored in await journal.entries()]

    assert keys == [*map(str, range(100)), "again"]


async def test_a_file_held_by_another_process_refuses_the_write_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlayers.sqlite_file.BUSY_SECONDS_MAX", 0.05)
    async with SQLiteJournal(tmp_path) as journal:
        await journal.register(notes())
        other = sqlite3.connect(tmp_path / JOURNAL_FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailableError, match="another process") as caught:
            await journal.write("notes", "line", "a", {})
        other.execute("ROLLBACK")
        other.close()
        await journal.write("notes", "line", "b", {})
        keys = [stored.entry.primary_key for stored in await journal.entries()]

    assert caught.value.retryable
    assert keys == ["b"]


async def test_an_error_of_the_reading_code_is_its_own(tmp_path: Path) -> None:
    """Only the journal's own failures are reported as the journal's."""

    def work(_tx: object) -> None:
        raise FileNotFoundError("somewhere else")

    async with SQLiteJournal(tmp_path) as journal:
        with pytest.raises(FileNotFoundError, match="somewhere else"):
            await journal.read(work)
        with pytest.raises(FileNotFoundError, match="somewhere else"):
            await journal.transact(work)


async def test_an_opening_that_fails_leaves_the_journal_closed(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_bytes(b"")
    journal = SQLiteJournal(tmp_path)
    with pytest.raises(StorageCorruptionError):
        await journal.__aenter__()

    with pytest.raises(StateError, match="not open"):
        await journal.entries()

    (tmp_path / JOURNAL_FILE).unlink()
    async with journal:
        assert await journal.entries() == []


async def test_a_journal_left_open_warns(tmp_path: Path) -> None:
    journal = SQLiteJournal(tmp_path)
    await journal.__aenter__()
    with pytest.warns(ResourceWarning, match="was not closed"):
        journal.__del__()
    await journal.__aexit__(None, None, None)


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'full'"):
        SQLiteJournal(tmp_path, durability="sometimes")


async def test_every_earlier_schema_is_migrated(tmp_path: Path) -> None:
    """The tables of a file that was brought up step by step are those of a new one."""
    for version in range(1, SCHEMA_VERSION + 1):
        directory = tmp_path / str(version)
        directory.mkdir()
        connection = sqlite3.connect(directory / JOURNAL_FILE, isolation_level=None)
        connection.execute(f"PRAGMA application_id={0x41474C4A}")
        for number in range(version):
            for statement in JOURNAL_FORMAT.migrations[number]:
                connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, 0)", (number + 1,))
        connection.execute(f"PRAGMA user_version={version}")
        connection.close()

        path = await fill(directory, 100)
        connection = sqlite3.connect(path)
        versions = [row[0] for row in connection.execute("SELECT version FROM migration ORDER BY version")]
        connection.close()

        assert versions == list(range(1, SCHEMA_VERSION + 1))


async def test_space_is_given_back_after_compaction(tmp_path: Path) -> None:
    from agentlayers.journal.compaction import ByAge

    path = await fill(tmp_path, 3000)
    before = path.stat().st_size
    async with SQLiteJournal(tmp_path) as journal:
        await journal.register(notes())
        await journal.compact("notes", ByAge(0))

    assert path.stat().st_size < before / 4


async def test_a_cancelled_caller_harms_no_other(tmp_path: Path) -> None:
    async with SQLiteJournal(tmp_path, durability="normal") as journal:
        await journal.register(notes())
        tasks = [asyncio.ensure_future(journal.write("notes", "line", str(n), {})) for n in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        keys = {stored.entry.primary_key for stored in await journal.entries()}

    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert {str(n) for n in range(1, 20, 2)} <= keys
