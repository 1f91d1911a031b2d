"""
The SQLite file of a server: opening, schema versions, and the one place where driver errors are translated.

A statement's every row step gives up the interpreter lock, and a busy event loop hands it back only every
few milliseconds; so everything here and in :mod:`agentlayers.server.sqlite_writer` moves many rows in one step.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentlayers.durable_names import sync_directory
from agentlayers.errors import (
    MigrationError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
)

__all__ = [
    "APPLICATION_ID",
    "BACKEND",
    "FILE_NAME",
    "POSITION_BITS",
    "SCHEMA_VERSION",
    "connect",
    "prepare_directory",
    "prepare_schema",
    "translated_errors",
]

BACKEND: Final = "sqlite server storage"
FILE_NAME: Final = "server.sqlite"
APPLICATION_ID: Final = 0x61_6C_53_31
"""``alS1``: tells our file from any other SQLite file."""

POSITION_BITS: Final = 40
"""``position = journal << 40 | sequence``: one integer key keeps a journal's entries together and in order."""

_VERSION_1: Final = """
CREATE TABLE tenants (
    name TEXT PRIMARY KEY,
    remote_id BLOB NOT NULL,
    incarnation BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE journals (
    journal INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    public_key TEXT NOT NULL,
    UNIQUE (tenant, public_key)
);
CREATE TABLE entries (
    position INTEGER PRIMARY KEY,
    journal INTEGER NOT NULL,
    entry_id BLOB NOT NULL,
    iv BLOB NOT NULL,
    ciphertext BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_by_id ON entries (journal, entry_id);
"""
_VERSION_2: Final = """
ALTER TABLE entries ADD COLUMN digest BLOB;
"""
# Of the entry ids up to this one. Absent in rows of version 1 until agentlayers.server.sqlite_digest has
# computed it; within a journal the rows that have it come before those that do not.

_MIGRATIONS: Final = (_VERSION_1, _VERSION_2)
"""Script ``n`` takes a file from version ``n`` to ``n + 1``; never edited once released, only added to."""

SCHEMA_VERSION: Final = len(_MIGRATIONS)

_UNAVAILABLE: Final = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space, nothing acknowledged was lost",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; it has to be a regular file this user may read and write",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only for this user",
    sqlite3.SQLITE_PERM: "this user may not open the file",
    sqlite3.SQLITE_AUTH: "this user may not open the file",
    sqlite3.SQLITE_BUSY: "another process holds the file locked",
    sqlite3.SQLITE_LOCKED: "another connection holds the file locked",
    sqlite3.SQLITE_IOERR: "the disk reported an input/output error",
    sqlite3.SQLITE_NOMEM: "out of memory",
}
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})


@contextlib.contextmanager
def translated_errors(operation: str, path: Path) -> Iterator[None]:
    """
    Turn whatever the driver or the file system raises into a :class:`~agentlayers.errors.StorageError`.

    Raises:
        StorageUnavailableError: Full, locked, unreadable, or an input/output error.
        StorageCorruptionError: Not a database, or damaged.
        StorageError: Anything else the driver reports.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, operation, path) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageUnavailableError(backend=BACKEND, operation=operation, reason=reason, path=path) from error


def _translate(error: sqlite3.Error, operation: str, path: Path) -> StorageError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _CORRUPT:
        reason = "the file is damaged or no SQLite file; restore it from a backup or move it away"
        return StorageCorruptionError(backend=BACKEND, operation=operation, reason=reason, path=path)
    if code in _UNAVAILABLE:
        return StorageUnavailableError(backend=BACKEND, operation=operation, reason=_UNAVAILABLE[code], path=path)
    return StorageError(backend=BACKEND, operation=operation, reason=str(error), path=path)


def prepare_directory(directory: Path) -> Path:
    """Create the directory (0700) and the file (0600) where absent, and return the file's path."""
    path = directory / FILE_NAME
    with translated_errors("open", path):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.name == "posix":
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        sync_directory(directory)
    return path


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open a connection in autocommit mode; a reader is refused every write."""
    with translated_errors("open", path):
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            timeout=10,
        )
        try:
            if writable:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA wal_autocheckpoint = 4000")
            else:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def prepare_schema(connection: sqlite3.Connection, path: Path) -> None:
    """
    Bring the file to this release's schema.

    Raises:
        MigrationError: The file is newer than this release, or is another program's.
        StorageCorruptionError: The file is damaged.
    """
    with translated_errors("open", path):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != APPLICATION_ID:
            reason = "the file belongs to another program; give the server a directory of its own"
            raise MigrationError(backend=BACKEND, operation="open", reason=reason, path=path)
        if version > SCHEMA_VERSION:
            reason = (
                f"its schema version is {version}, this release knows up to {SCHEMA_VERSION}; use a newer agentlayers"
            )
            raise MigrationError(backend=BACKEND, operation="open", reason=reason, path=path)
        for number in range(version, SCHEMA_VERSION):
            connection.executescript(
                f"BEGIN IMMEDIATE;{_MIGRATIONS[number]}"
                f"PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {number + 1};COMMIT;"
            )
