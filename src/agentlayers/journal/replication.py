"""
What a journal keeps per remote: what came from it, what it has of ours, where to go on reading.

What of the journal it has is kept by :mod:`agentlayers.journal.held_entries`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from agentlayers.errors import MalformedMessageError
from agentlayers.journal import held_entries as held
from agentlayers.journal import projection, quarantine
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.entry import Entry, RemoteEntry, StoredEntry
from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.journal.event_journal import (
    Acknowledgement,
    RelayMode,
    Remote,
    RemoteState,
    RemoteWriteResult,
    StoreSchema,
)
from agentlayers.journal.primitives import EntryRow, HeldEntry, QuarantinedRow, RemoteRow
from agentlayers.journal.quarantine import QuarantineResult, UnreadableEntry
from agentlayers.limits import ENTRY_ID_BYTES, PAYLOAD_BYTES_MAX
from agentlayers.logs import get_logger

if TYPE_CHECKING:
    from agentlayers.journal.transaction import JournalTransaction

__all__ = [
    "HORIZON_FLOOR",
    "acknowledge",
    "quarantine_unreadable",
    "remember_remote",
    "remote_state",
    "remotes",
    "reset_remote",
    "retire_remote",
    "return_to_not_kept",
    "uncommitted",
    "write_from_remote",
]

logger = get_logger(__name__)

_ABOVE_ALL: Final = b"\xff" * (ENTRY_ID_BYTES + 1)

HORIZON_FLOOR = "horizon_floor:"
"""Setting per store: highest milliseconds of an id that was compacted and is remembered no longer."""


# -- from a remote ------------------------------------------------------------------------------------------
def write_from_remote(
    tx: JournalTransaction,
    store: str,
    remote_id: bytes,
    entries: Sequence[RemoteEntry],
    *,
    through: int | None,
    since: int | None = None,
) -> RemoteWriteResult:
    """Take over what a remote sent; see :meth:`JournalTransaction.write_from_remote`."""
    schema = tx.registry.schema(store)
    remote = _contacted(tx, tx.store_number(store), remote_id)
    arrival = _Arrival(tx, schema, remote)
    arrival.sort_out(entries)
    states = projection.apply_rows(tx, schema, arrival.rows, arrival.versions)
    remote = held.mark_own(tx, remote, arrival.returned)
    remote = held.mark_received(tx, remote, arrival.seen)
    if through is None and entries:
        through = max(entry.sequence for entry in entries) + 1
    next_sequence = _moved(remote, through or 0, since)
    tx.put_remote(remote._replace(next_sequence=next_sequence))
    projection.report_conflicts(tx, schema, remote_id, states)
    return RemoteWriteResult(
        tuple(arrival.taken), arrival.duplicates, arrival.aside.kept, next_sequence, arrival.aside.not_kept
    )


class _Arrival:
    """One batch from a remote, sorted into new, known and unusable."""

    def __init__(self, tx: JournalTransaction, schema: StoreSchema, remote: RemoteRow) -> None:
        self.tx, self.schema, self.remote = tx, schema, remote
        self.rows: list[EntryRow] = []
        self.taken: list[Entry] = []
        self.versions: dict[bytes, Version] = {}
        self.returned: list[int] = []
        self.seen: list[int] = []
        self.duplicates = 0
        self.unusable: list[QuarantinedRow] = []
        self.aside = quarantine.QuarantineResult()

    def sort_out(self, entries: Sequence[RemoteEntry]) -> None:
        """Append what is new; note what came back; keep aside what cannot be used."""
        tx, store = self.tx, self.remote.store
        ids = [remote_entry.entry.id for remote_entry in entries]
        # What is above all that is here is not here: the usual case, found by one look instead of one for each.
        here = {} if ids and min(ids) > tx.highest_id(_ABOVE_ALL) else tx.held(store, ids)
        known = tx.compacted(store, [entry_id for entry_id in ids if entry_id not in here])
        floor = _horizon_floor(tx, store)
        if not here and not known and floor < 0 and self._are_plain(entries, ids):
            self._take_plain([entry for _, entry in entries])
        else:
            self._sort_singly(entries, here, known, floor)
        self._set_aside()
        if self.rows:
            taken = [row.id for row in self.rows]
            # It may have come before, from this remote or another, and not have been readable.
            quarantine.release(tx, store, taken)
            tx.written_stores.add(self.schema.name)
            tx.sources.add((self.schema.name, self.remote.remote_id))
            tx.note_ids(taken)

    def _sort_singly(
        self, entries: Sequence[RemoteEntry], here: Mapping[bytes, HeldEntry], known: set[bytes], floor: int
    ) -> None:
        for sequence, entry in entries:
            if entry.id in here or entry.id in known:
                self.duplicates += 1
                back = here.get(entry.id)
                if back is not None:
                    self._note_held(back)
            elif floor >= 0 and entry_id_millis(entry.id) <= floor:
                self._refuse(sequence, entry, "older than the compaction horizon")
                known.add(entry.id)
            else:
                known.add(entry.id)
                self._take(sequence, entry)

    def _note_held(self, back: HeldEntry) -> None:
        if back.outbound:
            self.returned.append(back.position)
        elif held.is_relayable(self.remote, back.origin, back.position):
            self.seen.append(back.position)

    def _are_plain(self, entries: Sequence[RemoteEntry], ids: Sequence[bytes]) -> bool:
        """Tell whether no entry needs a closer look, as in nearly every batch of an append-only group."""
        return (
            self.schema.keyed_events.isdisjoint({entry.event for _, entry in entries})
            and len(set(ids)) == len(ids)
            and set(map(len, ids)) == {ENTRY_ID_BYTES}
            and max(len(entry.payload) for _, entry in entries) <= PAYLOAD_BYTES_MAX
        )

    def _take_plain(self, entries: list[Entry]) -> None:
        """Append entries as :meth:`_take` does, for a third of the cost."""
        store, origin, start = self.remote.store, self.remote.number, self.tx.next_position()
        self.rows = [
            EntryRow(position, store, *entry, False, origin, False, True)  # noqa: FBT003
            for position, entry in enumerate(entries, start)
        ]
        self.tx.append_rows(self.rows)
        self.taken = entries

    def _take(self, sequence: int, entry: Entry) -> None:
        keyed = entry.event in self.schema.keyed_events
        row = EntryRow(
            self.tx.next_position(), self.remote.store, entry.id, entry.event, entry.primary_key, entry.payload,
            False, self.remote.number, keyed, True,  # noqa: FBT003
        )  # fmt: skip
        reason = _unusable(entry)
        if keyed and not reason:
            try:
                version = self.versions[entry.id] = self.tx.version_from(self.schema, row)
                self._check_author(version)
            except (MalformedMessageError, ValueError, TypeError) as error:
                reason = f"payload of a keyed event is no map: {type(error).__name__}"
        if reason:
            self._refuse(sequence, entry, reason)
            return
        self.tx.append_row(row)
        self.rows.append(row)
        self.taken.append(entry)

    def _check_author(self, version: Version) -> None:
        # Written under our name, but not by this journal as it is: it was restored from a backup, or copied and
        # both go on. "Highest seen" of one name must never cover what another wrote, so we take a new name.
        if version.replica == self.tx.registry.replica_id:
            self.tx.renew_replica_id()

    def _refuse(self, sequence: int, entry: Entry, reason: str) -> None:
        row = QuarantinedRow(
            self.remote.store, entry.id, self.remote.number, sequence, entry.event, entry.primary_key,
            entry.payload, reason,
        )  # fmt: skip
        self.unusable.append(row)

    def _set_aside(self) -> None:
        self.aside = quarantine.keep_aside(self.tx, self.remote, self.unusable)
        self.duplicates += len(self.unusable) - len(self.aside.kept) - len(self.aside.not_kept)
        kept = frozenset(self.aside.kept)
        for row in self.unusable:
            if row.id in kept:
                logger.warning("entry_quarantined", store=self.schema.name, entry_id=row.id.hex(), reason=row.reason)


def _unusable(entry: Entry) -> str:
    if len(entry.id) != ENTRY_ID_BYTES:
        return f"an entry id of {len(entry.id)} bytes instead of {ENTRY_ID_BYTES}"
    if len(entry.payload) > PAYLOAD_BYTES_MAX:
        return f"a payload of {len(entry.payload)} bytes, at most {PAYLOAD_BYTES_MAX} are kept"
    return ""


def _horizon_floor(tx: JournalTransaction, store: int) -> int:
    value = tx.get_setting(f"{HORIZON_FLOOR}{store}")
    return -1 if value is None else int.from_bytes(value)


# -- to a remote --------------------------------------------------------------------------------------------
def uncommitted(
    tx: JournalTransaction,
    store: str,
    remote_id: bytes,
    *,
    after: int,
    entries_max: int,
    bytes_max: int,
    relayed: bool | None,
) -> list[StoredEntry]:
    """List what the remote is not known to have; see :meth:`EventJournal.uncommitted`."""
    number = tx.store_number(store)
    remote = tx.find_remote(number, remote_id)
    own: list[EntryRow] = []
    if relayed is not True:
        start = max(after, remote.watermark) if remote else after
        own = tx.pending_rows(number, remote.number if remote else 0, start, rows_max=entries_max, bytes_max=bytes_max)
    if remote is None or relayed is False or not held.relays(tx, remote):
        return [tx.stored(row) for row in own]
    start = max(after, remote.relay_watermark)
    others = tx.relayable_rows(remote, start, rows_max=entries_max, bytes_max=bytes_max)
    if own and others:
        # Each list may have been cut by the bounds; what lies behind the end of one is for the next call.
        own_goes_on = tx.pending_rows(number, remote.number, own[-1].position, rows_max=1, bytes_max=0)
        others_go_on = tx.relayable_rows(remote, others[-1].position, rows_max=1, bytes_max=0)
        ends = [rows[-1].position for rows, goes_on in ((own, own_goes_on), (others, others_go_on)) if goes_on]
        return [tx.stored(row) for row in _bounded(sorted(own + others), ends, entries_max, bytes_max)]
    return [tx.stored(row) for row in own or others]


def _bounded(rows: list[EntryRow], ends: list[int], entries_max: int, bytes_max: int) -> list[EntryRow]:
    rows = [row for row in rows if not ends or row.position <= min(ends)][:entries_max]
    total = accumulate(len(row.payload) for row in rows)
    return rows[: max(1, sum(size <= bytes_max for size in total))]


def acknowledge(
    tx: JournalTransaction,
    store: str,
    remote_id: bytes,
    acknowledgement: Acknowledgement,
    *,
    through: int | None,
    since: int | None = None,
) -> None:
    """Note what the remote holds durably; see :meth:`JournalTransaction.acknowledge`."""
    remote = _contacted(tx, tx.store_number(store), remote_id)
    remote = held.mark_acknowledged(tx, remote, acknowledgement.positions)
    cursor = remote.next_sequence
    if through is not None:
        cursor = _moved(remote, through, since)
    else:
        # An Ack equal to the cursor leaves no room for an unseen entry below it (DESIGN 6).
        for sequence in sorted(acknowledgement.sequences):
            if sequence == cursor:
                cursor += 1
    tx.put_remote(remote._replace(next_sequence=cursor))


def _moved(remote: RemoteRow, through: int, since: int | None) -> int:
    """Return where the cursor goes: never backwards, and not from where somebody set it back to."""
    was_set_back = since is not None and remote.next_sequence < since
    return remote.next_sequence if was_set_back else max(remote.next_sequence, through)


# -- the remote itself --------------------------------------------------------------------------------------
def _contacted(tx: JournalTransaction, store: int, remote_id: bytes) -> RemoteRow:
    remote = tx.find_remote(store, remote_id)
    if remote is None:
        return tx.put_remote(RemoteRow(0, store, remote_id, None, 0, b"", 0, is_retired=False))
    return remote._replace(is_retired=False)


def remote_state(tx: JournalTransaction, store: str, remote_id: bytes) -> RemoteState:
    """Report cursor, incarnation and the number of pending entries."""
    number = tx.store_number(store)
    remote = tx.find_remote(number, remote_id)
    if remote is None:
        return RemoteState(0, b"", tx.count_outbound(number, 0, 0))
    return _state(tx, remote)


def _state(tx: JournalTransaction, remote: RemoteRow) -> RemoteState:
    relayed = tx.count_relayable(remote, remote.relay_watermark) if held.relays(tx, remote) else 0
    own = tx.count_outbound(remote.store, remote.number, remote.watermark)
    return RemoteState(remote.next_sequence, remote.incarnation, own + relayed, relayed)


def reset_remote(tx: JournalTransaction, store: str, remote_id: bytes, *, incarnation: bytes) -> None:
    """Start over with a remote: cursor 0, everything pending again; see :meth:`EventJournal.reset_remote`."""
    known = tx.find_remote(tx.store_number(store), remote_id)
    remote = _contacted(tx, tx.store_number(store), remote_id)
    quarantine.forget_not_kept(tx, remote)
    tx.forget_noted(remote.number, None)
    tx.forget_noted(remote.number, None, received=True)
    # What a remote sent that is met for the first time cannot be lost.
    lost_up_to = 0 if known is None else tx.next_position() - 1
    remote = remote._replace(next_sequence=0, incarnation=incarnation, watermark=0, relay_watermark=0)
    tx.put_remote(remote._replace(lost_up_to=lost_up_to))


def remember_remote(
    tx: JournalTransaction, store: str, remote_id: bytes, *, url: str | None, relay: RelayMode | None
) -> None:
    """Note a remote's address and retire what was there before."""
    number = tx.store_number(store)
    remote = _contacted(tx, number, remote_id)
    if relay is not None:
        remote = remote._replace(relay=relay)
    if held.relays(tx, remote):
        remote = held.pass_over_held(tx, remote)
    tx.put_remote(remote._replace(url=url if url is not None else remote.url))
    for other in tx.list_remotes(number) if url is not None else ():
        if other.url == url and other.remote_id != remote_id and not other.is_retired:
            tx.put_remote(other._replace(is_retired=True))


