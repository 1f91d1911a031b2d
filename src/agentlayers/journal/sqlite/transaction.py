"""
One SQLite transaction behind the journal's primitives.

What is written most is kept in Python until the commit and then written in bulk: new entries, states of keys,
values of read models. Look-ups see through to it. Savepoints of SQLite are only opened when something inside
them really has to go to the database, so a projection that touches nothing but its read model costs none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from agentlayers.journal.causality import KeyState
from agentlayers.journal.primitives import (
    EntryRow,
    HeldEntry,
    QuarantinedRow,
    RemoteRow,
    UnappliedRow,
)
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.sqlite.state_codec import decode_state, encode_state
from agentlayers.journal.transaction import JournalTransaction

__all__ = ["SQLiteTransaction"]

_ENTRY: Final = "position, store, id, event, primary_key, payload, outbound, origin, keyed, applied"
_REMOTE: Final = "number, store, remote_id, url, next_sequence, incarnation, watermark, is_retired"
_SCAN_ROWS: Final = 256
_IDS_PER_QUERY: Final = (1, 8, 64, 512)
_POSITION_FLOOR: Final = "position_floor"
_NO_LIMIT: Final = -1


class _Savepoint:
    __slots__ = ("is_in_database", "next_position", "rows_mark", "undo_mark")

    def __init__(self, rows_mark: int, undo_mark: int, next_position: int | None) -> None:
        self.rows_mark, self.undo_mark, self.next_position = rows_mark, undo_mark, next_position
        self.is_in_database = False


class _Change(NamedTuple):
    target: dict[Any, Any]
    key: Any
    before: Any


_ABSENT: Final = object()


class SQLiteTransaction(JournalTransaction):
    """
    The primitives over one connection.

    Attributes:
        stores: Numbers of stores by name; handed on to the next transaction when this one is committed.
    """

    def __init__(
        self,
        registry: JournalRegistry,
        connection: sqlite3.Connection,
        *,
        read_only: bool,
        stores: dict[str, int],
    ) -> None:
        super().__init__(registry, read_only=read_only)
        self._connection = connection
        self._execute = connection.execute
        self.stores = stores
        self._names = {number: name for name, number in stores.items()}
        self._rows: list[EntryRow] = []
        self._rows_flushed = 0
        self._rows_by_id: dict[bytes, EntryRow] = {}
        self._states: dict[tuple[int, str], KeyState] = {}
        self._values: dict[bytes, bytes | None] = {}
        self._undo: list[_Change] = []
        self._savepoints: list[_Savepoint] = []
        self._next_position: int | None = None

    # -- buffering -----------------------------------------------------------------------------------------
    def flush(self) -> None:
        """Write everything that is still kept in Python; called before the commit."""
        assert not self._savepoints
        self._flush_rows(len(self._rows))
        if self._states:
            self._connection.executemany(
                "INSERT OR REPLACE INTO key_state VALUES (?, ?, ?, ?)",
                [(*key, len(state.heads), encode_state(state)) for key, state in self._states.items()],
            )
        # In key order, so that neighbours land on the same page.
        changed = sorted(self._values)
        puts = [(key, value) for key in changed if (value := self._values[key]) is not None]
        if puts:
            self._connection.executemany("INSERT OR REPLACE INTO value VALUES (?, ?)", puts)
        if len(puts) < len(changed):
            gone = [(key,) for key in changed if self._values[key] is None]
            self._connection.executemany("DELETE FROM value WHERE key = ?", gone)

    def _flush_rows(self, count: int) -> None:
        if count <= 0:
            return
        self._connection.executemany("INSERT INTO entry VALUES (?,?,?,?,?,?,?,?,?,?)", self._rows[:count])
        for row in self._rows[:count]:
            self._rows_by_id.pop(row.id, None)
        del self._rows[:count]
        self._rows_flushed += count

    def _write_through(self) -> None:
        """Bring the database to the present point, so that a statement can follow."""
        for depth, savepoint in enumerate(self._savepoints):
            if not savepoint.is_in_database:
                self._flush_rows(savepoint.rows_mark - self._rows_flushed)
                self._execute(f"SAVEPOINT s{depth}")
                savepoint.is_in_database = True
        self._flush_rows(len(self._rows))

    def _write(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._write_through()
        return self._execute(statement, values)

    def _set(self, target: dict[Any, Any], key: Any, value: Any) -> None:
        if self._savepoints:
            self._undo.append(_Change(target, key, target.get(key, _ABSENT)))
        target[key] = value

    # -- savepoints ----------------------------------------------------------------------------------------
    def open_savepoint(self) -> int:
        """Mark the present state."""
        self._savepoints.append(
            _Savepoint(self._rows_flushed + len(self._rows), len(self._undo), self._next_position)
        )
        return len(self._savepoints) - 1

    def release_savepoint(self, token: int) -> None:
        """Keep what was done since."""
        assert token == len(self._savepoints) - 1
        if self._savepoints.pop().is_in_database:
            self._execute(f"RELEASE s{token}")
        if not self._savepoints:
            self._undo.clear()

    def rollback_savepoint(self, token: int) -> None:
        """Undo what was done since, savepoints opened inside it included."""
        savepoint = self._savepoints[token]
        del self._savepoints[token:]
        if savepoint.is_in_database:
            self._execute(f"ROLLBACK TO s{token}")
            self._execute(f"RELEASE s{token}")
            self._rows_flushed = savepoint.rows_mark
            keep = 0
        else:
            keep = savepoint.rows_mark - self._rows_flushed
        for row in self._rows[keep:]:
            self._rows_by_id.pop(row.id, None)
        del self._rows[keep:]
        self._next_position = savepoint.next_position
        while len(self._undo) > savepoint.undo_mark:
            target, key, before = self._undo.pop()
            if before is _ABSENT:
                target.pop(key, None)
            else:
                target[key] = before

    # -- stores and settings -------------------------------------------------------------------------------
    def store_number(self, name: str) -> int:
        """Return the number of a store."""
        number = self.stores.get(name)
        if number is not None:
            return number
        found = self._execute("SELECT number FROM store WHERE name = ?", (name,)).fetchone()
        if found is None and self.read_only:
            return 0
        if found is None:
            self._write("INSERT INTO store (name) VALUES (?)", (name,))
            found = self._execute("SELECT number FROM store WHERE name = ?", (name,)).fetchone()
        self._set(self.stores, name, found[0])
        self._set(self._names, found[0], name)
        return int(found[0])

    def store_name(self, number: int) -> str:
        """Return the name of a numbered store."""
        name = self._names.get(number)
        if name is None:
            found = self._execute("SELECT name FROM store WHERE number = ?", (number,)).fetchone()
            name = self._names[number] = str(found[0])
        return name

    def get_setting(self, name: str) -> bytes | None:
        """Read one of the journal's own settings."""
        found = self._execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return None if found is None else found[0]

    def put_setting(self, name: str, value: bytes) -> None:
        """Write one of the journal's own settings."""
        self._write("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))

    # -- entries -------------------------------------------------------------------------------------------
    def next_position(self) -> int:
        """Return the position the next entry gets."""
        if self._next_position is None:
            (highest,) = self._execute("SELECT max(position) FROM entry").fetchone()
            floor = int.from_bytes(self.get_setting(_POSITION_FLOOR) or b"")
            self._next_position = max(highest or 0, floor) + 1
        return self._next_position

    def highest_id(self, below: bytes) -> bytes:
        """Return the highest entry id held below a bound."""
        kept = max((entry_id for entry_id in self._rows_by_id if entry_id < below), default=b"")
        found = self._execute(
            "SELECT id FROM entry WHERE id < ? ORDER BY id DESC LIMIT 1", (below,)
        ).fetchone()
        return kept if found is None else max(kept, found[0])

    def append_row(self, row: EntryRow) -> None:
        """Add an entry."""
        self._rows.append(row)
        self._rows_by_id[row.id] = row
        self._next_position = row.position + 1

    def find_row(self, store: int | None, entry_id: bytes) -> EntryRow | None:
        """Look an entry up by id."""
        kept = self._rows_by_id.get(entry_id)
        if kept is not None and store in (None, kept.store):
            return kept
        if store is None:
            query, values = f"SELECT {_ENTRY} FROM entry WHERE id = ? LIMIT 1", (entry_id,)
        else:
            query = f"SELECT {_ENTRY} FROM entry WHERE id = ? AND store = ?"
            values = (entry_id, store)  # type: ignore[assignment]
        return _row(self._execute(query, values).fetchone())

    def held(self, store: int, ids: Sequence[bytes]) -> dict[bytes, HeldEntry]:
        """Return which of these ids are here."""
        self._write_through_reads()
        found: dict[bytes, HeldEntry] = {}
        for some in _batches(ids):
            query = f"SELECT id, position, outbound FROM entry WHERE store = ? AND id IN ({_marks(len(some))})"
            for entry_id, position, outbound in self._execute(query, (store, *some)):
                found[entry_id] = HeldEntry(position, bool(outbound))
        return found

    def _write_through_reads(self) -> None:
        if self._rows:
            self._write_through()

    def _select(self, query: str, values: Sequence[Any]) -> list[EntryRow]:
        self._write_through_reads()
        return [_whole_row(found) for found in self._execute(query, values)]

    def rows_after(self, store: int | None, position: int, rows_max: int) -> list[EntryRow]:
        """List entries in local order."""
        if store is None:
            query = f"SELECT {_ENTRY} FROM entry WHERE position > ? ORDER BY position LIMIT ?"
            return self._select(query, (position, rows_max))
        query = f"SELECT {_ENTRY} FROM entry WHERE store = ? AND position > ? ORDER BY position LIMIT ?"
        return self._select(query, (store, position, rows_max))

    def rows_by_age(self, store: int, below: bytes, rows_max: int) -> list[EntryRow]:
        """List entries with an id below a bound, newest first."""
        bound = below or b"\xff" * 17
        query = f"SELECT {_ENTRY} FROM entry WHERE id < ? AND store = ? ORDER BY id DESC LIMIT ?"
        return self._select(query, (bound, store, rows_max))

    def rows_at(self, positions: Sequence[int]) -> list[EntryRow]:
        """Return the entries at these positions, in local order."""
        rows: list[EntryRow] = []
        for some in _batches(sorted(positions)):
            query = f"SELECT {_ENTRY} FROM entry WHERE position IN ({_marks(len(some))}) ORDER BY position"
            rows.extend(self._select(query, some))
        return rows

    def version_rows(self, store: int, primary_key: str) -> list[EntryRow]:
        """List the versions of a key."""
        query = f"SELECT {_ENTRY} FROM entry WHERE store = ? AND primary_key = ? AND keyed ORDER BY id"
        return self._select(query, (store, primary_key))

    def count_rows(self, store: int) -> int:
        """Count a store's entries."""
        self._write_through_reads()
        (count,) = self._execute("SELECT count(*) FROM entry WHERE store = ?", (store,)).fetchone()
        return int(count)

    def set_applied(self, position: int, *, applied: bool) -> None:
        """Note whether an entry's projection ran."""
        self._write("UPDATE entry SET applied = ? WHERE position = ?", (applied, position))

    def delete_rows(self, rows: Sequence[EntryRow]) -> None:
        """Drop entries."""
        self._write_through()
        last = self.next_position() - 1
        self._connection.executemany("DELETE FROM entry WHERE position = ?", [(row.position,) for row in rows])
        if any(row.position == last for row in rows):
            self.put_setting(_POSITION_FLOOR, last.to_bytes(8))

    # -- keys ----------------------------------------------------------------------------------------------
    def key_state(self, store: int, primary_key: str) -> KeyState | None:
        """Return what is known of a key."""
        kept = self._states.get((store, primary_key))
        if kept is not None:
            return kept
        found = self._execute(
            "SELECT state FROM key_state WHERE store = ? AND primary_key = ?", (store, primary_key)
        ).fetchone()
        return None if found is None else decode_state(found[0])

    def put_key_state(self, store: int, primary_key: str, state: KeyState) -> None:
        """Replace what is known of a key."""
        self._set(self._states, (store, primary_key), state)

    def conflicted_keys(self, store: int) -> list[str]:
        """List the keys with several heads."""
        query = "SELECT primary_key FROM key_state WHERE store = ? AND head_count > 1"
        keys = {key for (key,) in self._execute(query, (store,))}
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
        found = self._execute("SELECT value FROM value WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def put_value(self, key: bytes, value: bytes | None) -> None:
        """Write or delete one value of a read model."""
        values = self._values
        if self._savepoints:
            self._undo.append(_Change(values, key, values.get(key, _ABSENT)))
        values[key] = value

    def scan_values(
        self, start: bytes, end: bytes, *, reverse: bool, rows_max: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over values in key order, as they are when the scan starts to read each page."""
        kept = sorted((key for key in self._values if start <= key < end), reverse=reverse)
        found = self._scan_database(start, end, reverse=reverse, rows_max=None if kept else rows_max)
        pairs = found if not kept else self._merged(found, kept, reverse=reverse)
        for count, pair in enumerate(pairs):
            if rows_max is not None and count >= rows_max:
                return
            yield pair

    def _scan_database(
        self, start: bytes, end: bytes, *, reverse: bool, rows_max: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        # In pages, because a cursor left open inside a savepoint would not survive its rollback.
        page = min(_SCAN_ROWS, _SCAN_ROWS if rows_max is None else max(rows_max, 1))
        query = (
            "SELECT key, value FROM value WHERE key >= ? AND key < ? ORDER BY key DESC LIMIT ?"
            if reverse
            else "SELECT key, value FROM value WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        )
        while True:
            pairs = self._execute(query, (start, end, page)).fetchall()
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

    # -- remotes -------------------------------------------------------------------------------------------
    def find_remote(self, store: int, remote_id: bytes) -> RemoteRow | None:
        """Look up one remote of one store."""
        query = f"SELECT {_REMOTE} FROM remote WHERE store = ? AND remote_id = ?"
        return _remote(self._execute(query, (store, remote_id)).fetchone())

    def list_remotes(self, store: int) -> list[RemoteRow]:
        """List a store's remotes."""
        query = f"SELECT {_REMOTE} FROM remote WHERE store = ? ORDER BY number"
        return [_whole_remote(found) for found in self._execute(query, (store,)).fetchall()]

    def put_remote(self, remote: RemoteRow) -> RemoteRow:
        """Write a remote."""
        number = remote.number or None
        cursor = self._write("INSERT OR REPLACE INTO remote VALUES (?,?,?,?,?,?,?,?)", (number, *remote[1:]))
        return remote if number else remote._replace(number=int(cursor.lastrowid or 0))

    def outbound_rows(self, store: int, remote: int, after: int) -> Iterator[EntryRow]:
        """Iterate over outbound entries a remote is not noted to have."""
        self._write_through_reads()
        query = (
            f"SELECT {_ENTRY} FROM entry WHERE store = ? AND outbound AND position > ? AND NOT EXISTS "
            "(SELECT 1 FROM remote_has h WHERE h.remote = ? AND h.position = entry.position) ORDER BY position"
        )
        return map(_whole_row, self._execute(query, (store, after, remote)))

    def outbound_positions(self, store: int, after: int, rows_max: int) -> list[int]:
        """List the positions of outbound entries after a position."""
        self._write_through_reads()
        query = "SELECT position FROM entry WHERE store = ? AND outbound AND position > ? ORDER BY position LIMIT ?"
        return [position for (position,) in self._execute(query, (store, after, rows_max))]

    def count_outbound(self, store: int, remote: int, after: int) -> int:
        """Count what is pending."""
        self._write_through_reads()
        query = (
            "SELECT (SELECT count(*) FROM entry WHERE store = ? AND outbound AND position > ?) - (SELECT count(*) "
            "FROM remote_has JOIN entry USING (position) WHERE remote = ? AND position > ?)"
        )
        (count,) = self._execute(query, (store, after, remote, after)).fetchone()
        return int(count)

    def noted(self, remote: int, positions: Sequence[int]) -> set[int]:
        """Return which positions the remote is noted to have."""
        noted: set[int] = set()
        for some in _batches(positions):
            query = f"SELECT position FROM remote_has WHERE remote = ? AND position IN ({_marks(len(some))})"
            noted.update(position for (position,) in self._execute(query, (remote, *some)))
        return noted

    def note(self, remote: int, positions: Iterable[int]) -> None:
        """Note that the remote has positions."""
        self._write_through()
        pairs = [(remote, position) for position in positions]
        self._connection.executemany("INSERT OR IGNORE INTO remote_has VALUES (?, ?)", pairs)

    def forget_noted(self, remote: int, up_to: int | None) -> None:
        """Drop the notes up to a position, or all."""
        if up_to is None:
            self._write("DELETE FROM remote_has WHERE remote = ?", (remote,))
        else:
            self._write("DELETE FROM remote_has WHERE remote = ? AND position <= ?", (remote, up_to))

    # -- exceptions ----------------------------------------------------------------------------------------
    def put_unapplied(self, row: UnappliedRow) -> None:
        """Note that an entry's projection failed."""
        self._write(
            "INSERT OR REPLACE INTO unapplied SELECT position, store, ?, ? FROM entry WHERE position = ?",
            (row.error, row.attempts, row.position),
        )

    def drop_unapplied(self, position: int) -> None:
        """Forget that an entry's projection failed."""
        self._write("DELETE FROM unapplied WHERE position = ?", (position,))

    def unapplied_rows(self, store: int) -> list[UnappliedRow]:
        """List a store's unapplied entries."""
        query = "SELECT position, error, attempts FROM unapplied WHERE store = ? ORDER BY position"
        return [UnappliedRow(*found) for found in self._execute(query, (store,)).fetchall()]

    def put_quarantined(self, row: QuarantinedRow) -> bool:
        """Keep an entry aside."""
        return self._write("INSERT OR IGNORE INTO quarantine VALUES (?,?,?,?,?,?,?,?)", row).rowcount > 0

    def quarantined_rows(self, store: int) -> list[QuarantinedRow]:
        """List what was kept aside."""
        query = (
            "SELECT store, id, remote, sequence, event, primary_key, data, reason FROM quarantine "
            "WHERE store = ? ORDER BY id"
        )
        return [QuarantinedRow(*found) for found in self._execute(query, (store,)).fetchall()]

    # -- horizon -------------------------------------------------------------------------------------------
    def compacted(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids were compacted."""
        known: set[bytes] = set()
        if not ids or self._execute("SELECT 1 FROM horizon LIMIT 1").fetchone() is None:
            return known
        for some in _batches(ids):
            query = f"SELECT id FROM horizon WHERE store = ? AND id IN ({_marks(len(some))})"
            known.update(entry_id for (entry_id,) in self._execute(query, (store, *some)))
        return known

    def remember_compacted(self, store: int, ids: Sequence[bytes], day: int) -> None:
        """Remember compacted ids."""
        self._write_through()
        self._connection.executemany(
            "INSERT OR IGNORE INTO horizon VALUES (?, ?, ?)", [(store, entry_id, day) for entry_id in ids]
        )

    def forget_compacted(self, store: int, before_day: int, rows_max: int) -> list[bytes]:
        """Forget ids dropped before a day."""
        query = "SELECT id FROM horizon WHERE store = ? AND day < ? LIMIT ?"
        ids = [entry_id for (entry_id,) in self._execute(query, (store, before_day, rows_max))]
        self._write_through()
        self._connection.executemany(
            "DELETE FROM horizon WHERE store = ? AND id = ?", [(store, entry_id) for entry_id in ids]
        )
        return ids


def _marks(count: int) -> str:
    return ",".join("?" * count)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut into few sizes, padded by repetition, so that few statements have to be prepared."""
    step = _IDS_PER_QUERY[-1]
    for start in range(0, len(items), step):
        some = items[start : start + step]
        size = next(size for size in _IDS_PER_QUERY if size >= len(some))
        yield (*some, *([some[-1]] * (size - len(some))))


def _whole_row(found: tuple[Any, ...]) -> EntryRow:
    return EntryRow._make(found)


def _row(found: tuple[Any, ...] | None) -> EntryRow | None:
    return None if found is None else EntryRow._make(found)


def _whole_remote(found: tuple[Any, ...]) -> RemoteRow:
    return RemoteRow(*found[:-1], is_retired=bool(found[-1]))


def _remote(found: tuple[Any, ...] | None) -> RemoteRow | None:
    return None if found is None else _whole_remote(found)
