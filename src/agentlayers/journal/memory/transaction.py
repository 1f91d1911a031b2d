"""One transaction of a memory journal: changes at once, with an undo log for savepoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

from agentlayers.journal.causality import KeyState
from agentlayers.journal.memory.data import MemoryData
from agentlayers.journal.primitives import (
    EntryRow,
    HeldEntry,
    QuarantinedRow,
    RemoteRow,
    UnappliedRow,
)
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.text_search import TextHit, TextOrder, TextTerm, places_of, precedence, share_rank
from agentlayers.journal.transaction import JournalTransaction

__all__ = ["MemoryTransaction"]

_ABSENT = object()


class MemoryTransaction(JournalTransaction):
    """The primitives over :class:`~agentlayers.journal.memory.data.MemoryData`."""

    def __init__(self, registry: JournalRegistry, data: MemoryData, *, read_only: bool) -> None:
        super().__init__(registry, read_only=read_only)
        self._data = data
        self._undo: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def _set(self, target: Any, key: Any, value: Any) -> None:
        before = target.get(key, _ABSENT)
        if value is _ABSENT:
            target.pop(key, None)
        else:
            target[key] = value
        self._undo.append((self._restore, (target, key, before)))

    @staticmethod
    def _restore(target: Any, key: Any, before: Any) -> None:
        if before is _ABSENT:
            target.pop(key, None)
        else:
            target[key] = before

    # -- stores and settings -------------------------------------------------------------------------------
    def store_number(self, name: str) -> int:
        """Return the number of a store."""
        number = self._data.stores.get(name)
        if number is None and not self.read_only:
            number = len(self._data.stores) + 1
            self._set(self._data.stores, name, number)
        return number or 0

    def store_name(self, number: int) -> str:
        """Return the name of a numbered store."""
        return next(name for name, known in self._data.stores.items() if known == number)

    def get_setting(self, name: str) -> bytes | None:
        """Read one of the journal's own settings."""
        return self._data.settings.get(name)

    def put_setting(self, name: str, value: bytes) -> None:
        """Write one of the journal's own settings."""
        self._set(self._data.settings, name, value)

    # -- savepoints ----------------------------------------------------------------------------------------
    def open_savepoint(self) -> int:
        """Mark the present state."""
        token = len(self._undo)
        self._undo.append((setattr, (self, "_highest", self._highest)))
        return token

    def release_savepoint(self, token: int) -> None:
        """Keep what was done since."""

    def rollback_savepoint(self, token: int) -> None:
        """Undo what was done since."""
        while len(self._undo) > token:
            undo, arguments = self._undo.pop()
            undo(*arguments)

    # -- entries -------------------------------------------------------------------------------------------
    def next_position(self) -> int:
        """Return the position the next entry gets."""
        return self._data.last_position + 1

    def highest_id(self, below: bytes) -> bytes:
        """Return the highest entry id held below a bound."""
        at = self._data.ids.bisect_left((below, 0))
        return self._data.ids[at - 1][0] if at else b""

    def append_row(self, row: EntryRow) -> None:
        """Add an entry."""
        self._undo.append((setattr, (self._data, "last_position", self._data.last_position)))
        self._data.add_row(row)
        self._data.last_position = row.position
        self._undo.append((self._data.remove_row, (row,)))

    def find_row(self, store: int | None, entry_id: bytes) -> EntryRow | None:
        """Look an entry up by id."""
        stores = self._data.stores.values() if store is None else (store,)
        for number in stores:
            position = self._data.positions.get((number, entry_id))
            if position is not None:
                return self._data.row(position)
        return None

    def held(self, store: int, ids: Sequence[bytes]) -> dict[bytes, HeldEntry]:
        """Return which of these ids are here."""
        found = {}
        for entry_id in ids:
            position = self._data.positions.get((store, entry_id))
            if position is not None:
                row = self._data.row(position)
                found[entry_id] = HeldEntry(position, row.outbound, row.origin)
        return found

    def rows_after(
        self, store: int | None, position: int, rows_max: int, *, bytes_max: int | None = None
    ) -> list[EntryRow]:
        """List entries in local order."""
        positions = self._data.rows if store is None else self._data.by_store.get(store, ())
        return _fitting([self._data.row(at) for at in _after(positions, position, rows_max)], bytes_max)

    def rows_by_age(self, store: int, below: bytes, rows_max: int, *, bytes_max: int | None = None) -> list[EntryRow]:
        """List entries with an id below a bound, newest first."""
        ids = self._data.ids
        end = ids.bisect_left((below, 0)) if below else len(ids)
        rows: list[EntryRow] = []
        for entry_id, number in ids.islice(0, end, reverse=True):
            if number == store:
                rows.append(self._data.row(self._data.positions[number, entry_id]))
                if len(rows) >= rows_max:
                    break
        return _fitting(rows, bytes_max)

    def rows_at(self, positions: Sequence[int]) -> list[EntryRow]:
        """Return the entries at these positions, in local order."""
        return [self._data.row(position) for position in sorted(set(positions)) if position in self._data.rows]

    def version_rows(self, store: int, primary_key: str) -> list[EntryRow]:
        """List the versions of a key."""
        ids = self._data.versions.get((store, primary_key), ())
        return [self._data.row(self._data.positions[store, entry_id]) for entry_id in ids]

    def count_rows(self, store: int) -> int:
        """Count a store's entries."""
        return len(self._data.by_store.get(store, ()))

    def set_applied(self, position: int, *, applied: bool) -> None:
        """Note whether an entry's projection ran."""
        self._set(self._data.rows, position, self._data.row(position)._replace(applied=applied))

    def set_keyed(self, position: int) -> None:
        """Note that an entry is a version of its key."""
        held = self._data.row(position)
        for change, undo, row in (
            (self._data.remove_row, self._data.add_row, held),
            (self._data.add_row, self._data.remove_row, held._replace(keyed=True)),
        ):
            change(row)
            self._undo.append((undo, (row,)))

    def delete_rows(self, rows: Sequence[EntryRow]) -> None:
        """Drop entries."""
        for row in rows:
            held = self._data.row(row.position)
            self._data.remove_row(held)
            self._undo.append((self._data.add_row, (held,)))

    # -- keys ----------------------------------------------------------------------------------------------
    def key_state(self, store: int, primary_key: str) -> KeyState | None:
        """Return what is known of a key."""
        return self._data.states.get((store, primary_key))

    def put_key_state(self, store: int, primary_key: str, state: KeyState) -> None:
        """Replace what is known of a key."""
        self._set(self._data.states, (store, primary_key), state)

    def conflicted_keys(self, store: int) -> list[str]:
        """List the keys with several heads."""
        return sorted(
            key for (number, key), state in self._data.states.items() if number == store and len(state.heads) > 1
        )

    # -- read models ---------------------------------------------------------------------------------------
    def get_value(self, key: bytes) -> bytes | None:
        """Read one value of a read model."""
        value: bytes | None = self._data.values.get(key)
        return value

    def put_value(self, key: bytes, value: bytes | None) -> None:
        """Write or delete one value of a read model."""
        self._set(self._data.values, key, _ABSENT if value is None else value)

    def scan_values(
        self, start: bytes, end: bytes, *, reverse: bool, rows_max: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over values in key order, over the keys there are when the scan starts."""
        if start >= end:
            return
        keys = self._data.values.irange(start, end, inclusive=(True, False), reverse=reverse)
        for count, key in enumerate(list(keys)):
            if rows_max is not None and count >= rows_max:
                return
            value = self._data.values.get(key)
            if value is not None:
                yield key, value

    # -- texts ---------------------------------------------------------------------------------------------
    def put_text(self, store: int, entry_id: bytes, scope: str, text: str | None) -> None:
        """Keep the text an entry is found by."""
        position = self._data.positions.get((store, entry_id))
        if position is not None:
            self._set(self._data.texts, position, _ABSENT if text is None else (store, scope, text))

    def texts_with(
        self,
        store: int,
        terms: Sequence[TextTerm],
        *,
        scope: str | None,
        order: TextOrder,
        after: TextHit | None,
        rows_max: int,
    ) -> list[TextHit]:
        """List entries whose text has all terms."""
        hits = []
        for position, (number, its_scope, text) in self._data.texts.items():
            if number != store or scope not in (None, its_scope):
                continue
            places = places_of(text, terms)
            if places is not None:
                rank = share_rank(text, places) if order is TextOrder.BEST else 0.0
                hits.append(TextHit(self._data.row(position).id, position, rank))
        hits.sort(key=precedence)
        return [hit for hit in hits if after is None or precedence(hit) > precedence(after)][:rows_max]

    def settle_texts(self) -> None:
        """Do nothing: ranks depend on the text alone."""

    def text_backlog(self) -> int:
        """Return up to which position entries are older than the text index."""
        return 0

    # -- remotes -------------------------------------------------------------------------------------------
    def find_remote(self, store: int, remote_id: bytes) -> RemoteRow | None:
        """Look up one remote of one store."""
        return self._data.remotes.get((store, remote_id))

    def list_remotes(self, store: int) -> list[RemoteRow]:
        """List a store's remotes."""
        return [remote for remote in self._data.remotes.values() if remote.store == store]

    def put_remote(self, remote: RemoteRow) -> RemoteRow:
        """Write a remote."""
        if not remote.number:
            remote = remote._replace(number=len(self._data.remotes) + 1)
        self._set(self._data.remotes, (remote.store, remote.remote_id), remote)
        return remote

    def pending_rows(self, store: int, remote: int, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """List outbound entries a remote is not noted to have."""
        return self._bounded(self._pending(store, remote, after), rows_max, bytes_max)

    def _bounded(self, positions: Iterator[int], rows_max: int, bytes_max: int) -> list[EntryRow]:
        rows: list[EntryRow] = []
        size = 0
        for position in positions:
            row = self._data.row(position)
            size += len(row.payload)
            if rows and (size > bytes_max or len(rows) >= rows_max):
                break
            rows.append(row)
        return rows

    def _pending(self, store: int, remote: int, after: int) -> Iterator[int]:
        noted = self._data.noted.get((remote, False), ())
        positions = _after(self._data.outbound.get(store, ()), after, None)
        return (position for position in positions if position not in noted)

    def outbound_positions(self, store: int, after: int, rows_max: int) -> list[int]:
        """List the positions of outbound entries after a position."""
        return list(_after(self._data.outbound.get(store, ()), after, rows_max))

    def count_outbound(self, store: int, remote: int, after: int) -> int:
        """Count what is pending."""
        return sum(1 for _ in self._pending(store, remote, after))

    def relayable_rows(self, remote: RemoteRow, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """List entries from other remotes that a remote is not noted to have."""
        return self._bounded(self._unheld(remote, after), rows_max, bytes_max)

    def _unheld(self, remote: RemoteRow, after: int) -> Iterator[int]:
        noted = self._data.noted.get((remote.number, True), ())
        return (position for position in self._relayable(remote, after) if position not in noted)

    def _relayable(self, remote: RemoteRow, after: int) -> Iterator[int]:
        return (
            position
            for position in _after(self._data.received.get(remote.store, ()), after, None)
            if position <= remote.lost_up_to or self._data.row(position).origin != remote.number
        )

    def relayable_positions(self, remote: RemoteRow, after: int, rows_max: int) -> list[int]:
        """List the positions of entries from other remotes after a position."""
        return list(islice(self._relayable(remote, after), rows_max))

    def count_relayable(self, remote: RemoteRow, after: int) -> int:
        """Count what there is to relay."""
        return sum(1 for _ in self._unheld(remote, after))

    def noted(self, remote: int, positions: Sequence[int], *, received: bool = False) -> set[int]:
        """Return which positions the remote is noted to have."""
        noted = self._data.noted.get((remote, received), ())
        return {position for position in positions if position in noted}

    def note(self, remote: int, positions: Iterable[int], *, received: bool = False) -> None:
        """Note that the remote has positions."""
        noted = self._data.noted.get((remote, received), frozenset())
        self._set(self._data.noted, (remote, received), noted | frozenset(positions))

    def forget_noted(self, remote: int, up_to: int | None, *, received: bool = False) -> None:
        """Drop the notes up to a position, or all."""
        noted = self._data.noted.get((remote, received))
        if noted:
            kept = frozenset(position for position in noted if up_to is not None and position > up_to)
            self._set(self._data.noted, (remote, received), kept)

    # -- exceptions ----------------------------------------------------------------------------------------
    def put_unapplied(self, row: UnappliedRow) -> None:
        """Note that an entry's projection failed."""
        self._set(self._data.unapplied, row.position, row)

    def drop_unapplied(self, position: int) -> None:
        """Forget that an entry's projection failed."""
        self._set(self._data.unapplied, position, _ABSENT)

    def unapplied_rows(self, store: int, after: int = 0, rows_max: int | None = None) -> list[UnappliedRow]:
        """List a store's unapplied entries."""
        behind = sorted(item for item in self._data.unapplied.items() if item[0] > after)
        found = (row for position, row in behind if self._data.row(position).store == store)
        return list(islice(found, rows_max))

    def put_quarantined(self, row: QuarantinedRow) -> bool:
        """Keep an entry aside."""
        if (row.store, row.id) in self._data.quarantined:
            return False
        self._set(self._data.quarantined, (row.store, row.id), row)
        return True

    def drop_quarantined(self, store: int, entry_id: bytes) -> QuarantinedRow | None:
        """Forget that an entry was kept aside."""
        row = self._data.quarantined.get((store, entry_id))
        self._set(self._data.quarantined, (store, entry_id), _ABSENT)
        return row

    def quarantined_ids(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids are kept aside."""
        return {entry_id for entry_id in ids if (store, entry_id) in self._data.quarantined}

    def quarantined_rows(self, store: int, after: bytes = b"", rows_max: int | None = None) -> list[QuarantinedRow]:
        """List what was kept aside."""
        held = sorted(self._data.quarantined.items())
        return list(islice((row for (number, id_), row in held if number == store and id_ > after), rows_max))

    # -- horizon -------------------------------------------------------------------------------------------
    def compacted(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids were compacted."""
        return {entry_id for entry_id in ids if (store, entry_id) in self._data.horizon}

    def remember_compacted(self, store: int, ids: Sequence[bytes], day: int) -> None:
        """Remember compacted ids."""
        for entry_id in ids:
            if (store, entry_id) not in self._data.horizon:
                self._set(self._data.horizon, (store, entry_id), day)

    def forget_compacted(self, store: int, before_day: int, rows_max: int) -> list[bytes]:
        """Forget ids dropped before a day."""
        ids = [
            entry_id for (number, entry_id), day in self._data.horizon.items() if number == store and day < before_day
        ][:rows_max]
        for entry_id in ids:
            self._set(self._data.horizon, (store, entry_id), _ABSENT)
        return ids


def _fitting(rows: list[EntryRow], bytes_max: int | None) -> list[EntryRow]:
    if bytes_max is None:
        return rows
    return rows[: max(1, sum(total <= bytes_max for total in accumulate(len(row.payload) for row in rows)))]


def _after(positions: Any, after: int, rows_max: int | None) -> Iterator[int]:
    """Iterate over a sorted container behind a position."""
    if not positions:
        return iter(())
    start = positions.bisect_right(after)
    return iter(positions.islice(start, None if rows_max is None else start + rows_max))
