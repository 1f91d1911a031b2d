"""
Read the journal files of a replica as they are on disk, without an event loop and without changing
them.

Works beside a running replica and on what a killed one left: the file is opened read-only, and
everything is read from one snapshot.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from agentlayers.errors import StorageUnavailableError
from agentlayers.journal.entry import Entry, StoredEntry
from agentlayers.journal.primitives import EntryRow
from agentlayers.journal.sqlite.entry_row import COLUMNS, row_from_values
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.key_value.sqlite_file import FILE_NAME as KEY_VALUE_FILE

__all__ = [
    "entry_rows",
    "journal_files",
    "open_journal_file",
    "read_journal_file",
    "read_journal_rows",
    "read_replica_id",
]

_BUSY_SECONDS: Final = 5.0


def journal_files(directory: Path) -> list[Path]:
    """
    List the journal files of a replica: the shared one and those of stores with a file of their
    own.

    Args:
        directory: A replica's directory, or one journal file.

    Raises:
        StorageUnavailableError: There is no such directory or file, or no journal in it.
    """
    with JOURNAL_FORMAT.translated("read", directory):
        if directory.is_file():
            return [directory]
        if not directory.is_dir():
            raise _unavailable(directory, "there is no such directory; give the one that holds journal.sqlite")
        files = (path for path in directory.iterdir() if path.suffix == ".sqlite" and path.is_file())
        # By its name: looking into a file that this process has open would take its locks away, see SQLiteFormat.
        found = sorted(path for path in files if path.name != KEY_VALUE_FILE)
    if not found:
        raise _unavailable(directory, "there is no journal in it; give the directory that holds journal.sqlite")
    return found


def read_journal_file(path: Path, *, stores: Collection[str] | None = None) -> Iterator[StoredEntry]:
    """
    Iterate over the entries of one file in local arrival order.

    Args:
        path: The file.
        stores: Only these stores; all if not given.

    Raises:
        StorageUnavailableError: The file cannot be read.
        StorageCorruptionError: It is damaged, or no journal.
        MigrationError: A newer release wrote it.
    """
    return (stored for stored, _is_observation in read_journal_rows(path, stores=stores))


def read_journal_rows(path: Path, *, stores: Collection[str] | None = None) -> Iterator[tuple[StoredEntry, bool]]:
    """
    Iterate over the entries of one file, each with whether it is no more than an observation of this replica.

    An application's store may declare observations as well; their rows say so. The same errors apply.
    """
    with JOURNAL_FORMAT.translated("read", path), closing(open_journal_file(path)) as connection:
        names: dict[int, str] = dict(connection.execute("SELECT number, name FROM store"))
        for row in entry_rows(connection, path, "ORDER BY position"):
            name = names[row.store]
            if stores is None or name in stores:
                entry = Entry(row.id, row.event, row.primary_key, row.payload)
                is_local = row.origin == 0
                yield StoredEntry(row.position, name, entry, is_local, row.applied), is_local and not row.outbound


def entry_rows(
    connection: sqlite3.Connection, path: Path, condition: str, values: Sequence[object] = ()
) -> Iterator[EntryRow]:
    """
    Iterate over entries, one in memory at a time.

    Args:
        connection: See :func:`open_journal_file`.
        path: The file, for errors.
        condition: What follows ``FROM entry``.
        values: Of its place holders.

    Raises:
        StorageCorruptionError: One is not what was written.
    """
    for found in connection.execute(f"SELECT {COLUMNS} FROM entry {condition}", values):
        try:
            yield row_from_values(found)
        except (ValueError, TypeError) as error:
            raise JOURNAL_FORMAT.damage(str(error), operation="read", path=path) from error


def read_replica_id(path: Path) -> str:
    """Return the name of the replica that a journal file belongs to; the same errors apply."""
    with JOURNAL_FORMAT.translated("read", path), closing(open_journal_file(path)) as connection:
        row = connection.execute("SELECT value FROM setting WHERE name = 'replica_id'").fetchone()
    return "" if row is None else bytes(row[0]).decode("utf-8", "replace")


def open_journal_file(path: Path) -> sqlite3.Connection:
    """
    Open one file read-only, inside a transaction, so that everything read is of one moment.

    A file of an earlier release is read as this release would see it, from a temporary copy; it stays as it is.

    Whoever calls it closes the connection, and translates the errors of what it reads.

    Raises:
        StorageUnavailableError: There is no such file.
        StorageCorruptionError: It is no SQLite file.
        MigrationError: It is no journal, or a newer release wrote it.
    """
    if not path.is_file():
        raise _unavailable(path, "there is no such file; give the directory that holds journal.sqlite")
    # Never opened past SQLite, see SQLiteFormat: that would drop the locks of whoever has it open in this process.
    JOURNAL_FORMAT.check_size(path, "read")
    connection = sqlite3.connect(_address(path), uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
    try:
        connection.execute("BEGIN")
        JOURNAL_FORMAT.check_header(connection, path)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except BaseException:
        connection.close()
        raise
    if version == JOURNAL_FORMAT.schema_version:
        return connection
    with closing(connection):
        return _migrated_copy(connection, version)


def _address(path: Path) -> str:
    address = f"{path.absolute().as_uri()}?mode=ro"
    log, shared = (path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "shm"))
    if log.exists() and log.stat().st_size:
        return address
    is_fixed = hasattr(os, "statvfs") and os.statvfs(path).f_flag & os.ST_RDONLY
    # On a medium that nobody can write to SQLite cannot make the files it shares with writers. Beside a file that only
    # its mode protects it makes them with that mode, and whoever may write later is stopped by them.
    is_guarded = not shared.exists() and not os.access(path, os.W_OK)
    return f"{address}&immutable=1" if is_fixed or is_guarded else address


def _migrated_copy(source: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """Return an older file's content with the tables of this release, in a temporary database, with its version."""
    copy = sqlite3.connect("", isolation_level=None)
    try:
        source.backup(copy)
        JOURNAL_FORMAT.migrate(copy)
        copy.execute(f"PRAGMA user_version = {version}")
        copy.execute("BEGIN")
    except BaseException:
        copy.close()
        raise
    return copy


def _unavailable(path: Path, reason: str) -> StorageUnavailableError:
    return StorageUnavailableError(backend="sqlite", operation="read", path=path, reason=reason)
