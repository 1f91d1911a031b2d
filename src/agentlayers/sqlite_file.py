"""
Open one of our SQLite files, and turn every driver error into ours: the one place that knows both.

Nothing is ever deleted or repaired here. A new file is made under another name and linked into place
complete, so an empty file is never half of a first start, but damage.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from agentlayers.limits import BUSY_SECONDS_MAX

__all__ = [
    "DRIVER_ERRORS",
    "Durability",
    "SQLiteFormat",
    "bytes_joined",
    "check_durability",
    "joined_bytes",
    "transaction",
]

Durability = Literal["full", "normal"]

_PAGE_BYTES_MIN: Final = 512
_PRIMARY_CODE_MASK: Final = 0xFF
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT})
_UNDECODED: Final = "Could not decode to UTF-8"
"""How the driver says that a column declared as text holds something else."""

DRIVER_ERRORS: Final = (sqlite3.Error, OSError, UnicodeDecodeError)
"""What can go wrong with a file; the last one is about names in a damaged schema."""

_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds the file; stop it or try again later",
    sqlite3.SQLITE_LOCKED: "another process holds the file; stop it or try again later",
    sqlite3.SQLITE_FULL: "the disk is full; make room and try again, nothing acknowledged is lost",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; make both writable for this user",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that the directory exists and is writable for this user",
    sqlite3.SQLITE_PERM: "this user may not access it; check owner and mode",
    sqlite3.SQLITE_AUTH: "this user may not access it; check owner and mode",
    sqlite3.SQLITE_IOERR: "the medium failed to read or write; check the disk (and its free space)",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Commit what the block does, or undo it if it fails; the error of the block is the one that is raised."""
    connection.execute(begin)
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have ended it already, as it does when the disk is full.
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


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


