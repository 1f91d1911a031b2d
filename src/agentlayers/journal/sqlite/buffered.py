"""
What is kept in Python until the commit, and savepoints over it.

New entries, states of keys and values of read models are written most, so they are written in bulk when the
transaction ends; look-ups see through to them. A savepoint of SQLite is only opened when something inside it
really has to go to the database, so a projection that touches nothing but its read model costs none.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentlayers.journal.causality import KeyState
from agentlayers.journal.primitives import EntryRow
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.sqlite.statements import Statements
from agentlayers.journal.state_codec import decode_state, encode_state
from agentlayers.journal.transaction import JournalTransaction

__all__ = ["BufferedTransaction"]

_SCAN_ROWS: Final = 256
_TEXTS_WAITING_MAX: Final = 64
"""So many texts are searched one by one; with more they go to the index together."""


@dataclass(slots=True)
class _Savepoint:
    rows_mark: int
    undo_mark: int
    next_position: int | None
    highest: bytes | None
    is_in_database: bool = False


class _Change(NamedTuple):
    target: dict[Any, Any]
    key: Any
    before: Any


_ABSENT: Final = object()


class BufferedTransaction(JournalTransaction):
    """
    Statements, buffers and savepoints over one connection.

    Attributes:
        stores: Numbers of stores by name; handed on to the next transaction when this one is committed.
    """

    def __init__(
        self,
        registry: JournalRegistry,
        connection: sqlite3.Connection,
        *,
        path: Path,
        read_only: bool,
        stores: dict[str, int],
    ) -> None:
        super().__init__(registry, read_only=read_only)
        self.sql = Statements(connection, path)
        self.stores = stores
        self._names = {number: name for name, number in stores.items()}
        self._rows: list[EntryRow] = []
        self._rows_flushed = 0
        self._rows_by_id: dict[tuple[int, bytes], EntryRow] = {}
        self._states: dict[tuple[int, str], KeyState] = {}
        self._values: dict[bytes, bytes | None] = {}
        self._value_keys: list[bytes] | None = None  # sorted; only once something was scanned
        self._texts: dict[int, tuple[str, int, str] | None] = {}
        self._first_added: int | None = None
        self._undo: list[_Change] = []
        self._savepoints: list[_Savepoint] = []
        self._next_position: int | None = None

    # -- buffering -----------------------------------------------------------------------------------------
    def flush(self) -> None:
        """Write everything that is still kept in Python; called before the commit."""
        assert not self._savepoints
        self._flush_rows(len(self._rows))
        if self._states:
            self.sql.insert(
                "INSERT OR REPLACE INTO key_state",
                [(*key, len(state.heads), encode_state(state)) for key, state in self._states.items()],
            )
        if self._texts:
            self._flush_texts()
        if self._values:
            self._flush_values()

    def _flush_values(self) -> None:
        # In key order, so that neighbours land on the same page.
        changed = sorted(self._values)
        puts = [(key, value) for key in changed if (value := self._values[key]) is not None]
        self.sql.insert("INSERT OR REPLACE INTO value", puts)
        if len(puts) < len(changed):
            gone = [key for key in changed if self._values[key] is None]
            self.sql.delete("DELETE FROM value WHERE key", gone)

    def _flush_texts(self) -> None:
        first_added = self._first_added
        replaced = [position for position in self._texts if first_added is None or position < first_added]
        for table, column in (("text_index", "rowid"), ("text_waiting", "position")):
            self.sql.delete(f"DELETE FROM {table} WHERE {column}", replaced)
        new = [(position, *text) for position, text in sorted(self._texts.items()) if text is not None]
        (waiting,) = self.sql.one("SELECT count(*) FROM text_waiting")
        if waiting + len(new) < _TEXTS_WAITING_MAX:
            self.sql.insert("INSERT INTO text_waiting (position, text, store, scope)", new)
        else:
            self.settle_texts()
            self.sql.insert("INSERT INTO text_index (rowid, text, store, scope)", new)

    def settle_texts(self) -> None:
        """Bring texts that wait into the index."""
        columns = "text, store, scope"
        self.sql.run(f"INSERT INTO text_index (rowid, {columns}) SELECT position, {columns} FROM text_waiting")
        self.sql.run("DELETE FROM text_waiting")

    def _flush_rows(self, count: int) -> None:
        if count <= 0:
            return
        self.sql.insert_entries(self._rows[:count])
        for row in self._rows[:count]:
            self._rows_by_id.pop((row.store, row.id), None)
        del self._rows[:count]
        self._rows_flushed += count

    def _write_through(self) -> None:
        """Bring the database to the present point, so that a statement can follow."""
        for depth, savepoint in enumerate(self._savepoints):
            if not savepoint.is_in_database:
                self._flush_rows(savepoint.rows_mark - self._rows_flushed)
                self.sql.run(f"SAVEPOINT s{depth}")
                savepoint.is_in_database = True
        self._flush_rows(len(self._rows))

    def _write_rows(self) -> None:
        """Bring new entries to the database, so that a query sees them."""
        if self._rows:
            self._write_through()

    @property
    def rows_added(self) -> int:
        """How many entries this transaction has added so far."""
        return self._rows_flushed + len(self._rows)

    def _write(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._write_through()
        return self.sql.run(statement, values)

    def _set(self, target: dict[Any, Any], key: Any, value: Any) -> None:
        if self._savepoints:
            self._undo.append(_Change(target, key, target.get(key, _ABSENT)))
        target[key] = value

    # -- savepoints ----------------------------------------------------------------------------------------
    def open_savepoint(self) -> int:
        """Mark the present state."""
        rows_mark = self._rows_flushed + len(self._rows)
        self._savepoints.append(_Savepoint(rows_mark, len(self._undo), self._next_position, self._highest))
        return len(self._savepoints) - 1

    def release_savepoint(self, token: int) -> None:
        """Keep what was done since."""
        assert token == len(self._savepoints) - 1
        if self._savepoints.pop().is_in_database:
            self.sql.run(f"RELEASE s{token}")
        if not self._savepoints:
            self._undo.clear()

    def rollback_savepoint(self, token: int) -> None:
        """Undo what was done since, savepoints opened inside it included."""
        savepoint = self._savepoints[token]
        del self._savepoints[token:]
        if savepoint.is_in_database:
            self.sql.run(f"ROLLBACK TO s{token}")
            self.sql.run(f"RELEASE s{token}")
            self._rows_flushed = savepoint.rows_mark
            keep = 0
        else:
            keep = savepoint.rows_mark - self._rows_flushed
        for row in self._rows[keep:]:
            self._rows_by_id.pop((row.store, row.id), None)
        del self._rows[keep:]
        self._next_position, self._highest = savepoint.next_position, savepoint.highest
        while len(self._undo) > savepoint.undo_mark:
            target, key, before = self._undo.pop()
            if before is _ABSENT:
                target.pop(key, None)
                self._value_keys = None
            else:
                target[key] = before

    # -- keys ----------------------------------------------------------------------------------------------
    def key_state(self, store: int, primary_key: str) -> KeyState | None:
        """Return what is known of a key."""
        kept = self._states.get((store, primary_key))
        if kept is not None:
            return kept
        found = self.sql.one("SELECT state FROM key_state WHERE store = ? AND primary_key = ?", (store, primary_key))
        return None if found is None else decode_state(found[0])

    def put_key_state(self, store: int, primary_key: str, state: KeyState) -> None:
        """Replace what is known of a key."""
        self._set(self._states, (store, primary_key), state)

    def conflicted_keys(self, store: int) -> list[str]:
        """List the keys with several heads."""
        query = "SELECT primary_key FROM key_state INDEXED BY key_state_conflict WHERE store = ? AND head_count > 1"
        keys = {key for (key,) in self.sql.all(query, (store,))}
        for (number, key), state in self._states.items():
            if number == store:
                (keys.add if len(state.heads) > 1 else keys.discard)(key)
        return sorted(keys)

    # -- read models ---------------------------------------------------------------------------------------
    def get_value(self, key: bytes) -> bytes | None:
        """Read one value of a read model."""
        kept = self._values.get(key, _ABSENT)
        if kept is not _ABSENT:
            return kept  # type: ignore[return-value]
        found = self.sql.one("SELECT value FROM value WHERE key = ?", (key,))
        return None if found is None else found[0]

    def put_value(self, key: bytes, value: bytes | None) -> None:
        """Write or delete one value of a read model."""
        values = self._values
        if self._value_keys is not None and key not in values:
            insort(self._value_keys, key)
        if self._savepoints:
            self._undo.append(_Change(values, key, values.get(key, _ABSENT)))
        values[key] = value

    def scan_values(
        self, start: bytes, end: bytes, *, reverse: bool, rows_max: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over values in key order, as they are when the scan starts to read each page."""
        kept = self._kept_keys(start, end)
        if reverse:
            kept.reverse()
        found_max = None if rows_max is None else rows_max + len(kept)
        found = self._scan_database(start, end, reverse=reverse, rows_max=found_max)
        pairs = found if not kept else self._merged(found, kept, reverse=reverse)
        for count, pair in enumerate(pairs):
            if rows_max is not None and count >= rows_max:
                return
            yield pair

    def _kept_keys(self, start: bytes, end: bytes) -> list[bytes]:
        keys = self._value_keys
        if keys is None:
            keys = self._value_keys = sorted(self._values)
        return keys[bisect_left(keys, start) : bisect_left(keys, end)]

    def _scan_database(
        self, start: bytes, end: bytes, *, reverse: bool, rows_max: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        # In pages, because a cursor left open inside a savepoint would not survive its rollback.
        page = _SCAN_ROWS if rows_max is None else max(1, min(_SCAN_ROWS, rows_max))
        while True:
            pairs = self.sql.values_between(start, end, page, reverse=reverse)
            yield from pairs
            if len(pairs) < page:
                return
            if reverse:
                end = pairs[-1][0]
            else:
                start = pairs[-1][0] + b"\x00"

    def _merged(
        self, found: Iterator[tuple[bytes, bytes]], kept: list[bytes], *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        values = {key: self._values[key] for key in kept}
        at = 0
        for key, value in found:
            while at < len(kept) and (kept[at] > key if reverse else kept[at] < key):
                changed = values[kept[at]]
                if changed is not None:
                    yield kept[at], changed
                at += 1
            if key not in values:
                yield key, value
        for key in kept[at:]:
            changed = values[key]
            if changed is not None:
                yield key, changed
