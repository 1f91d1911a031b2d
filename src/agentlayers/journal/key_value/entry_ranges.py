"""Entries and the states of keys: ranges by position, by id and by key."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from agentlayers.journal.causality import KeyState
from agentlayers.journal.key_value.codec import Place, decode_place, decode_row, encode_place
from agentlayers.journal.key_value.keys import (
    conflict_key,
    conflict_prefix,
    entry_key,
    entry_prefix,
    id_key,
    id_prefix,
    outbound_key,
    position_of,
    received_key,
    state_key,
    tally_key,
    version_key,
    version_prefix,
)
from agentlayers.journal.key_value.ranges import Ranges
from agentlayers.journal.primitives import EntryRow, HeldEntry
from agentlayers.journal.state_codec import decode_state
from agentlayers.key_value.keys import prefix_end

__all__ = ["EntryRanges"]

_AT_ONCE: Final = 64
"""Entries fetched together: few enough that their payloads do not matter."""


class EntryRanges(Ranges):
    """Entries and keys."""

    # -- adding and dropping -------------------------------------------------------------------------------
    def next_position(self) -> int:
        """Return the position the next entry gets."""
        return self._last_position + 1

    def append_row(self, row: EntryRow) -> None:
        """Add an entry, and to each index it belongs to."""
        put, store, position = self.cells.put, row.store, row.position
        put(entry_key(store, position), row)
        put(id_key(store, row.id), encode_place(row))
        tally = self._tally(store)
        tally = tally._replace(rows=tally.rows + 1)
        if row.outbound:
            put(outbound_key(store, position), len(row.payload).to_bytes(4))
            tally = tally._replace(outbound=tally.outbound + 1, last_outbound=position)
        elif row.origin:
            put(received_key(store, position), row.origin.to_bytes(4) + len(row.payload).to_bytes(4))
            tally = tally._replace(received=tally.received + 1, last_received=position)
        if row.keyed:
            put(version_key(store, row.primary_key, row.id), position.to_bytes(8))
        put(tally_key(store), tally)
        self._last_position = position

    def delete_rows(self, rows: Sequence[EntryRow]) -> None:
        """Drop entries."""
        for row in rows:
            self._delete_row(row)

    def _delete_row(self, row: EntryRow) -> None:
        put, store, position = self.cells.put, row.store, row.position
        put(entry_key(store, position), None)
        put(id_key(store, row.id), None)
        tally = self._tally(store)
        tally = tally._replace(rows=tally.rows - 1)
        if row.outbound:
            put(outbound_key(store, position), None)
            tally = tally._replace(outbound=tally.outbound - 1)
        elif row.origin:
            put(received_key(store, position), None)
            tally = tally._replace(received=tally.received - 1)
        if row.keyed:
            put(version_key(store, row.primary_key, row.id), None)
        put(tally_key(store), tally)

    def set_applied(self, position: int, *, applied: bool) -> None:
        """Note whether an entry's projection ran."""
        for row in self.rows_at([position]):
            self.cells.put(entry_key(row.store, position), row._replace(applied=applied))

    def set_keyed(self, position: int) -> None:
        """Note that an entry is a version of its key."""
        for row in self.rows_at([position]):
            self.cells.put(entry_key(row.store, position), row._replace(keyed=True))
            self.cells.put(version_key(row.store, row.primary_key, row.id), position.to_bytes(8))

    def count_rows(self, store: int) -> int:
        """Count a store's entries."""
        return self._tally(store).rows

    # -- by id ---------------------------------------------------------------------------------------------
    def highest_id(self, below: bytes) -> bytes:
        """Return the highest entry id held below a bound."""
        highest = b""
        for store in self.stores.values():
            prefix = id_prefix(store)
            for key, _place in self.cells.scan(prefix, prefix_end(prefix), reverse=True, limit=1):
                if key[len(prefix) :] >= below:
                    self.holds_far_id = True
            for key, _place in self.cells.scan(prefix, prefix + below, reverse=True, limit=1):
                highest = max(highest, key[len(prefix) :])
        return highest

    def _place(self, store: int, entry_id: bytes) -> Place | None:
        found = self.cells.get(id_key(store, entry_id))
        return None if found is None else decode_place(found)

    def find_row(self, store: int | None, entry_id: bytes) -> EntryRow | None:
        """Look an entry up by id."""
        for number in list(self.stores.values()) if store is None else (store,):
            place = self._place(number, entry_id)
            if place is not None:
                return self._row(number, place.position, self.cells.get(entry_key(number, place.position)))
        return None

    def held(self, store: int, ids: Sequence[bytes]) -> dict[bytes, HeldEntry]:
        """Return which of these ids are here."""
        found = self.cells.get_many([id_key(store, entry_id) for entry_id in ids])
        return {
            entry_id: decode_place(place).held for entry_id, place in zip(ids, found, strict=True) if place is not None
        }

    def rows_by_age(self, store: int, below: bytes, rows_max: int, *, bytes_max: int | None = None) -> list[EntryRow]:
        """List entries with an id below a bound, newest first."""
        prefix = id_prefix(store)
        end = prefix + below if below else prefix_end(prefix)
        places = [decode_place(place) for _, place in self.cells.scan(prefix, end, reverse=True, limit=rows_max)]
        if bytes_max is not None:
            sizes = accumulate(place.payload_bytes for place in places)
            places = places[: max(1, sum(size <= bytes_max for size in sizes))]
        return self._rows(store, [place.position for place in places])

    # -- by position ---------------------------------------------------------------------------------------
    def _row(self, store: int, position: int, found: Any) -> EntryRow:
        return found if isinstance(found, EntryRow) else decode_row(store, position, found)

    def _rows(self, store: int, positions: Sequence[int]) -> list[EntryRow]:
        """Return entries that are here, in the order asked for."""
        rows = []
        for start in range(0, len(positions), _AT_ONCE):
            some = positions[start : start + _AT_ONCE]
            found = self.cells.get_many([entry_key(store, position) for position in some])
            rows += [self._row(store, *pair) for pair in zip(some, found, strict=True) if pair[1] is not None]
        return rows

    def _rows_after(self, store: int, position: int, rows_max: int) -> Iterator[EntryRow]:
        end = prefix_end(entry_prefix(store))
        for key, found in self.cells.scan(entry_key(store, position + 1), end, limit=rows_max):
            yield self._row(store, position_of(key), found)

    def rows_after(
        self, store: int | None, position: int, rows_max: int, *, bytes_max: int | None = None
    ) -> list[EntryRow]:
        """List entries in local order."""
        numbers = list(self.stores.values()) if store is None else [store]
        streams = [self._rows_after(number, position, rows_max) for number in numbers]
        rows: Iterable[EntryRow] = streams[0] if len(streams) == 1 else heapq.merge(*streams)
        return _bounded(rows, rows_max, bytes_max)

    def rows_at(self, positions: Sequence[int]) -> list[EntryRow]:
        """Return the entries at these positions, in local order."""
        left = sorted(set(positions))
        rows: list[EntryRow] = []
        for store in list(self.stores.values()):
            if not left:
                break
            rows += self._rows(store, left)
            here = {row.position for row in rows}
            left = [position for position in left if position not in here]
        return sorted(rows)

    # -- keys ----------------------------------------------------------------------------------------------
    def version_rows(self, store: int, primary_key: str) -> list[EntryRow]:
        """List the versions of a key."""
        positions = [position_of(at) for _, at in self._under(version_prefix(store, primary_key))]
        return self._rows(store, positions)

    def key_state(self, store: int, primary_key: str) -> KeyState | None:
        """Return what is known of a key."""
        found = self.cells.get(state_key(store, primary_key))
        return found if found is None or isinstance(found, KeyState) else decode_state(found)

    def put_key_state(self, store: int, primary_key: str, state: KeyState) -> None:
        """Replace what is known of a key."""
        before = self.key_state(store, primary_key)
        was_conflict = before is not None and len(before.heads) > 1
        self.cells.put(state_key(store, primary_key), state)
        if was_conflict != (len(state.heads) > 1):
            self.cells.put(conflict_key(store, primary_key), None if was_conflict else primary_key.encode())

    def conflicted_keys(self, store: int) -> list[str]:
        """List the keys with several heads."""
        return sorted(key.decode() for _, key in self._under(conflict_prefix(store)))


def _bounded(rows: Iterable[EntryRow], rows_max: int, bytes_max: int | None) -> list[EntryRow]:
    taken: list[EntryRow] = []
    size = 0
    for row in rows:
        size += len(row.payload)
        if len(taken) >= rows_max or (taken and bytes_max is not None and size > bytes_max):
            break
        taken.append(row)
    return taken
