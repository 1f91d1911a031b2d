"""
Pairs in a SQLite file: the embedded default.

Every row step of a statement gives up the interpreter lock, and a busy event loop hands it back only every
few milliseconds; so a write is a few statements of many rows, and a page of a scan comes back as one row.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Final

from agentlayers.errors import StorageCorruptionError
from agentlayers.file_mark import file_mark
from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.expectation import NOTHING_EXPECTED, Expectation, check_expected
from agentlayers.key_value.key_range import KeyRange
from agentlayers.key_value.key_value_store import Changes, Pair
from agentlayers.key_value.sqlite_file import FILE_NAME, KEY_VALUE_FORMAT
from agentlayers.key_value.threaded_store import ThreadedKeyValueStore
from agentlayers.limits import KEY_VALUE_PAGE_BYTES_MAX, KEY_VALUE_PAGE_ENTRIES_MAX
from agentlayers.sqlite_file import transaction

__all__ = ["SQLiteKeyValueStore"]

_ROWS_PER_STATEMENT: Final = (256, 32, 8, 1)
"""Row counts with a prepared statement of their own; any number of rows is a sum of few of them."""


class SQLiteKeyValueStore(ThreadedKeyValueStore):
    """
    Keep everything in ``key_value.sqlite``; what was acknowledged survives a power failure.

    Args:
        directory: Where the file is; made if missing.
    """

    capabilities: ClassVar = KeyValueCapabilities(
        ordered_scans=True,
        atomic_batches=True,
        conditional_batches=True,
        durable=True,
        shared_between_processes=True,
    )

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        super().__init__(SQLiteMedium(self.directory / FILE_NAME))

    def __repr__(self) -> str:
        return f"SQLiteKeyValueStore({str(self.directory)!r})"


class SQLiteMedium:
    """The file, from one writing and several reading threads."""

    shares_commits = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading: list[sqlite3.Connection] = []
        self._local = threading.local()

    def open(self) -> None:
        """Create the file if it is missing, and check it."""
        self._writing = KEY_VALUE_FORMAT.open(self._path)

    def close(self) -> None:
        """Close every connection; the last one to close empties the write-ahead log."""
        with KEY_VALUE_FORMAT.translated("close", self._path):
            for connection in self._reading:
                connection.close()
            self._reading.clear()
            self._local = threading.local()
            self._writing.close()

    def home(self) -> str:
        """Say what a copy does not share with the file."""
        with KEY_VALUE_FORMAT.translated("open", self._path):
            return file_mark(self._path)

    def write(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        """Make all changes in one transaction."""
        puts: list[object] = []
        deletes: list[object] = []
        for key, value in changes.items():
            if value is None:
                deletes.append(key)
            else:
                puts += (key, value, _checksum(key, value))
        with KEY_VALUE_FORMAT.translated("write", self._path), transaction(self._writing):
            check_expected(expected, self._read_writing, backend=KEY_VALUE_FORMAT.backend, path=self._path)
            _in_pieces(self._writing, _put_sql, puts, columns=3)
            _in_pieces(self._writing, _delete_sql, deletes, columns=1)

    def read(self, key: bytes) -> bytes | None:
        """Return one value."""
        with KEY_VALUE_FORMAT.translated("read", self._path):
            return self._value(self._reader(), key)

    def _read_writing(self, key: bytes) -> bytes | None:
        return self._value(self._writing, key)

    def _value(self, connection: sqlite3.Connection, key: bytes) -> bytes | None:
        row = connection.execute("SELECT value, checksum FROM pair WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._checked(key, *row)[1]

    def pages(self, key_range: KeyRange, limit: int | None) -> Iterator[list[Pair]]:
        """Yield pages, each read in a transaction of its own."""
        is_last = False
        while not is_last and (limit is None or limit > 0):
            count = KEY_VALUE_PAGE_ENTRIES_MAX if limit is None else min(limit, KEY_VALUE_PAGE_ENTRIES_MAX)
            with KEY_VALUE_FORMAT.translated("scan", self._path), transaction(self._reader(), "BEGIN") as connection:
                page, is_last = self._page(connection, key_range, count)
            if not page:
                return
            yield page
            key_range = key_range.beyond(page[-1][0])
            limit = None if limit is None else limit - len(page)

    def _page(self, connection: sqlite3.Connection, key_range: KeyRange, count: int) -> tuple[list[Pair], bool]:
        """Return a page, and whether nothing is left behind it."""
        source, bounds = _selection(key_range)
        # Sizes first, so that memory is spent on no more than a page may hold; they are in the row headers.
        (text,) = connection.execute(
            f"SELECT group_concat(length(key) || ' ' || length(value) || ' ' || checksum) FROM ({source})",
            (*bounds, count),
        ).fetchone()
        if not text:
            return [], True
        sizes = [tuple(map(int, item.split(" "))) for item in text.split(",")]
        totals = accumulate(key + value for key, value, _ in sizes)
        fitting = max(1, sum(total <= KEY_VALUE_PAGE_BYTES_MAX for total in totals))
        is_last = fitting == len(sizes) < count
        if fitting == 1:
            return [self._checked(*connection.execute(source, (*bounds, 1)).fetchone())], is_last
        (text,) = connection.execute(
            f"SELECT group_concat(hex(key) || hex(value), '') FROM ({source})", (*bounds, fitting)
        ).fetchone()
        return self._cut(bytes.fromhex(text), sizes[:fitting]), is_last

    def _cut(self, data: bytes, sizes: Sequence[tuple[int, ...]]) -> list[Pair]:
        page = []
        start = 0
        for key_size, value_size, checksum in sizes:
            middle = start + key_size
            end = middle + value_size
            page.append(self._checked(data[start:middle], data[middle:end], checksum))
            start = end
        return page

    def _checked(self, key: bytes, value: bytes, checksum: int) -> Pair:
        if _checksum(key, value) != checksum:
            reason = f"the value of key {key[:40]!r} is damaged; restore the file from a backup or delete the key"
            raise StorageCorruptionError(
                backend=KEY_VALUE_FORMAT.backend, operation="read", reason=reason, path=self._path
            )
        return key, value

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = KEY_VALUE_FORMAT.connect(self._path, writable=False)
            self._reading.append(connection)
        return connection


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))


def _selection(key_range: KeyRange) -> tuple[str, tuple[bytes, ...]]:
    """Return the statement that selects a range, up to a last parameter of rows, and its first parameters."""
    bounds: tuple[bytes, ...] = (key_range.start,)
    condition = "key >= ?"
    if key_range.end is not None:
        bounds += (key_range.end,)
        condition += " AND key < ?"
    direction = "DESC" if key_range.reverse else "ASC"
    return f"SELECT key, value, checksum FROM pair WHERE {condition} ORDER BY key {direction} LIMIT ?", bounds


@functools.cache
def _put_sql(rows: int) -> str:
    values = ",".join(["(?,?,?)"] * rows)
    return (
        f"INSERT INTO pair (key, value, checksum) VALUES {values}"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, checksum = excluded.checksum"
    )


@functools.cache
def _delete_sql(rows: int) -> str:
    return f"DELETE FROM pair WHERE key IN ({','.join('?' * rows)})"


def _in_pieces(
    connection: sqlite3.Connection, sql: Callable[[int], str], parameters: list[object], *, columns: int
) -> None:
    start = 0
    for rows in _ROWS_PER_STATEMENT:
        step = rows * columns
        while len(parameters) - start >= step:
            connection.execute(sql(rows), parameters[start : start + step])
            start += step
