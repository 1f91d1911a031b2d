"""
Open a journal file, and turn every driver error into ours: the one place that knows both.

Nothing is ever deleted or repaired here. A new file is made under another name and linked into place
complete, so an empty ``journal.sqlite`` is never half of a first start, but damage.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from agentlayers.durable_names import sync_directory
from agentlayers.errors import (
    MigrationError,
    SettingsError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
)
from agentlayers.journal.sqlite.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION
from agentlayers.limits import BUSY_SECONDS_MAX

__all__ = ["Durability", "check_durability", "connect", "open_file", "prepare_file", "translated"]

Durability = Literal["full", "normal"]

_BACKEND: Final = "sqlite"
_MAGIC: Final = b"SQLite format 3\x00"
_CACHE_KIB: Final = 8192
_CHECKPOINT_PAGES: Final = 2000
_PRIMARY_CODE_MASK: Final = 0xFF
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds the file; stop it or try again later",
    sqlite3.SQLITE_LOCKED: "another process holds the file; stop it or try again later",
    sqlite3.SQLITE_FULL: "the disk is full; make room and try again, nothing acknowledged is lost",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; make both writable for this user",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that the directory exists and is writable for this user",
    sqlite3.SQLITE_PERM: "this user may not access it; check owner and mode",
    sqlite3.SQLITE_IOERR: "the medium failed to read or write; check the disk (and its free space)",
}


def check_durability(value: str) -> Durability:
    """
    Check the name of a durability mode.

    Raises:
        SettingsError: It is neither ``full`` nor ``normal``.
    """
    if value == "full":
        return "full"
    if value == "normal":
        return "normal"
    raise SettingsError(
        setting="durability",
        value=value,
        expected="'full' (what is written survives a power failure) or 'normal' (it survives a crash of the process)",
    )


def storage_error(error: Exception, *, operation: str, path: Path) -> StorageError:
    """Return ours for one of the driver's or the system's errors."""
    if isinstance(error, OSError):
        reason = f"{error.strerror or error}; check that it is a directory this user may write to"
        return StorageUnavailableError(backend=_BACKEND, operation=operation, path=path, reason=reason)
    code = (getattr(error, "sqlite_errorcode", None) or 0) & _PRIMARY_CODE_MASK
    if code in _CORRUPT or (code == sqlite3.SQLITE_ERROR and operation == "open"):
        reason = (
            f"{error}; the file is damaged or no journal. Nothing was changed: restore it from a backup, "
            "or move it aside to start anew and fetch what the server holds"
        )
        return StorageCorruptionError(backend=_BACKEND, operation=operation, path=path, reason=reason)
    advice = _ADVICE.get(code, "unexpected error of the database")
    return StorageUnavailableError(backend=_BACKEND, operation=operation, path=path, reason=f"{error}; {advice}")


@contextlib.contextmanager
def translated(operation: str, path: Path) -> Iterator[None]:
    """Turn driver and system errors in the block into ours, with the path and what would be right."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise storage_error(error, operation=operation, path=path) from error


def prepare_file(path: Path) -> None:
    """
    Make the directory (0700) and the file (0600) if they are missing, and check that the file can be a journal.

    Raises:
        StorageCorruptionError: The file is empty or no SQLite file.
        StorageUnavailableError: Directory or file cannot be made or read.
    """
    with translated("open", path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    if head != _MAGIC:
        found = "the file is empty" if size == 0 else "the file is no SQLite database"
        reason = f"{found}. Nothing was changed: restore it from a backup, or move it aside to start anew"
        raise StorageCorruptionError(backend=_BACKEND, operation="open", path=path, reason=reason)


def _create(path: Path) -> None:
    fresh = path.with_name(f"{path.name}.new-{os.getpid()}-{os.urandom(4).hex()}")
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            migrate(connection)
            connection.execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
        # Of two processes that start at once, one links its file and both use that one.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        sync_directory(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def connect(path: Path, *, durability: Durability, read_only: bool) -> sqlite3.Connection:
    """Open one connection; transactions are begun by hand."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS_MAX,
        cached_statements=256,
    )
    try:
        connection.execute(f"PRAGMA synchronous={durability.upper()}")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute("PRAGMA temp_store=MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def open_file(path: Path, *, durability: Durability) -> sqlite3.Connection:
    """
    Open the connection that writes: check the file, and bring its tables up to date.

    Raises:
        MigrationError: The file was written by a newer release.
        StorageCorruptionError: It is damaged or no journal.
        StorageUnavailableError: It cannot be opened or written.
    """
    prepare_file(path)
    with translated("open", path):
        connection = connect(path, durability=durability, read_only=False)
        try:
            _check_header(connection, path)
            migrate(connection)
            _check_ends(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_header(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is a journal of a known version."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        reason = "it is a SQLite file, but no agentlayers journal; give the directory of a replica"
        raise StorageCorruptionError(backend=_BACKEND, operation="open", path=path, reason=reason)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        reason = (
            f"the file has schema version {version}, this release knows up to {SCHEMA_VERSION}; "
            "use the release that wrote it, or a newer one"
        )
        raise MigrationError(backend=_BACKEND, operation="open", path=path, reason=reason)
    connection.execute("PRAGMA journal_mode=WAL")


def _check_ends(connection: sqlite3.Connection) -> None:
    """Read both ends of the large tables: finds a truncated file at a cost that does not grow with it."""
    for statement in (
        "SELECT min(position) + max(position) FROM entry",
        "SELECT max(id) FROM entry",
        "SELECT key FROM value ORDER BY key DESC LIMIT 1",
        "SELECT name FROM setting ORDER BY name DESC LIMIT 1",
        "SELECT payload FROM entry WHERE position = (SELECT max(position) FROM entry)",
    ):
        connection.execute(statement).fetchall()


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to :data:`SCHEMA_VERSION` in one transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number in range(version, SCHEMA_VERSION):
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, ?)", (number + 1, time.time_ns() // 1_000_000))
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
