"""
What a backend must be able to do inside one transaction; everything else is shared.

A backend supplies look-ups, writes and savepoints over its own medium. What happens to an entry is decided
in :mod:`~agentlayers.journal.transaction` and the modules beside it, once for all backends.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from agentlayers.journal.causality import KeyState
from agentlayers.journal.text_search import TextHit, TextOrder, TextTerm

__all__ = [
    "EntryRow",
    "HeldEntry",
    "JournalPrimitives",
    "QuarantinedRow",
    "RemoteRow",
    "UnappliedRow",
]


class EntryRow(NamedTuple):
    """
    One entry as backends keep it.

    Attributes:
        position: Local arrival order.
        store: Number of the store (see :meth:`JournalPrimitives.store_number`).
        id: Entry id.
        event: Event tag.
        primary_key: What it is about.
        payload: MessagePack.
        outbound: Written here and to be synced: a candidate for being pending.
        origin: 0 when written here, else the number of the remote it came from: all others may lack it.
        keyed: It is a version of its key.
        applied: Its projection ran.
    """

    position: int
    store: int
    id: bytes
    event: str
    primary_key: str
    payload: bytes
    outbound: bool
    origin: int
    keyed: bool
    applied: bool


class HeldEntry(NamedTuple):
    """What deduplication needs of an entry that is here already."""

    position: int
    outbound: bool
    origin: int


class RemoteRow(NamedTuple):
    """
    What is known of one remote's copy of one store.

    Attributes:
        number: Local number of the (store, remote) pair.
        store: Number of the store.
        remote_id: 16 bytes.
        url: Where it was reached; :obj:`None` when never told.
        next_sequence: First unused sequence.
        incarnation: Empty for a stock server.
        watermark: All outbound positions up to here are acknowledged.
        is_retired: It no longer holds compaction back.
        relay: Whether it is sent what came from other remotes: a
            :class:`~agentlayers.journal.event_journal.RelayMode`.
        relay_watermark: All relayable positions up to here are held by it.
        lost_up_to: Up to this position it may have lost what it once sent; 0 if it lost nothing.
    """

    number: int
    store: int
    remote_id: bytes
    url: str | None
    next_sequence: int
    incarnation: bytes
    watermark: int
    is_retired: bool
    relay: int = 0
    relay_watermark: int = 0
    lost_up_to: int = 0


class UnappliedRow(NamedTuple):
    """An entry whose projection failed."""

    position: int
    error: str
    attempts: int


class QuarantinedRow(NamedTuple):
    """An entry from a remote that was kept aside."""

    store: int
    id: bytes
    remote: int
    sequence: int
    event: str
    primary_key: str
    data: bytes
    reason: str


class JournalPrimitives(abc.ABC):
    """The medium of one transaction."""

    # -- stores and settings -------------------------------------------------------------------------------
    @abc.abstractmethod
    def store_number(self, name: str) -> int:
        """Return the number of a store, giving it one at first use; in a read, 0 when it has none."""

    @abc.abstractmethod
    def store_name(self, number: int) -> str:
        """Return the name of a numbered store."""

    @abc.abstractmethod
    def get_setting(self, name: str) -> bytes | None:
        """Read one of the journal's own settings."""

    @abc.abstractmethod
    def put_setting(self, name: str, value: bytes) -> None:
        """Write one of the journal's own settings."""

    # -- savepoints ----------------------------------------------------------------------------------------
    @abc.abstractmethod
    def open_savepoint(self) -> int:
        """Mark the present state; returns a token. Savepoints nest."""

    @abc.abstractmethod
    def release_savepoint(self, token: int) -> None:
        """Keep what was done since."""

    @abc.abstractmethod
    def rollback_savepoint(self, token: int) -> None:
        """Undo what was done since and close the savepoint."""

    # -- entries -------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def next_position(self) -> int:
        """Return the position the next entry gets; never one that was used before."""

    @abc.abstractmethod
    def highest_id(self, below: bytes) -> bytes:
        """Return the highest entry id held below a bound, of all stores; empty for none."""

    @abc.abstractmethod
    def append_row(self, row: EntryRow) -> None:
        """Add an entry at :meth:`next_position`."""

    def append_rows(self, rows: Sequence[EntryRow]) -> None:
        """Add entries from :meth:`next_position` on, one behind the other."""
        for row in rows:
            self.append_row(row)

    @abc.abstractmethod
    def find_row(self, store: int | None, entry_id: bytes) -> EntryRow | None:
        """Look an entry up by id, in one store or in all."""

    @abc.abstractmethod
    def held(self, store: int, ids: Sequence[bytes]) -> dict[bytes, HeldEntry]:
        """Return which of these ids are here."""

    @abc.abstractmethod
    def rows_after(
        self, store: int | None, position: int, rows_max: int, *, bytes_max: int | None = None
    ) -> list[EntryRow]:
        """List entries in local order; stops before their payloads exceed ``bytes_max``, not before the first."""

    @abc.abstractmethod
    def rows_by_age(self, store: int, below: bytes, rows_max: int, *, bytes_max: int | None = None) -> list[EntryRow]:
        """
        List entries with an id below a bound, newest first; an empty bound means no bound.

        Stops before their payloads exceed ``bytes_max``, but not before the first.
        """

    @abc.abstractmethod
    def rows_at(self, positions: Sequence[int]) -> list[EntryRow]:
        """Return the entries at these positions, in local order."""

    @abc.abstractmethod
    def version_rows(self, store: int, primary_key: str) -> list[EntryRow]:
        """List the versions of a key, ascending by entry id."""

    @abc.abstractmethod
    def count_rows(self, store: int) -> int:
        """Count a store's entries."""

    @abc.abstractmethod
    def set_applied(self, position: int, *, applied: bool) -> None:
        """Note whether an entry's projection ran."""

    @abc.abstractmethod
    def set_keyed(self, position: int) -> None:
        """Note that an entry is a version of its key, once the release knows its event."""

    @abc.abstractmethod
    def delete_rows(self, rows: Sequence[EntryRow]) -> None:
        """Drop entries; their positions are never used again."""

    # -- keys ----------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def key_state(self, store: int, primary_key: str) -> KeyState | None:
        """Return what is known of a key."""

    @abc.abstractmethod
    def put_key_state(self, store: int, primary_key: str, state: KeyState) -> None:
        """Replace what is known of a key."""

    @abc.abstractmethod
    def conflicted_keys(self, store: int) -> list[str]:
        """List the keys with several heads, in order."""

    # -- read models ---------------------------------------------------------------------------------------
    @abc.abstractmethod
    def get_value(self, key: bytes) -> bytes | None:
        """Read one value of a read model."""

    @abc.abstractmethod
    def put_value(self, key: bytes, value: bytes | None) -> None:
        """Write one value of a read model, or delete it with :obj:`None`."""

    @abc.abstractmethod
    def scan_values(
        self, start: bytes, end: bytes, *, reverse: bool, rows_max: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the values with ``start <= key < end``, in key order."""

    # -- texts ---------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def put_text(self, store: int, entry_id: bytes, scope: str, text: str | None) -> None:
        """Keep the text an entry is found by, or forget it with :obj:`None`."""

    @abc.abstractmethod
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
        """List committed entries whose text has all terms, in this order, behind ``after``."""

    @abc.abstractmethod
    def settle_texts(self) -> None:
        """Give committed texts the rank they keep, so that pages in the order of rank follow each other."""

    @abc.abstractmethod
    def text_backlog(self) -> int:
        """Return up to which position entries are older than the text index; 0 if none is."""

    # -- remotes -------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def find_remote(self, store: int, remote_id: bytes) -> RemoteRow | None:
        """Look up one remote of one store."""

    @abc.abstractmethod
    def list_remotes(self, store: int) -> list[RemoteRow]:
        """List a store's remotes, retired ones included."""

    @abc.abstractmethod
    def put_remote(self, remote: RemoteRow) -> RemoteRow:
        """Write a remote; number 0 asks for a new number. Returns the row with its number."""

    @abc.abstractmethod
    def pending_rows(self, store: int, remote: int, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """
        List outbound entries after a position that a remote (0: none) is not noted to have.

        Stops before the payloads exceed ``bytes_max``, but not before the first entry.
        """

    @abc.abstractmethod
    def outbound_positions(self, store: int, after: int, rows_max: int) -> list[int]:
        """List the positions of outbound entries after a position."""

    @abc.abstractmethod
    def count_outbound(self, store: int, remote: int, after: int) -> int:
        """Count what :meth:`pending_rows` would list without bounds."""

    @abc.abstractmethod
    def relayable_rows(self, remote: RemoteRow, after: int, *, rows_max: int, bytes_max: int) -> list[EntryRow]:
        """
        List what :meth:`relayable_positions` lists and the remote is not noted to have.

        Stops before the payloads exceed ``bytes_max``, but not before the first entry.
        """

    @abc.abstractmethod
    def relayable_positions(self, remote: RemoteRow, after: int, rows_max: int) -> list[int]:
        """
        List the positions, after one, of the store's entries that came from other remotes.

        Those that came from this one are among them up to its ``lost_up_to``.
        """

    @abc.abstractmethod
    def count_relayable(self, remote: RemoteRow, after: int) -> int:
        """Count what :meth:`relayable_rows` would list without bounds."""

    @abc.abstractmethod
    def noted(self, remote: int, positions: Sequence[int], *, received: bool = False) -> set[int]:
        """
        Return which positions the remote is noted to have beyond its watermark.

        Notes about received entries are apart from those about outbound ones: each has a watermark of its own.
        """

    @abc.abstractmethod
    def note(self, remote: int, positions: Iterable[int], *, received: bool = False) -> None:
        """Note that the remote has positions beyond its watermark; all outbound, or all received."""

    @abc.abstractmethod
    def forget_noted(self, remote: int, up_to: int | None, *, received: bool = False) -> None:
        """Drop the notes up to a position, or all."""

    # -- exceptions ----------------------------------------------------------------------------------------
    @abc.abstractmethod
    def put_unapplied(self, row: UnappliedRow) -> None:
        """Note that an entry's projection failed."""

    @abc.abstractmethod
    def drop_unapplied(self, position: int) -> None:
        """Forget that an entry's projection failed."""

    @abc.abstractmethod
    def unapplied_rows(self, store: int, after: int = 0, rows_max: int | None = None) -> list[UnappliedRow]:
        """List a store's unapplied entries behind a position in local order, at most ``rows_max``."""

    @abc.abstractmethod
    def put_quarantined(self, row: QuarantinedRow) -> bool:
        """Keep an entry aside; :obj:`False` when it was already."""

    @abc.abstractmethod
    def drop_quarantined(self, store: int, entry_id: bytes) -> QuarantinedRow | None:
        """Forget that an entry was kept aside; returns what was."""

    @abc.abstractmethod
    def quarantined_ids(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids are kept aside."""

    @abc.abstractmethod
    def quarantined_rows(self, store: int, after: bytes = b"", rows_max: int | None = None) -> list[QuarantinedRow]:
        """List what was kept aside; in parts, in the medium's own order, behind an id."""

    # -- horizon -------------------------------------------------------------------------------------------
    @abc.abstractmethod
    def compacted(self, store: int, ids: Sequence[bytes]) -> set[bytes]:
        """Return which of these ids were compacted and are remembered."""

    @abc.abstractmethod
    def remember_compacted(self, store: int, ids: Sequence[bytes], day: int) -> None:
        """Remember compacted ids, with the day (since the epoch) on which they were dropped."""

    @abc.abstractmethod
    def forget_compacted(self, store: int, before_day: int, rows_max: int) -> list[bytes]:
        """Forget ids dropped before a day, at most ``rows_max``; returns those forgotten."""
