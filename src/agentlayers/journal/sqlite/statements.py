"""
Run statements on one connection in as few steps as possible, and translate what fails.

Python's sqlite3 gives the interpreter lock back at every step, that is for every row, and may wait milliseconds to
get it again while the event loop computes. So many rows are written by one statement with many rows, and read by
one that returns them as one text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Final, TypeVar

from agentlayers.journal.primitives import EntryRow
from agentlayers.journal.sqlite import entry_row
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.sqlite_file import DRIVER_ERRORS, bytes_joined, joined_bytes

__all__ = ["Statements", "batches", "marks"]

_BATCH: Final = 512
_FEW_ROWS_BATCH: Final = 128
_MANY_ROWS: Final = 2 * _BATCH
_GATHER_BYTES_MAX: Final = 8 * 1024 * 1024


_Key = TypeVar("_Key")
T = TypeVar("T")

_ENTRY_BYTES: Final = joined_bytes(*entry_row.BYTES)
_VALUE_BYTES: Final = joined_bytes("key", "value")


class Statements:
    """The statements of one transaction."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self._path = connection, path

    def one(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Return the first row, or :obj:`None`."""
        # Translated here, because a projection must be able to tell the medium's failure from its own.
        try:
            return self._connection.execute(query, values).fetchone()
        except DRIVER_ERRORS as error:
            raise JOURNAL_FORMAT.error(error, operation="read", path=self._path) from error

    def all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return all rows; for few."""
        try:
            return self._connection.execute(query, values).fetchall()
        except DRIVER_ERRORS as error:
            raise JOURNAL_FORMAT.error(error, operation="read", path=self._path) from error

    def gather(self, text: str, source: str, values: Sequence[Any]) -> list[list[str]]:
        """Return the rows of ``source`` as texts in one step; ``text`` joins their columns with commas."""
        (found,) = self.one(f"SELECT group_concat({text}, ';') FROM ({source})", values)
        return [row.split(",") for row in found.split(";")] if found else []

    def run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Change something."""
        try:
            return self._connection.execute(statement, values)
        except DRIVER_ERRORS as error:
            raise JOURNAL_FORMAT.error(error, operation="write", path=self._path) from error

    def insert(self, into: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert many rows; ``into`` is a statement up to its values."""
        if len(rows) == 1:
            self.run(_insertion(into, len(rows[0]), 1), rows[0])
            return
        for some in _powers_of_two(rows):
            self.run(_insertion(into, len(some[0]), len(some)), list(chain.from_iterable(some)))

    def delete(self, where: str, keys: Sequence[Any], *before: Any) -> None:
        """Delete by one column; ``where`` is a statement up to the list of its values."""
        for some in batches(keys):
            self.run(f"{where} IN ({marks(len(some))})", (*before, *some))

    # -- entries -------------------------------------------------------------------------------------------
    def rows_sized(self, sized: Sequence[tuple[int, int]]) -> Iterator[list[EntryRow]]:
        """Read entries by (position, size), in this order, in batches that are bounded in bytes."""
        for positions in _bounded(sized):
            yield self._rows_at(positions)

    def _rows_at(self, positions: Sequence[int]) -> list[EntryRow]:
        if len(positions) == 1:
            row = self.entry("position = ?", positions)
            return [] if row is None else [row]
        rows: dict[int, EntryRow] = {}
        for some in batches(positions):
            source = f"SELECT {entry_row.COLUMNS} FROM entry WHERE position IN ({marks(len(some))})"
            numbers, data = self.one(
                f"SELECT group_concat({entry_row.NUMBERS}, ';'), {_ENTRY_BYTES} FROM ({source})", some
            )
            if numbers:
                rows |= self._undamaged(entry_row.rows_from_joined, numbers, bytes_joined(data))
        return [rows[position] for position in positions if position in rows]

    def entry(self, where: str, values: Sequence[Any]) -> EntryRow | None:
        """Return the first entry of a condition, or :obj:`None`."""
        found = self.one(f"SELECT {entry_row.COLUMNS} FROM entry WHERE {where}", values)
        return None if found is None else self._undamaged(entry_row.row_from_values, found)

    def _undamaged(self, read: Callable[..., T], *found: Any) -> T:
        try:
            return read(*found)
        except (ValueError, TypeError) as error:
            raise JOURNAL_FORMAT.damage(str(error), operation="read", path=self._path) from error

    def insert_entries(self, rows: Sequence[EntryRow]) -> None:
        """Insert entries."""
        self.insert(f"INSERT INTO entry ({entry_row.COLUMNS})", [entry_row.row_values(row) for row in rows])

    def sizes(self, source: str, values: Sequence[Any]) -> list[tuple[int, int]]:
        """Return (position, payload size) of the entries that ``source`` selects, in its order."""
        return [(int(position), int(size)) for position, size in self.gather("position || ',' || size", source, values)]

    # -- read models ---------------------------------------------------------------------------------------
    def values_between(self, start: bytes, end: bytes, rows_max: int, *, reverse: bool) -> list[tuple[bytes, bytes]]:
        """Read one page of a read model, in key order; it ends early when it gets large."""
        order = "DESC" if reverse else "ASC"
        source = f"SELECT key, length(value) AS size FROM value WHERE key >= ? AND key < ? ORDER BY key {order} LIMIT ?"
        sized = [
            (bytes.fromhex(key), int(size))
            for key, size in self.gather("hex(key) || ',' || size", source, (start, end, rows_max))
        ]
        pairs: list[tuple[bytes, bytes]] = []
        for some in _bounded(sized):
            pairs.extend(self._values_of(some))
        return pairs

    def _values_of(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        if len(keys) == 1:
            return self.all("SELECT key, value FROM value WHERE key = ?", keys)
        found: dict[bytes, bytes] = {}
        for some in batches(keys):
            source = f"SELECT key, value FROM value WHERE key IN ({marks(len(some))})"
            sizes, joined = self.one(
                f"SELECT group_concat(length(key) || ',' || length(value)), {_VALUE_BYTES} FROM ({source})", some
            )
            if sizes:
                found.update(_cut_pairs(list(map(int, sizes.split(","))), bytes_joined(joined)))
        return [(key, found[key]) for key in keys if key in found]


def _cut_pairs(sizes: Sequence[int], data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut keys and values apart, from the size of each."""
    ends = list(accumulate(sizes, initial=0))
    for start, middle, end in zip(ends[::2], ends[1::2], ends[2::2], strict=False):
        yield data[start:middle], data[middle:end]


def _bounded(sized: Sequence[tuple[_Key, int]]) -> Iterator[list[_Key]]:
    """Cut a list of (what, size) into batches that are bounded in number and bytes."""
    batch: list[_Key] = []
    bytes_total = 0
    for what, size in sized:
        bytes_total += size
        if batch and (len(batch) >= _BATCH or bytes_total > _GATHER_BYTES_MAX):
            yield batch
            batch, bytes_total = [], size
        batch.append(what)
    if batch:
        yield batch


@lru_cache(maxsize=256)
def _insertion(into: str, columns: int, rows: int) -> str:
    return f"{into} VALUES {','.join([f'({marks(columns)})'] * rows)}"


def marks(count: int) -> str:
    """Return so many place holders."""
    return ",".join("?" * count)


def _powers_of_two(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut into few sizes, so that few statements are prepared, once each."""
    # To prepare a row of a statement costs nearly what it costs to insert it: large ones have to be used again.
    size_max = _BATCH if len(rows) >= _MANY_ROWS else _FEW_ROWS_BATCH
    start = 0
    while start < len(rows):
        size = min(size_max, 1 << (len(rows) - start).bit_length() - 1)
        yield rows[start : start + size]
        start += size


def batches(items: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Cut into few sizes, padded by repetition, for lists of values."""
    for start in range(0, len(items), _BATCH):
        some = tuple(items[start : start + _BATCH])
        size = 1 << (len(some) - 1).bit_length()
        yield some + some[-1:] * (size - len(some))
