"""The write-ahead log gets its full length early, and nothing else changes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.sqlite_log_room import LogRoom
from agentlayers.testing.contracts.event_journal_world import notes
from helpers.small_disk import mounted

PAGE = 4096


def opened(path: Path) -> sqlite3.Connection:
    return JOURNAL_FORMAT.open(path, durability="normal")


def commit(connection: sqlite3.Connection, room: LogRoom, count: int) -> None:
    for _ in range(count):
        connection.execute("INSERT OR REPLACE INTO setting VALUES ('a', zeroblob(100))")
        room.after_commit()


def log_pages(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size // PAGE


def test_whoever_commits_often_gets_room_and_the_file_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    connection, reader = opened(path), opened(path)
    room = LogRoom(connection, path, pages=400)
    commit(connection, room, 31)
    few = log_pages(path)
    reader.execute("BEGIN")
    before = reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    commit(connection, room, 400)
    after = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")]
    pages = path.stat().st_size // PAGE

    assert few < 40
    assert 400 <= log_pages(path) < 640
    assert reader.execute("SELECT count(*) FROM sqlite_schema").fetchone() == before
    assert after == [pages, 0]
    assert connection.execute("PRAGMA cache_size").fetchone() == (-8192,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert reader.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'room'").fetchone() == (0,)
    reader.close()
    connection.close()


def test_a_log_held_by_another_writer_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    connection, other = opened(path), opened(path)
    connection.execute("PRAGMA busy_timeout = 0")
    room = LogRoom(connection, path, pages=400)
    commit(connection, room, 31)
    other.execute("BEGIN IMMEDIATE")
    room.after_commit()
    other.execute("ROLLBACK")
    commit(connection, room, 100)

    assert log_pages(path) < 150
    assert connection.execute("PRAGMA cache_size").fetchone() == (-8192,)
    other.close()
    connection.close()


def test_a_disk_without_space_to_spare_gets_no_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", size="8m") as disk:
        path = disk.path / "journal.sqlite"
        connection = opened(path)
        commit(connection, LogRoom(connection, path, pages=400), 100)
        pages = log_pages(path)
        connection.close()

    assert pages < 150


@pytest.mark.parametrize("appends", [20, 100])
async def test_a_journal_makes_room_only_when_it_is_written_to(tmp_path: Path, appends: int) -> None:
    async with SQLiteJournal(tmp_path) as journal:
        await journal.register(notes())
        for number in range(appends):
            await journal.write("notes", "line", str(number), {})
        pages = log_pages(tmp_path / "journal.sqlite")

    assert (pages > 500) == (appends > 40)
