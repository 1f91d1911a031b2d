"""Take one of our SQLite files back to an earlier version, as the release that had it would have left it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from agentlayers.sqlite_file import SQLiteFormat

__all__ = ["make_older", "version_of"]


def make_older(path: Path, file_format: SQLiteFormat, version: int) -> None:
    """
    Write the content of a closed file into tables made by the frozen migrations up to ``version``.

    What that version had no place for is left out, as texts that wait beside the index are put into it.
    """
    older = path.with_name("older")
    with closing(sqlite3.connect(older, isolation_level=None)) as to:
        if file_format.incremental_vacuum:
            to.execute("PRAGMA auto_vacuum = INCREMENTAL")
        to.execute(f"PRAGMA application_id = {file_format.application_id}")
        for number in range(version):
            for statement in file_format.migrations[number]:
                to.execute(statement)
            if file_format.notes_migrations:
                to.execute("INSERT INTO migration VALUES (?, ?)", (number + 1, 1_780_000_000_000 + number))
        to.execute(f"PRAGMA user_version = {version}")
        to.execute("ATTACH ? AS newer", (str(path),))
        for table in _tables(to):
            columns = ", ".join(_columns(to, "main", table))
            assert set(_columns(to, "main", table)) <= set(_columns(to, "newer", table)), table
            to.execute(f"INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
        _copy_texts(to)
        to.execute("DETACH newer")
        to.execute("PRAGMA journal_mode = WAL")
    older.replace(path)


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    return [name for (name,) in found if name != "migration" and not name.startswith(("text_index", "sqlite_"))]


def _columns(connection: sqlite3.Connection, database: str, table: str) -> list[str]:
    return [str(found[1]) for found in connection.execute(f"PRAGMA {database}.table_info({table})")]


def _copy_texts(connection: sqlite3.Connection) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM main.sqlite_schema")}
    if "text_index" not in tables:
        return
    columns = "rowid, text, store, scope"
    connection.execute(f"INSERT INTO main.text_index ({columns}) SELECT {columns} FROM newer.text_index")
    if "text_waiting" not in tables:
        waiting = "SELECT position, text, store, scope FROM newer.text_waiting"
        connection.execute(f"INSERT INTO main.text_index ({columns}) {waiting}")


def version_of(path: Path) -> int:
    """Return the version a file says it has."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
