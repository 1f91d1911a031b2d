"""
The SQLite file of a key-value store: opening, schema, and the one place where driver errors are translated.

The application id and the schema version in the file's header say what it is; nothing is ever repaired or
deleted here.
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
from agentlayers.limits import BUSY_SECONDS_MAX

__all__ = ["APPLICATION_ID", "BACKEND", "FILE_NAME", "SCHEMA_VERSION", "connect", "prepare", "translated"]

BACKEND: Final = "sqlite key-value store"
FILE_NAME: Final = "key_value.sqlite"
APPLICATION_ID: Final = 0x61_6C_4B_31
"""``alK1``: tells our file from any other SQLite file."""

_MIGRATIONS: Final = (
    # A table with row ids: values of any size stay out of the index that keeps the keys in order.
    """
    CREATE TABLE pair (
        number INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        value BLOB NOT NULL,
        checksum INTEGER NOT NULL
    )
    """,
)
"""Statement ``n`` takes a file from version ``n`` to ``n + 1``; never edited once released, only added to."""

SCHEMA_VERSION: Final = len(_MIGRATIONS)

_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds the file locked; stop it or try again later",
    sqlite3.SQLITE_LOCKED: "another process holds the file locked; stop it or try again later",
    sqlite3.SQLITE_FULL: "the disk is full; make room and try again, nothing acknowledged is lost",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; make both writable for this user",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that the directory exists and is writable for this user",
    sqlite3.SQLITE_PERM: "this user may not access it; check owner and mode",
    sqlite3.SQLITE_IOERR: "the medium failed to read or write; check the disk (and its free space)",
}


@contextlib.contextmanager
def translated(operation: str, path: Path) -> Iterator[None]:
    """
    Turn whatever the driver or the system raises into ours.

    Raises:
        StorageUnavailableError: Full, locked, unreadable, or an input/output error.
        StorageCorruptionError: Not a database, or damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, operation, path) from error
    except OSError as error:
        reason = f"{error.strerror or error}; check that it is a directory this user may write to"
        raise StorageUnavailableError(backend=BACKEND, operation=operation, reason=reason, path=path) from error


def _translate(error: sqlite3.Error, operation: str, path: Path) -> StorageError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _CORRUPT or (code == sqlite3.SQLITE_ERROR and operation == "open"):
        reason = f"{error}; the file is damaged. Nothing was changed: restore it from a backup or move it aside"
        return StorageCorruptionError(backend=BACKEND, operation=operation, reason=reason, path=path)
    if code in _ADVICE:
        reason = f"{error}; {_ADVICE[code]}"
        return StorageUnavailableError(backend=BACKEND, operation=operation, reason=reason, path=path)
    return StorageError(backend=BACKEND, operation=operation, reason=str(error), path=path)


def prepare(path: Path) -> sqlite3.Connection:
    """
    Create the directory (0700) and the file (0600) where absent, and return the connection that writes.

    Raises:
        MigrationError: A newer release, or another program, wrote the file.
        StorageCorruptionError: It is damaged or no SQLite file.
        StorageUnavailableError: It cannot be created, opened or written.
    """
    with translated("open", path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        if path.stat().st_size == 0:
            reason = "the file is empty. Nothing was changed: restore it from a backup or move it aside"
            raise StorageCorruptionError(backend=BACKEND, operation="open", reason=reason, path=path)
        connection = connect(path, writable=True)
        try:
            _check_header(connection, path)
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            _migrate(connection)
            # Finds a truncated file, at a cost that does not grow with it.
            connection.execute("SELECT max(number), (SELECT max(key) FROM pair) FROM pair").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection


def _create(path: Path) -> None:
    # Linked into place complete, so an empty file is never half of a first start, but damage.
    fresh = path.with_name(f"{path.name}.new-{os.getpid()}-{os.urandom(4).hex()}")
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            _migrate(connection)
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        finally:
            connection.close()
        # Of two processes that start at once, one links its file and both use that one.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        sync_directory(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open a connection in autocommit mode; a reader is refused every write."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS_MAX,
    )
    try:
        if writable:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 2000")
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_header(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        reason = "the file belongs to another program; give the store a directory of its own"
        raise MigrationError(backend=BACKEND, operation="open", reason=reason, path=path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        reason = f"its schema version is {version}, this release knows up to {SCHEMA_VERSION}; use a newer agentlayers"
        raise MigrationError(backend=BACKEND, operation="open", reason=reason, path=path)


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for statement in _MIGRATIONS[version:]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
