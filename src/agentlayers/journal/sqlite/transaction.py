"""One SQLite transaction behind the journal's primitives: stores, settings and entries."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

from agentlayers.errors import StorageCorruptionError
from agentlayers.journal.primitives import EntryRow, HeldEntry
from agentlayers.journal.sqlite.statements import batches, marks
from agentlayers.journal.sqlite.text_tables import TextTables

__all__ = ["SQLiteTransaction", "Tail"]

_SIZED: Final = "position, length(payload) AS size"
_POSITION_FLOOR: Final = "position_floor"


class Tail(NamedTuple):
    """Where a journal ends: the next position and the highest entry id that counts, as far as known."""

    next_position: int | None
    highest: bytes | None


class SQLiteTransaction(TextTables):
    """Stores, settings and entries."""

    # -- stores and settings -------------------------------------------------------------------------------
    def store_number(self, name: str) -> int:
        """Return the number of a store."""
        number = self.stores.get(name)
        if number is not None:
            return number
        found = self.sql.one("SELECT number FROM store WHERE name = ?", (name,))
        if found is None and self.read_only:
            return 0
        if found is None:
            self._write("INSERT INTO store (name) VALUES (?)", (name,))
            found = self.sql.one("SELECT number FROM store WHERE name = ?", (name,))
        self._set(self.stores, name, found[0])
        self._set(self._names, found[0], name)
        return int(found[0])

    def store_name(self, number: int) -> str:
        """Return the name of a numbered store."""
        name = self._names.get(number)
        if name is None:
            found = self.sql.one("SELECT name FROM store WHERE number = ?", (number,))
            if found is None:
                reason = f"an entry is of store number {number}, which there is not; run `agentlayers journal verify`"
                raise StorageCorruptionError(backend="journal", operation="read", reason=reason)
            name = self._names[number] = str(found[0])
        return name

    def get_setting(self, name: str) -> bytes | None:
        """Read one of the journal's own settings."""
        found = self.sql.one("SELECT value FROM setting WHERE name = ?", (name,))
        return None if found is None else found[0]

    def put_setting(self, name: str, value: bytes) -> None:
        """Write one of the journal's own settings."""
        self._write("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))

    # -- entries -------------------------------------------------------------------------------------------
    def next_position(self) -> int:
        """Return the position the next entry gets."""
        if self._next_position is None:
            (highest,) = self.sql.one("SELECT max(position) FROM entry")
            floor = int.from_bytes(self.get_setting(_POSITION_FLOOR) or b"")
            self._next_position = max(highest or 0, floor) + 1
        return self._next_position

    def highest_id(self, below: bytes) -> bytes:
        """Return the highest entry id held below a bound."""
        kept = max((entry_id for _, entry_id in self._rows_by_id if entry_id < below), default=b"")
        (highest,) = self.sql.one("SELECT max(id) FROM entry")
        if highest is not None and highest >= below:
            self.holds_far_id = True
            found = self.sql.one("SELECT id FROM entry WHERE id < ? ORDER BY id DESC LIMIT 1", (below,))
            highest = None if found is None else found[0]
        return max(kept, highest or b"")

    def resume(self, tail: Tail) -> None:
        """Take over what the transaction before this one left, when no other process wrote since."""
        self._next_position, self._highest = tail

    def tail(self) -> Tail:
        """Return what the next transaction needs not look up."""
        return Tail(self._next_position, None if self.holds_far_id else self._highest)

    def append_row(self, row: EntryRow) -> None:
        """Add an entry."""
        self._rows.append(row)
        self._rows_by_id[row.store, row.id] = row
        self._next_position = row.position + 1
        if self._first_added is None:
            self._first_added = row.position

    def append_rows(self, rows: Sequence[EntryRow]) -> None:
        """Add entries."""
        self._rows += rows
        self._rows_by_id.update({(row.store, row.id): row for row in rows})
        self._next_position = rows[-1].position + 1
        if self._first_added is None:
            self._first_added = rows[0].position

    def find_row(self, store: int | None, entry_id: bytes) -> EntryRow | None:
        """Look an entry up by id."""
        if self._rows_by_id:
            for number in self._names if store is None else (store,):
                kept = self._rows_by_id.get((number, entry_id))
                if kept is not None:
                    return kept
        row = self.sql.entry("id = ?", (entry_id,))
        if row is not None and store not in (None, row.store):
            row = self.sql.entry("id = ? AND store = ?", (entry_id, store))
        return row

    def held(self, store: int, ids: Sequence[bytes]) -> dict[bytes, HeldEntry]:
        """Return which of these ids are here."""
        self._write_rows()
        found: dict[bytes, HeldEntry] = {}
        for some in batches(ids):
            source = f"SELECT id, position, outbound, origin FROM entry WHERE store = ? AND id IN ({marks(len(some))})"
            text = "hex(id) || ',' || position || ',' || outbound || ',' || origin"
            for entry_id, position, outbound, origin in self.sql.gather(text, source, (store, *some)):
                found[bytes.fromhex(entry_id)] = HeldEntry(int(position), outbound == "1", int(origin))
        return found

    def _select(self, source: str, values: Sequence[Any], bytes_max: int | None = None) -> list[EntryRow]:
        self._write_rows()
        sized = self.sql.sizes(source, values)
        if bytes_max is not None:
            fitting = sum(total <= bytes_max for total in accumulate(size for _, size in sized))
            sized = sized[: max(1, fitting)]
        return [row for rows in self.sql.rows_sized(sized) for row in rows]

    def rows_after(
        self, store: int | None, position: int, rows_max: int, *, bytes_max: int | None = None
    ) -> list[EntryRow]:
        """List entries in local order."""
        if store is None:
            source = f"SELECT {_SIZED} FROM entry WHERE position > ? ORDER BY position LIMIT ?"
            return self._select(source, (position, rows_max), bytes_max)
        # SQLite merges the two indexes row by row, so the limit bounds the cost.
        source = (
            f"SELECT {_SIZED} FROM entry WHERE store = ?1 AND outbound AND position > ?2 UNION ALL "
            f"SELECT {_SIZED} FROM entry WHERE store = ?1 AND NOT outbound AND position > ?2 "
            "ORDER BY position LIMIT ?3"
        )
        return self._select(source, (store, position, rows_max), bytes_max)

    def rows_by_age(self, store: int, below: bytes, rows_max: int, *, bytes_max: int | None = None) -> list[EntryRow]:
        """List entries with an id below a bound, newest first."""
        bound = below or b"\xff" * 17
        source = f"SELECT {_SIZED} FROM entry WHERE id < ? AND store = ? ORDER BY id DESC LIMIT ?"
        return self._select(source, (bound, store, rows_max), bytes_max)

    def rows_at(self, positions: Sequence[int]) -> list[EntryRow]:
        """Return the entries at these positions, in local order."""
        sized: list[tuple[int, int]] = []
        for some in batches(sorted(positions)):
            source = f"SELECT {_SIZED} FROM entry WHERE position IN ({marks(len(some))})"
            self._write_rows()
            sized.extend(self.sql.sizes(source, some))
        return [row for rows in self.sql.rows_sized(sorted(set(sized))) for row in rows]

    def version_rows(self, store: int, primary_key: str) -> list[EntryRow]:
        """List the versions of a key."""
        source = f"SELECT {_SIZED} FROM entry WHERE store = ? AND primary_key = ? AND keyed ORDER BY id"
        return self._select(source, (store, primary_key))

    def count_rows(self, store: int) -> int:
        """Count a store's entries."""
        self._write_rows()
        query = (
            "SELECT (SELECT count(*) FROM entry WHERE store = ?1 AND outbound) + "
            "(SELECT count(*) FROM entry WHERE store = ?1 AND NOT outbound)"
        )
        (count,) = self.sql.one(query, (store,))
        return int(count)

    def set_applied(self, position: int, *, applied: bool) -> None:
        """Note whether an entry's projection ran."""
        self._write("UPDATE entry SET applied = ? WHERE position = ?", (applied, position))

    def set_keyed(self, position: int) -> None:
        """Note that an entry is a version of its key."""
        self._write("UPDATE entry SET keyed = 1 WHERE position = ?", (position,))

    def delete_rows(self, rows: Sequence[EntryRow]) -> None:
        """Drop entries."""
        self._write_through()
        last = self.next_position() - 1
        self.sql.delete("DELETE FROM entry WHERE position", [row.position for row in rows])
        if any(row.position == last for row in rows):
            self.put_setting(_POSITION_FLOOR, last.to_bytes(8))