def retire_remote(tx: JournalTransaction, store: str, remote_id: bytes) -> bool:
    """Let compaction disregard a remote."""
    remote = tx.find_remote(tx.store_number(store), remote_id)
    if remote is not None:
        tx.put_remote(remote._replace(is_retired=True))
    return remote is not None


def remotes(tx: JournalTransaction, store: str) -> list[Remote]:
    """List a store's remotes."""
    number = tx.store_number(store)
    return [
        Remote(remote.remote_id, remote.url, remote.is_retired, _state(tx, remote), held.relays(tx, remote))
        for remote in tx.list_remotes(number)
    ]


# -- quarantine ---------------------------------------------------------------------------------------------
def quarantine_unreadable(
    tx: JournalTransaction, store: str, remote_id: bytes, entries: Sequence[UnreadableEntry], *, key_check: bytes
) -> QuarantineResult:
    """Keep aside what could not even be read as an entry; see :meth:`JournalTransaction.quarantine`."""
    remote = tx.put_remote(_contacted(tx, tx.store_number(store), remote_id))
    return quarantine.keep_unreadable(tx, remote, entries, key_check=key_check)


def return_to_not_kept(tx: JournalTransaction, store: str, remote_id: bytes, *, key_check: bytes) -> bool:
    """Go back to what was not kept aside; see :meth:`JournalTransaction.return_to_not_kept`."""
    remote = tx.find_remote(tx.store_number(store), remote_id)
    if remote is None:
        return False
    back = quarantine.return_to_not_kept(tx, remote, key_check)
    if back is remote:
        return False
    tx.put_remote(back)
    return True
