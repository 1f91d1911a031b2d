"""What a memory journal holds."""

from __future__ import annotations

from typing import Any

from sortedcontainers import SortedDict, SortedList, SortedSet

from agentlayers.journal.causality import KeyState
from agentlayers.journal.primitives import EntryRow, QuarantinedRow, RemoteRow, UnappliedRow

__all__ = ["MemoryData"]


class MemoryData:
    """Tables as containers, with the indexes that look-ups use."""

    def __init__(self) -> None:
        self.last_position = 0
        self.stores: dict[str, int] = {}
        self.settings: dict[str, bytes] = {}
        self.rows: Any = SortedDict()  # position -> EntryRow
        self.positions: dict[tuple[int, bytes], int] = {}
        self.ids: Any = SortedList()  # (id, store)
        self.by_store: dict[int, Any] = {}
        self.outbound: dict[int, Any] = {}
        self.received: dict[int, Any] = {}
        self.versions: dict[tuple[int, str], Any] = {}
        self.states: dict[tuple[int, str], KeyState] = {}
        self.values: Any = SortedDict()
        self.texts: dict[int, tuple[int, str, str]] = {}  # position -> (store, scope, text)
        self.remotes: dict[tuple[int, bytes], RemoteRow] = {}
        self.noted: dict[tuple[int, bool], Any] = {}  # (remote, received) -> positions
        self.unapplied: dict[int, UnappliedRow] = {}
        self.quarantined: dict[tuple[int, bytes], QuarantinedRow] = {}
        self.horizon: dict[tuple[int, bytes], int] = {}

    def row(self, position: int) -> EntryRow:
        """Return the entry at a position."""
        row: EntryRow = self.rows[position]
        return row

    def add_row(self, row: EntryRow) -> None:
        """Add an entry and index it."""
        self.rows[row.position] = row
        self.positions[row.store, row.id] = row.position
        self.ids.add((row.id, row.store))
        self.by_store.setdefault(row.store, SortedList()).add(row.position)
        if row.outbound:
            self.outbound.setdefault(row.store, SortedList()).add(row.position)
        elif row.origin:
            self.received.setdefault(row.store, SortedList()).add(row.position)
        if row.keyed:
            self.versions.setdefault((row.store, row.primary_key), SortedSet()).add(row.id)

    def remove_row(self, row: EntryRow) -> None:
        """Remove an entry and its index entries."""
        del self.rows[row.position]
        del self.positions[row.store, row.id]
        self.ids.remove((row.id, row.store))
        self.by_store[row.store].remove(row.position)
        if row.outbound:
            self.outbound[row.store].remove(row.position)
        elif row.origin:
            self.received[row.store].remove(row.position)
        if row.keyed:
            self.versions[row.store, row.primary_key].discard(row.id)