@functools.cache
def _joins_zero_bytes() -> bool:
    """Tell whether this SQLite joins any bytes; releases before about 3.39 cut what they joined at a zero byte."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        (found,) = connection.execute("SELECT CAST(group_concat(x'00ff' || x'00', '') AS BLOB)").fetchone()
    return bool(found == b"\x00\xff\x00")


def joined_bytes(*columns: str) -> str:
    """
    Return an expression that joins columns of many rows into one value, to be read in one step.

    Python's driver gives the interpreter lock back at every row, and may wait milliseconds to get it again while an
    event loop computes. Read the value with :func:`bytes_joined`; what has to be cut apart again is for the caller to
    know. No column may be NULL.
    """
    if _joins_zero_bytes():
        return f"CAST(group_concat({' || '.join(columns)}, '') AS BLOB)"
    return f"group_concat({' || '.join(f'hex({column})' for column in columns)}, '')"


def bytes_joined(value: bytes | str | None) -> bytes:
    """Return what :func:`joined_bytes` gave; nothing if there was no row."""
    if value is None:
        return b""
    return bytes.fromhex(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteFormat:
    """
    One kind of file: what tells it from others, and how its tables came to be.

    Attributes:
        what: What the file is, in error texts: ``"journal"``.
        backend: Name of the storage in errors.
        application_id: In the file's header; tells it from any other SQLite file.
        migrations: Statements that lead from version ``n`` to ``n + 1``; the version is ``user_version``. Never
            edited once released, only added to.
        ends: Queries that read both ends of the large tables: they find a truncated file at a cost that does not
            grow with it.
        instead: What to give in place of a file of another program.
        notes_migrations: The table ``migration (version, applied_at_ms)`` tells when each version was reached.
        incremental_vacuum: Space of what is deleted can be given back step by step.
        checkpoint_pages: Pages in the write-ahead log at which it is copied to the file.
        cache_kib: Page cache of a connection; SQLite's default if :obj:`None`.
    """

    what: str
    backend: str
    application_id: int
    migrations: Sequence[Sequence[str]]
    ends: Sequence[str] = ()
    instead: str
    notes_migrations: bool = False
    incremental_vacuum: bool = False
    checkpoint_pages: int
    cache_kib: int | None = None

    @property
    def schema_version(self) -> int:
        """The version this release reads and writes."""
        return len(self.migrations)

    # -- errors --------------------------------------------------------------------------------------------
    def error(self, error: Exception, *, operation: str, path: Path) -> StorageError:
        """Return ours for one of the driver's or the system's errors."""
        if isinstance(error, OSError):
            reason = f"{error.strerror or error}; check that it is a directory this user may write to"
            return self._error(StorageUnavailableError, operation, path, reason)
        code = (getattr(error, "sqlite_errorcode", None) or 0) & _PRIMARY_CODE_MASK
        if isinstance(error, UnicodeDecodeError) or _UNDECODED in str(error):
            return self.damage("the file is damaged: it holds text that is no UTF-8", operation=operation, path=path)
        if code == sqlite3.SQLITE_NOTADB:
            return self.damage("the file is no SQLite database", operation=operation, path=path)
        if code in _CORRUPT or (code == sqlite3.SQLITE_ERROR and operation == "open"):
            return self.damage(f"{error}; the file is damaged or no {self.what}", operation=operation, path=path)
        advice = _ADVICE.get(code)
        if advice is None:
            return self._error(StorageError, operation, path, f"{error}; unexpected error of the database")
        return self._error(StorageUnavailableError, operation, path, f"{error}; {advice}")

    def _error(self, kind: type[StorageError], operation: str, path: Path, reason: str) -> StorageError:
        return kind(backend=self.backend, operation=operation, path=path, reason=reason)

    def damage(self, found: str, *, operation: str, path: Path) -> StorageError:
        """Return the error for a file that holds something never written, with what to do about it."""
        reason = f"{found}. Nothing was changed: restore it from a backup, or move it aside to start anew"
        return self._error(StorageCorruptionError, operation, path, reason)

    @contextlib.contextmanager
    def translated(self, operation: str, path: Path) -> Iterator[None]:
        """
        Turn driver and system errors in the block into ours, with the path and what would be right.

        Raises:
            StorageUnavailableError: Full, locked, unreadable, or an input/output error.
            StorageCorruptionError: Not a database, or damaged.
            StorageError: Anything else the driver reports.
        """
        try:
            yield
        except DRIVER_ERRORS as error:
            raise self.error(error, operation=operation, path=path) from error

    # -- opening -------------------------------------------------------------------------------------------
    def open(self, path: Path, *, durability: Durability = "full") -> sqlite3.Connection:
        """
        Open the connection that writes: make what is missing, check the file, bring its tables up to date.

        The directory is made with mode 0700, the file with 0600.

        Raises:
            MigrationError: The file was written by a newer release, or by another program.
            StorageCorruptionError: It is damaged or no SQLite file.
            StorageUnavailableError: It cannot be made, opened or written.
        """
        with self.translated("open", path):
            self._prepare(path)
            connection = self.connect(path, writable=True, durability=durability)
            try:
                self.check_header(connection, path)
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                self.migrate(connection)
                for statement in self.ends:
                    connection.execute(statement).fetchall()
            except BaseException:
                connection.close()
                raise
            return connection

    def connect(self, path: Path, *, writable: bool, durability: Durability = "full") -> sqlite3.Connection:
        """
        Open one connection to a file that is there; transactions are begun by hand, a reader is refused every write.
        """
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_SECONDS_MAX,
            cached_statements=256,
        )
        try:
            connection.execute(f"PRAGMA synchronous = {durability.upper()}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {self.checkpoint_pages}")
            connection.execute("PRAGMA temp_store = MEMORY")
            if self.cache_kib is not None:
                connection.execute(f"PRAGMA cache_size = -{self.cache_kib}")
            if not writable:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def check_header(self, connection: sqlite3.Connection, path: Path) -> None:
        """
        Check that the file is of this kind, and of a version this release knows.

        Raises:
            MigrationError: It is another program's, or a newer release wrote it.
            StorageCorruptionError: It ends within a page.
        """
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        if application_id != self.application_id:
            reason = f"it is a SQLite file, but no agentlayers {self.what}; {self.instead}"
            raise self._error(MigrationError, "open", path, reason)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > self.schema_version:
            reason = (
                f"the file has schema version {version}, this release knows up to {self.schema_version}; "
                "use the release that wrote it, or a newer agentlayers"
            )
            raise self._error(MigrationError, "open", path, reason)
        self._check_end(path)

    def migrate(self, connection: sqlite3.Connection) -> None:
        """Bring the tables to :attr:`schema_version`, in one transaction."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == self.schema_version:
            return
        with transaction(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            for number in range(version, self.schema_version):
                for statement in self.migrations[number]:
                    connection.execute(statement)
                if self.notes_migrations:
                    now_ms = time.time_ns() // 1_000_000
                    connection.execute("INSERT INTO migration VALUES (?, ?)", (number + 1, now_ms))
            connection.execute(f"PRAGMA user_version = {self.schema_version}")

    def _prepare(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            self._create(path)
        # Looked at without opening it: a program that closes a file drops all locks it has on it, those of its other
        # connections too, and then the next process takes itself for the last and deletes the log they write to.
        self.check_size(path, "open")
        # SQLite would go ahead and leave a log behind that is read-only too, when the cause is long gone.
        for place in (path, path.parent):
            if not os.access(place, os.R_OK | os.W_OK):
                reason = f"{place} is unreadable or read-only; make the file and its directory writable for this user"
                raise self._error(StorageUnavailableError, "open", path, reason)

    def check_size(self, path: Path, operation: str) -> None:
        """
        Refuse what SQLite would take for a new file.

        Raises:
            StorageCorruptionError: It is shorter than any database.
        """
        size = path.stat().st_size
        if size < _PAGE_BYTES_MIN:
            found = "the file is empty" if size == 0 else f"the file is cut off after {size} bytes"
            raise self.damage(found, operation=operation, path=path)

    def _check_end(self, path: Path) -> None:
        """Refuse a file that ends within a page, which SQLite would fill up with zeros."""
        size, log = path.stat().st_size, path.with_name(f"{path.name}-wal")
        # A full disk can cut off what is moved out of the log; then the log still has it.
        if size % _PAGE_BYTES_MIN and not (log.exists() and log.stat().st_size):
            raise self.damage(f"the file is cut off after {size} bytes", operation="open", path=path)

    def _create(self, path: Path) -> None:
        fresh = path.with_name(f"{path.name}.new-{os.getpid()}-{os.urandom(4).hex()}")
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            connection = sqlite3.connect(fresh, isolation_level=None)
            try:
                if self.incremental_vacuum:
                    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = DELETE").fetchone()
                connection.execute(f"PRAGMA application_id = {self.application_id}")
                self.migrate(connection)
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            finally:
                connection.close()
            # Of two processes that start at once, one links its file and both use that one.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
            sync_directory(path.parent)
        finally:
            fresh.unlink(missing_ok=True)
