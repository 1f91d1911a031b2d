"""
Server journals in one SQLite file: the embedded default.

One thread writes (:mod:`agentlayers.server.sqlite_writer`), a few others read; nothing here blocks the
event loop. Only one server at a time may have a directory open.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from agentlayers.errors import (
    StateError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
)
from agentlayers.limits import ENTRY_ID_BYTES, IV_BYTES
from agentlayers.logs import get_logger
from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry
from agentlayers.protocol.sequence_digest import EMPTY_DIGEST
from agentlayers.server.sqlite_digest import digest_below, fill_step, unfilled_journals
from agentlayers.server.sqlite_file import FILE_NAME, POSITION_BITS, SERVER_FORMAT
from agentlayers.server.sqlite_writer import AppendJob, CallJob, Outcome, SQLiteWriter
from agentlayers.server.storage import Appended, Found, ServerStorage, TenantInfo, new_tenant_info
from agentlayers.sqlite_file import bytes_joined, joined_bytes

__all__ = ["SQLiteServerStorage"]

T = TypeVar("T")
logger = get_logger(__name__)
_READER_THREADS: Final = 2
_SEQUENCE_MASK: Final = (1 << POSITION_BITS) - 1
_LOCK_NAME: Final = "server.lock"


class SQLiteServerStorage(ServerStorage):
    """
    Durable journals below a directory, in ``server.sqlite``.

    An append returns after its commit reached the disk; appends that wait together share one commit.

    Args:
        directory: Created with mode 0700 if absent. A server wants one of its own.
        random: Source of the tenants' ids.
    """

    def __init__(self, directory: str | Path, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._directory = Path(directory)
        self._random = random
        self._writer: SQLiteWriter | None = None

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._directory / FILE_NAME

    async def __aenter__(self) -> Self:
        """
        Open the file, creating or migrating it.

        Raises:
            StorageUnavailableError: Not readable, or another server has it open.
            StorageCorruptionError: Damaged, or no SQLite file.
            MigrationError: Of a newer release, or another program's.
        """
        if self._writer is not None:
            raise StateError("the server storage is open already; open each instance once")
        self._loop = asyncio.get_running_loop()
        self._lock = await asyncio.to_thread(_lock_directory, self._directory)
        try:
            await self._open()
        except BaseException:
            _unlock(self._lock)
            raise
        return self

    async def _open(self) -> None:
        path = self._directory / FILE_NAME
        opened: asyncio.Future[None] = self._loop.create_future()

        def deliver(outcomes: list[Outcome]) -> None:
            self._loop.call_soon_threadsafe(_settle, outcomes, opened)

        writer = SQLiteWriter(path, deliver=deliver)
        writer.start()
        try:
            await opened
        except BaseException:
            writer.stop()
            writer.join()
            raise
        self._writer = writer
        self._readers = _Readers(path)
        self._tenants: dict[str, TenantInfo] = {}
        self._filling = asyncio.create_task(self._fill_digests(writer), name="fill digests")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish what is queued, then close every thread and connection."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._filling.cancel()
        await asyncio.wait([self._filling])
        writer.stop()
        try:
            await asyncio.to_thread(writer.join)
            await asyncio.to_thread(self._readers.close)
        finally:
            _unlock(self._lock)

    async def tenant(self, tenant: str) -> TenantInfo:
        """Return the tenant's ids, creating them durably the first time."""
        info = self._tenants.get(tenant)
        if info is None:
            candidate = new_tenant_info(self._random)
            waiter = self._loop.create_future()
            job = CallJob("open tenant", lambda db: _tenant(db, tenant, candidate), waiter)
            self._opened_writer().submit(job)
            info = self._tenants[tenant] = await waiter
        return info

    async def append(self, tenant: str, public_key: str, entries: Sequence[EncryptedEntry]) -> Appended:
        """Store what is new; it is on the disk when this returns, also for a caller that stopped waiting."""
        writer = self._opened_writer()
        if not entries:
            return Appended((), ())
        waiter = self._loop.create_future()
        writer.submit(AppendJob(tenant, public_key, entries, waiter))
        appended: Appended = await waiter
        return appended

    async def read(
        self, tenant: str, public_key: str, start: int, *, entries_max: int, bytes_max: int
    ) -> list[RemoteEncryptedEntry]:
        """Return entries from ``start`` on, within the bounds, at least one if there is one."""
        self._opened_writer()
        return await self._readers.run(
            "read",
            lambda db: _read(db, self.path, (tenant, public_key), start, entries_max, bytes_max),
        )

    async def find(self, tenant: str, public_key: str, entry_ids: Sequence[bytes], *, bytes_max: int) -> Found:
        """Look entries up by id, within the bound."""
        self._opened_writer()
        return await self._readers.run("read", lambda db: _find(db, (tenant, public_key), entry_ids, bytes_max))

    async def head(self, tenant: str, public_key: str) -> int:
        """Return the first unused sequence of the key."""
        self._opened_writer()
        return await self._readers.run("read", lambda db: _head(db, (tenant, public_key)))

    async def digest(self, tenant: str, public_key: str, sequence: int) -> bytes | None:
        """Return the digest of all entry ids below a sequence, if there are so many and it is known."""
        self._opened_writer()
        return await self._readers.run("read", lambda db: _digest(db, (tenant, public_key), sequence))

    async def _fill_digests(self, writer: SQLiteWriter) -> None:
        """Compute what an older release did not, a step at a time between the appends."""
        try:
            for journal in await self._readers.run("read", unfilled_journals):
                while await self._fill_step(writer, journal):
                    pass
        except StorageError as error:
            # The server works without them, and the next start goes on here.
            logger.error("digests_not_filled", error=str(error))  # noqa: TRY400 - says it all

    async def _fill_step(self, writer: SQLiteWriter, journal: int) -> bool:
        waiter: asyncio.Future[bool] = self._loop.create_future()

        def step(connection: sqlite3.Connection) -> bool:
            return fill_step(connection, journal)

        writer.submit(CallJob("fill digests", step, waiter, changes_journals=True))
        return await waiter

    def _opened_writer(self) -> SQLiteWriter:
        if self._writer is None:
            raise StateError("the server storage is not open; use it inside `async with SQLiteServerStorage(...)`")
        return self._writer


