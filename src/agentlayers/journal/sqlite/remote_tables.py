"""The tables about remotes, and about entries that are unapplied, quarantined or compacted."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

from agentlayers.journal.primitives import EntryRow, QuarantinedRow, RemoteRow, UnappliedRow
from agentlayers.journal.sqlite.buffered import BufferedTransaction
from agentlayers.journal.sqlite.statements import batches, marks

__all__ = ["RemoteTables"]

_RELAYABLE: Final = "store = ?1 AND NOT outbound AND position > ?4 AND origin <> 0 AND (origin <> ?2 OR position <= ?3)"
_QUARANTINED: Final = "SELECT store, id, remote, sequence, event, primary_key, data, reason FROM quarantine"
_NOTED: Final = "EXISTS (SELECT 1 FROM remote_has_received h WHERE h.remote = ?2 AND h.position = entry.position)"


class RemoteTables(BufferedTransaction):
    """Bookkeeping per remote, and the exceptions."""

    # -- remotes -------------------------------------------------------------------------------------------
    def find_remote(self, store: int, remote_id: bytes) -> RemoteRow | None:
        """Look up one remote of one store."""
        found = self.sql.one("SELECT * FROM remote WHERE store = ? AND remote_id = ?", (store, remote_id))
        return None if found is None else _remote(found)

    def list_remotes(self, store: int) -> list[RemoteRow]:
        """List a store's remotes."""
        return [
            _remote(found) for found in self.sql.all("SELECT * FROM remote WHERE store = ? ORDER BY number", (store,))
        ]

    def put_remote(self, remote: RemoteRow) -> RemoteRow:
        """Write a remote."""
        number = remote.number or None
        cursor = self._write("INSERT OR REPLACE INTO remote VALUES (?,?,?,?,?,?,?,?,?,?,?)", (number, *remote[1:]))
        return remote if number else remote._replace(number=int(cursor.lastrowid or 0))

    def pending_rows(self, store: int, remote: int, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """List outbound entries a remote is not noted to have."""
        self._write_rows()
        source = (
            "SELECT position, length(payload) AS size FROM entry WHERE store = ? AND outbound AND position > ? "
            "AND NOT EXISTS (SELECT 1 FROM remote_has h WHERE h.remote = ? AND h.position = entry.position) "
            "ORDER BY position LIMIT ?"
        )
        return self._fitting(self.sql.sizes(source, (store, after, remote, rows_max)), bytes_max)

    def _fitting(self, sized: list[tuple[int, int]], bytes_max: int) -> list[EntryRow]:
        total = list(accumulate(size for _, size in sized))
        fitting = max(1, bisect_right(total, bytes_max))
        return [row for rows in self.sql.rows_sized(sized[:fitting]) for row in rows]

    def outbound_positions(self, store: int, after: int, rows_max: int) -> list[int]:
        """List the positions of outbound entries after a position."""
        self._write_rows()
        source = "SELECT position FROM entry WHERE store = ? AND outbound AND position > ? ORDER BY position LIMIT ?"
        return [int(at) for (at,) in self.sql.gather("position", source, (store, after, rows_max))]

    def count_outbound(self, store: int, remote: int, after: int) -> int:
        """Count what is pending."""
        self._write_rows()
        query = (
            "SELECT (SELECT count(*) FROM entry WHERE store = ? AND outbound AND position > ?) - (SELECT count(*) "
            "FROM remote_has JOIN entry USING (position) WHERE remote = ? AND position > ?)"
        )
        (count,) = self.sql.one(query, (store, after, remote, after))
        return int(count)

    def relayable_rows(self, remote: RemoteRow, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """List entries from other remotes that a remote is not noted to have."""
        self._write_rows()
        source = (
            f"SELECT position, length(payload) AS size FROM entry WHERE {_RELAYABLE} AND NOT {_NOTED} "
            "ORDER BY position LIMIT ?5"
        )
        return self._fitting(self.sql.sizes(source, (*_relaying(remote), after, rows_max)), bytes_max)

    def relayable_positions(self, remote: RemoteRow, after: int, rows_max: int) -> list[int]:
        """List the positions of entries from other remotes after a position."""
        self._write_rows()
        source = f"SELECT position FROM entry WHERE {_RELAYABLE} ORDER BY position LIMIT ?5"
        return [int(at) for (at,) in self.sql.gather("position", source, (*_relaying(remote), after, rows_max))]

    def count_relayable(self, remote: RemoteRow, after: int) -> int:
        """Count what there is to relay."""
        self._write_rows()
        query = f"SELECT count(*) FROM entry WHERE {_RELAYABLE} AND NOT {_NOTED}"
        (count,) = self.sql.one(query, (*_relaying(remote), after))
        return int(count)

    def noted(self, remote: int, positions: Sequence[int], *, received: bool = False) -> set[int]:
        """Return which positions the remote is noted to have."""
        noted: set[int] = set()
        for some in batches(positions):
            source = f"SELECT position FROM {_notes(received)} WHERE remote = ? AND position IN ({marks(len(some))})"
            noted.update(int(at) for (at,) in self.sql.gather("position", source, (remote, *some)))
        return noted

    def note(self, remote: int, positions: Iterable[int], *, received: bool = False) -> None:
        """Note that the remote has positions."""
        self._write_through()
        pairs = [(remote, position) for position in positions]
        self.sql.insert(f"INSERT OR IGNORE INTO {_notes(received)}", pairs)

    def forget_noted(self, remote: int, up_to: int | None, *, received: bool = False) -> None:
        """Drop the notes up to a position, or all."""
        if up_to is None:
            self._write(f"DELETE FROM {_notes(received)} WHERE remote = ?", (remote,))
        else:
            self._write(f"DELETE FROM {_notes(received)} WHERE remote = ? AND position <= ?", (remote, up_to))

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

    def unapplied_rows(self, store: int, after: int = 0, rows_max: int | None = None) -> list[UnappliedRow]:
        """List a store's unapplied entries."""
        query = (
            "SELECT position, error, attempts FROM unapplied WHERE position > ? AND store = ? ORDER BY position LIMIT ?"
        )
        limit = -1 if rows_max is None else rows_max
        return [UnappliedRow(*found) for found in self.sql.all(query, (after, store, limit))]

    def put_quarantined(self, row: QuarantinedRow) -> bool:
        """Keep an entry aside."""
        return self._write("INSERT OR IGNORE INTO quarantine VALUES (?,?,?,?,?,?,?,?)", row).rowcount > 0

    def drop_quarantined(self, store: int, entry_id: bytes) -> QuarantinedRow | None:
        """Forget that an entry was kept aside."""
        found = self.sql.one(f"{_QUARANTINED} WHERE store = ? AND id = ?", (store, entry_id))
        self._write("DELETE FROM quarantine WHERE store = ? AND id = ?", (store, entry_id))
        return None if found is None else QuarantinedRow(*found)

    def quarantined_ids(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids are kept aside."""
        kept: set[bytes] = set()
        for some in batches(ids):
            source = f"SELECT id FROM quarantine WHERE store = ? AND id IN ({marks(len(some))})"
            found = self.sql.gather("hex(id)", source, (store, *some))
            kept.update(bytes.fromhex(entry_id) for (entry_id,) in found)
        return kept

    def quarantined_rows(self, store: int, after: bytes = b"", rows_max: int | None = None) -> list[QuarantinedRow]:
        """List what was kept aside."""
        query = f"{_QUARANTINED} WHERE store = ? AND id > ? ORDER BY id LIMIT ?"
        limit = -1 if rows_max is None else rows_max
        return [QuarantinedRow(*found) for found in self.sql.all(query, (store, after, limit))]

    # -- horizon -------------------------------------------------------------------------------------------
    def compacted(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids were compacted."""
        known: set[bytes] = set()
        if not ids or self.sql.one("SELECT 1 FROM horizon LIMIT 1") is None:
            return known
        for some in batches(ids):
            source = f"SELECT id FROM horizon WHERE store = ? AND id IN ({marks(len(some))})"
            found = self.sql.gather("hex(id)", source, (store, *some))
            known.update(bytes.fromhex(entry_id) for (entry_id,) in found)
        return known

    def remember_compacted(self, store: int, ids: Sequence[bytes], day: int) -> None:
        """Remember compacted ids."""
        self._write_through()
        self.sql.insert("INSERT OR IGNORE INTO horizon", [(store, entry_id, day) for entry_id in ids])

    def forget_compacted(self, store: int, before_day: int, rows_max: int) -> list[bytes]:
        """Forget ids dropped before a day."""
        source = "SELECT id FROM horizon WHERE store = ? AND day < ? LIMIT ?"
        found = self.sql.gather("hex(id)", source, (store, before_day, rows_max))
        ids = [bytes.fromhex(entry_id) for (entry_id,) in found]
        self._write_through()
        self.sql.delete("DELETE FROM horizon WHERE store = ? AND id", ids, store)
        return ids


def _remote(found: tuple[Any, ...]) -> RemoteRow:
    # A file of an older release that is only read has fewer columns; the missing ones have their defaults.
    row = RemoteRow(*found)
    return row._replace(is_retired=bool(row.is_retired))


def _notes(received: bool) -> str:  # noqa: FBT001  # two tables, told apart by nothing else
    return "remote_has_received" if received else "remote_has"


def _relaying(remote: RemoteRow) -> tuple[int, int, int]:
    return remote.store, remote.number, remote.lost_up_to
