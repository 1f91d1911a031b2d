"""Ranges about remotes, and about entries that are unapplied, quarantined or compacted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgpack

from agentlayers.journal.key_value.codec import (
    decode_quarantined,
    decode_remote,
    encode_quarantined,
    encode_remote,
)
from agentlayers.journal.key_value.entry_ranges import EntryRanges
from agentlayers.journal.key_value.keys import (
    UNAPPLIED,
    compacted_key,
    compacted_on_key,
    note_count_key,
    note_key,
    note_prefix,
    outbound_key,
    outbound_prefix,
    position_of,
    quarantine_key,
    quarantine_prefix,
    received_key,
    received_prefix,
    remote_key,
    remote_prefix,
    tally_key,
    unapplied_key,
)
from agentlayers.journal.primitives import EntryRow, QuarantinedRow, RemoteRow, UnappliedRow
from agentlayers.key_value.keys import prefix_end

__all__ = ["RemoteRanges"]

_REMOTES: Final = b"remote"
_NOTES_AT_ONCE: Final = 256


class RemoteRanges(EntryRanges):
    """Bookkeeping per remote, and the exceptions."""

    # -- remotes -------------------------------------------------------------------------------------------
    def find_remote(self, store: int, remote_id: bytes) -> RemoteRow | None:
        """Look up one remote of one store."""
        found = self.cells.get(remote_key(store, remote_id))
        return None if found is None else decode_remote(found)

    def list_remotes(self, store: int) -> list[RemoteRow]:
        """List a store's remotes."""
        return sorted(decode_remote(found) for _, found in self._under(remote_prefix(store)))

    def put_remote(self, remote: RemoteRow) -> RemoteRow:
        """Write a remote."""
        if not remote.number:
            remote = remote._replace(number=self._next_number(_REMOTES))
        self.cells.put(remote_key(remote.store, remote.remote_id), encode_remote(remote))
        return remote

    # -- what a remote lacks -------------------------------------------------------------------------------
    def _outbound(self, store: int, after: int, limit: int | None = None) -> Iterator[tuple[int, int]]:
        """Iterate over positions and payload sizes of outbound entries."""
        if after >= self._tally(store).last_outbound:
            return
        end = prefix_end(outbound_prefix(store))
        for key, size in self.cells.scan(outbound_key(store, after + 1), end, limit=limit):
            yield position_of(key), int.from_bytes(size)

    def _relayable(self, remote: RemoteRow, after: int) -> Iterator[tuple[int, int]]:
        """Iterate over positions and payload sizes of entries from other remotes."""
        if after >= self._tally(remote.store).last_received:
            return
        end = prefix_end(received_prefix(remote.store))
        for key, found in self.cells.scan(received_key(remote.store, after + 1), end):
            position, origin = position_of(key), int.from_bytes(found[:4])
            if position <= remote.lost_up_to or origin != remote.number:
                yield position, int.from_bytes(found[4:])

    def _unnoted(self, remote: int, sized: Iterator[tuple[int, int]], *, received: bool) -> Iterator[tuple[int, int]]:
        """Leave out what the remote is noted to have."""
        if not self._note_count(remote, received=received):
            yield from sized
            return
        while some := list(islice(sized, _NOTES_AT_ONCE)):
            noted = self._noted_between(remote, some[0][0], some[-1][0], received=received)
            yield from (pair for pair in some if pair[0] not in noted)

    def _noted_between(self, remote: int, first: int, last: int, *, received: bool) -> set[int]:
        start = note_key(remote, first, received=received)
        end = note_key(remote, last + 1, received=received)
        return {position_of(key) for key, _ in self.cells.scan(start, end)}

    def _fitting(self, store: int, sized: Iterator[tuple[int, int]], rows_max: int, bytes_max: int) -> list[EntryRow]:
        positions: list[int] = []
        total = 0
        for position, size in sized:
            total += size
            if len(positions) >= rows_max or (positions and total > bytes_max):
                break
            positions.append(position)
        return self._rows(store, positions)

    def pending_rows(self, store: int, remote: int, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """List outbound entries a remote is not noted to have."""
        sized = self._unnoted(remote, self._outbound(store, after), received=False)
        return self._fitting(store, sized, rows_max, bytes_max)

    def outbound_positions(self, store: int, after: int, rows_max: int) -> list[int]:
        """List the positions of outbound entries after a position."""
        return [position for position, _ in self._outbound(store, after, rows_max)]

    def count_outbound(self, store: int, remote: int, after: int) -> int:
        """Count what is pending."""
        if not after and not self._note_count(remote, received=False):
            return self._tally(store).outbound
        return sum(1 for _ in self._unnoted(remote, self._outbound(store, after), received=False))

    def relayable_rows(self, remote: RemoteRow, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """List entries from other remotes that a remote is not noted to have."""
        sized = self._unnoted(remote.number, self._relayable(remote, after), received=True)
        return self._fitting(remote.store, sized, rows_max, bytes_max)

    def relayable_positions(self, remote: RemoteRow, after: int, rows_max: int) -> list[int]:
        """List the positions of entries from other remotes after a position."""
        return [position for position, _ in islice(self._relayable(remote, after), rows_max)]

    def count_relayable(self, remote: RemoteRow, after: int) -> int:
        """Count what there is to relay."""
        return sum(1 for _ in self._unnoted(remote.number, self._relayable(remote, after), received=True))

    # -- notes ---------------------------------------------------------------------------------------------
    def _note_count(self, remote: int, *, received: bool) -> int:
        return int.from_bytes(self.cells.get(note_count_key(remote, received=received)) or b"")

    def noted(self, remote: int, positions: Sequence[int], *, received: bool = False) -> set[int]:
        """Return which positions the remote is noted to have."""
        if not self._note_count(remote, received=received):
            return set()
        found = self.cells.get_many([note_key(remote, position, received=received) for position in positions])
        return {position for position, note in zip(positions, found, strict=True) if note is not None}

    def note(self, remote: int, positions: Iterable[int], *, received: bool = False) -> None:
        """Note that the remote has positions."""
        wanted = set(positions)
        fresh = wanted - self.noted(remote, sorted(wanted), received=received)
        for position in sorted(fresh):
            self.cells.put(note_key(remote, position, received=received), b"")
        self._count_notes(remote, len(fresh), received=received)

    def _count_notes(self, remote: int, more: int, *, received: bool) -> None:
        if more:
            count = self._note_count(remote, received=received) + more
            self.cells.put(note_count_key(remote, received=received), count.to_bytes(8))

    def forget_noted(self, remote: int, up_to: int | None, *, received: bool = False) -> None:
        """Drop the notes up to a position, or all."""
        if not self._note_count(remote, received=received):
            return
        prefix = note_prefix(remote, received=received)
        end = prefix_end(prefix) if up_to is None else note_key(remote, up_to + 1, received=received)
        forgotten = [key for key, _ in self.cells.scan(prefix, end)]
        for key in forgotten:
            self.cells.put(key, None)
        self._count_notes(remote, -len(forgotten), received=received)

    # -- exceptions ----------------------------------------------------------------------------------------
    def put_unapplied(self, row: UnappliedRow) -> None:
        """Note that an entry's projection failed."""
        for entry in self.rows_at([row.position]):
            packed: bytes = msgpack.packb((entry.store, row.error, row.attempts), unicode_errors="surrogatepass")
            self.cells.put(unapplied_key(row.position), packed)

    def drop_unapplied(self, position: int) -> None:
        """Forget that an entry's projection failed."""
        self.cells.put(unapplied_key(position), None)

    def unapplied_rows(self, store: int, after: int = 0, rows_max: int | None = None) -> list[UnappliedRow]:
        """List a store's unapplied entries."""
        rows: list[UnappliedRow] = []
        for key, found in self.cells.scan(unapplied_key(after + 1), prefix_end(UNAPPLIED)):
            number, error, attempts = msgpack.unpackb(found, unicode_errors="surrogatepass")
            if len(rows) == rows_max:
                break
            if number == store:
                rows.append(UnappliedRow(position_of(key), error, attempts))
        return rows

    def put_quarantined(self, row: QuarantinedRow) -> bool:
        """Keep an entry aside."""
        key = quarantine_key(row.store, row.id)
        if self.cells.get(key) is not None:
            return False
        self.cells.put(key, encode_quarantined(row))
        return True

    def drop_quarantined(self, store: int, entry_id: bytes) -> QuarantinedRow | None:
        """Forget that an entry was kept aside."""
        key = quarantine_key(store, entry_id)
        found = self.cells.get(key)
        self.cells.put(key, None)
        return None if found is None else decode_quarantined(found)

    def quarantined_ids(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids are kept aside."""
        found = self.cells.get_many([quarantine_key(store, entry_id) for entry_id in ids])
        return {entry_id for entry_id, kept in zip(ids, found, strict=True) if kept is not None}

    def quarantined_rows(self, store: int, after: bytes = b"", rows_max: int | None = None) -> list[QuarantinedRow]:
        """List what was kept aside."""
        prefix = quarantine_prefix(store)
        start = quarantine_key(store, after) + b"\x00" if after else prefix
        rows = (decode_quarantined(found) for _, found in self.cells.scan(start, prefix_end(prefix)))
        return sorted(rows, key=lambda row: row.id) if rows_max is None else list(islice(rows, rows_max))

    # -- horizon -------------------------------------------------------------------------------------------
    def compacted(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids were compacted."""
        if not self._tally(store).compacted:
            return set()
        found = self.cells.get_many([compacted_key(store, entry_id) for entry_id in ids])
        return {entry_id for entry_id, day in zip(ids, found, strict=True) if day is not None}

    def remember_compacted(self, store: int, ids: Sequence[bytes], day: int) -> None:
        """Remember compacted ids."""
        fresh = set(ids) - self.compacted(store, ids)
        for entry_id in sorted(fresh):
            self.cells.put(compacted_key(store, entry_id), day.to_bytes(8))
            self.cells.put(compacted_on_key(store, day, entry_id), b"")
        self._count_compacted(store, len(fresh))

    def forget_compacted(self, store: int, before_day: int, rows_max: int) -> list[bytes]:
        """Forget ids dropped before a day."""
        if before_day <= 0 or not self._tally(store).compacted:
            return []
        start, end = compacted_on_key(store, 0, b""), compacted_on_key(store, before_day, b"")
        keys = [key for key, _ in self.cells.scan(start, end, limit=rows_max)]
        ids = [key[len(start) :] for key in keys]
        for key, entry_id in zip(keys, ids, strict=True):
            self.cells.put(key, None)
            self.cells.put(compacted_key(store, entry_id), None)
        self._count_compacted(store, -len(ids))
        return ids

    def _count_compacted(self, store: int, more: int) -> None:
        if more:
            tally = self._tally(store)
            self.cells.put(tally_key(store), tally._replace(compacted=tally.compacted + more))