def _settle(outcomes: list[Outcome], opened: asyncio.Future[None]) -> None:
    for outcome in outcomes:
        waiter = opened if outcome.waiter is None else outcome.waiter
        if waiter.done():
            # Its task was cancelled; what was committed stays committed.
            continue
        if outcome.error is None:
            waiter.set_result(outcome.value)
        else:
            waiter.set_exception(outcome.error)


class _Readers:
    """A few threads, each with a read-only connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(_READER_THREADS, thread_name_prefix="server-sqlite-reader")

    async def run(self, operation: str, call: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, operation, call)

    def _run(self, operation: str, call: Callable[[sqlite3.Connection], T]) -> T:
        with SERVER_FORMAT.translated(operation, self._path):
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = SERVER_FORMAT.connect(self._path, writable=False)
                self._connections.append(connection)
            return call(connection)

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()


def _tenant(connection: sqlite3.Connection, tenant: str, candidate: TenantInfo) -> TenantInfo:
    connection.execute(
        "INSERT OR IGNORE INTO tenants (name, remote_id, incarnation) VALUES (?, ?, ?)",
        (tenant, candidate.remote_id, candidate.incarnation),
    )
    row = connection.execute("SELECT remote_id, incarnation FROM tenants WHERE name = ?", (tenant,)).fetchone()
    return TenantInfo(*row)


def _base(connection: sqlite3.Connection, key: tuple[str, str]) -> int | None:
    row = connection.execute("SELECT journal FROM journals WHERE tenant = ? AND public_key = ?", key).fetchone()
    return None if row is None else row[0] << POSITION_BITS


def _digest(connection: sqlite3.Connection, key: tuple[str, str], sequence: int) -> bytes | None:
    base = _base(connection, key)
    if base is None:
        return EMPTY_DIGEST if sequence == 0 else None
    return digest_below(connection, base, sequence)


def _head(connection: sqlite3.Connection, key: tuple[str, str]) -> int:
    base = _base(connection, key)
    if base is None:
        return 0
    (last,) = connection.execute(
        "SELECT max(position) FROM entries WHERE position BETWEEN ? AND ?",
        (base, base | _SEQUENCE_MASK),
    ).fetchone()
    return 0 if last is None else (last & _SEQUENCE_MASK) + 1


def _read(
    connection: sqlite3.Connection,
    path: Path,
    key: tuple[str, str],
    start: int,
    entries_max: int,
    bytes_max: int,
) -> list[RemoteEncryptedEntry]:
    base = _base(connection, key)
    if base is None:
        return []
    first = base + max(start, 0)
    # Sizes first, so that memory is spent on no more than was asked for; each query is one row, one step.
    count, last, regular, text = connection.execute(
        f"SELECT count(*), max(position), sum(length(iv) = {IV_BYTES} AND length(entry_id) = {ENTRY_ID_BYTES}),"
        " group_concat(length(ciphertext))"
        " FROM (SELECT * FROM entries WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?)",
        (first, base | _SEQUENCE_MASK, entries_max),
    ).fetchone()
    if not count:
        return []
    if last - first + 1 != count or regular != count:
        raise _corruption(connection, path, first, last)
    sizes = list(map(int, text.split(",")))
    fitting = max(1, bisect_right(list(accumulate(sizes)), bytes_max))
    (joined,) = connection.execute(
        f"SELECT {joined_bytes('iv', 'entry_id', 'ciphertext')}"
        " FROM (SELECT * FROM entries WHERE position BETWEEN ? AND ? ORDER BY position)",
        (first, first + fitting - 1),
    ).fetchone()
    return _cut(bytes_joined(joined), first & _SEQUENCE_MASK, sizes[:fitting])


def _find(connection: sqlite3.Connection, key: tuple[str, str], entry_ids: Sequence[bytes], bytes_max: int) -> Found:
    base = _base(connection, key)
    found = Found([], len(entry_ids))
    if base is None:
        return found
    total = 0
    for answered, entry_id in enumerate(entry_ids):
        row = connection.execute(
            "SELECT position, iv, ciphertext FROM entries WHERE journal = ? AND entry_id = ?",
            (base >> POSITION_BITS, entry_id),
        ).fetchone()
        if row is None:
            continue
        position, iv, ciphertext = row
        total += len(ciphertext)
        if found.entries and total > bytes_max:
            return found._replace(answered=answered)
        found.entries.append(RemoteEncryptedEntry(position & _SEQUENCE_MASK, iv, entry_id, ciphertext))
    return found


def _corruption(connection: sqlite3.Connection, path: Path, first: int, last: int) -> StorageCorruptionError:
    """Say which of the entries from ``first`` to ``last`` is not what an append wrote."""
    query = "SELECT length(iv), length(entry_id) FROM entries WHERE position = ?"
    position, found = first, connection.execute(query, (first,)).fetchone()
    while found == (IV_BYTES, ENTRY_ID_BYTES) and position < last:
        position += 1
        found = connection.execute(query, (position,)).fetchone()
    state = "damaged" if found else "missing"
    reason = f"sequence {position & _SEQUENCE_MASK} of a journal is {state}; restore a backup"
    return StorageCorruptionError(backend=SERVER_FORMAT.backend, operation="read", reason=reason, path=path)


def _cut(data: bytes, sequence: int, sizes: Sequence[int]) -> list[RemoteEncryptedEntry]:
    entries = []
    start = 0
    for number, size in enumerate(sizes, sequence):
        id_start = start + IV_BYTES
        body_start = id_start + ENTRY_ID_BYTES
        end = body_start + size
        entries.append(
            RemoteEncryptedEntry(number, data[start:id_start], data[id_start:body_start], data[body_start:end])
        )
        start = end
    return entries


def _lock_directory(directory: Path) -> int:
    """Take the directory for this process; the lock goes with the process, however it ends."""
    path = directory / _LOCK_NAME
    with SERVER_FORMAT.translated("open", directory / FILE_NAME):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        import fcntl
    except ImportError:  # Windows: SQLite's own locks still keep the file whole
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        reason = "another server has this directory open; stop it, or give this one a directory of its own"
        raise StorageUnavailableError(
            backend=SERVER_FORMAT.backend, operation="open", reason=reason, path=directory
        ) from error
    return descriptor


def _unlock(descriptor: int) -> None:
    os.close(descriptor)
