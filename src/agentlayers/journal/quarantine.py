"""
What a journal keeps aside: entries from remotes that it cannot use, within a bound for each store.

A remote is not trusted, nor is whoever knows a public key: junk from either must not fill the disk. Beyond the bound
an entry is only counted, and the journal notes from which sequence on the remote has to be read again once the store
has another key. What is held, or was compacted, is never kept aside: nothing of it is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from agentlayers import limits
from agentlayers.journal.event_journal import QuarantinedEntry
from agentlayers.journal.primitives import QuarantinedRow, RemoteRow
from agentlayers.logs import get_logger

if TYPE_CHECKING:
    from agentlayers.journal.transaction import JournalTransaction

__all__ = [
    "QuarantineResult",
    "UnreadableEntry",
    "count_not_kept",
    "forget_not_kept",
    "keep_aside",
    "keep_imported",
    "keep_unreadable",
    "quarantined",
    "release",
    "return_to_not_kept",
]

logger = get_logger(__name__)

_COUNT_ROWS: Final = 16
"""Rows of an older file looked at together: each may be as large as a message."""

_NO_KEY: Final = b""
"""Stands where no other key would help: the entry could be read."""

_SEVERAL_KEYS: Final = b"*"
"""Stands where two processes with different keys have met the same remote: it is read again with either."""


class UnreadableEntry(NamedTuple):
    """
    Something from a remote that could not even be read as an entry.

    Attributes:
        id: The id it was announced with.
        sequence: Its sequence at the remote.
        data: The bytes that could not be read.
        reason: Why not.
    """

    id: bytes
    sequence: int
    data: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class QuarantineResult:
    """
    What became of entries that cannot be used; those known already, as held or as kept aside, are in neither.

    Attributes:
        kept: Ids of those kept aside now.
        not_kept: Ids of those there was no room for. They are counted each time they come.
    """

    kept: tuple[bytes, ...] = ()
    not_kept: tuple[bytes, ...] = ()


class _Usage(NamedTuple):
    """What the quarantine of a store takes."""

    entries: int
    size: int


class _NotKept(NamedTuple):
    """
    What was not kept of one remote's.

    Attributes:
        entries: How many.
        first_sequence: The lowest sequence of them.
        key_check: Tells the key that some of them could not be opened with.
    """

    entries: int
    first_sequence: int
    key_check: bytes


# -- keeping aside ------------------------------------------------------------------------------------------
def keep_unreadable(
    tx: JournalTransaction, remote: RemoteRow, entries: Sequence[UnreadableEntry], *, key_check: bytes
) -> QuarantineResult:
    """Keep aside what could not even be read as an entry; see :meth:`JournalTransaction.quarantine`."""
    ids = [entry.id for entry in entries]
    known = {*tx.held(remote.store, ids), *tx.compacted(remote.store, ids)}
    rows = [
        QuarantinedRow(remote.store, entry.id, remote.number, entry.sequence, "", "", entry.data, entry.reason)
        for entry in entries
        if entry.id not in known
    ]
    return keep_aside(tx, remote, rows, key_check=key_check)


def keep_aside(
    tx: JournalTransaction, remote: RemoteRow, rows: Sequence[QuarantinedRow], *, key_check: bytes = _NO_KEY
) -> QuarantineResult:
    """
    Keep entries of a remote aside, as long as there is room.

    Args:
        tx: A transaction that writes.
        remote: Where they came from.
        rows: None of them held or compacted.
        key_check: Tells the key they could not be opened with; empty where it is not for the key.
    """
    if not rows:
        return QuarantineResult()
    known = tx.quarantined_ids(remote.store, [row.id for row in rows])
    usage = before = _usage(tx, remote.store)
    kept: list[bytes] = []
    not_kept: list[QuarantinedRow] = []
    for row in rows:
        if row.id in known:
            continue
        known.add(row.id)
        more = _Usage(usage.entries + 1, usage.size + _size(row))
        if more.entries > limits.QUARANTINE_ENTRIES_MAX or more.size > limits.QUARANTINE_BYTES_MAX:
            not_kept.append(row)
        else:
            tx.put_quarantined(row)
            kept.append(row.id)
            usage = more
    if usage != before:
        _put_usage(tx, remote.store, usage)
    if not_kept:
        _note_not_kept(tx, remote, not_kept, key_check)
    return QuarantineResult(tuple(kept), tuple(row.id for row in not_kept))


def keep_imported(tx: JournalTransaction, row: QuarantinedRow) -> bool:
    """Keep an entry of an import aside, room or not: nobody would send it again. :obj:`False` if it was already."""
    usage = _usage(tx, row.store)
    if not tx.put_quarantined(row):
        return False
    _put_usage(tx, row.store, _Usage(usage.entries + 1, usage.size + _size(row)))
    return True


def release(tx: JournalTransaction, store: int, ids: Iterable[bytes]) -> None:
    """Forget that these were kept aside."""
    usage = before = _usage(tx, store)
    if not usage.entries:
        return
    for entry_id in tx.quarantined_ids(store, list(ids)):
        row = tx.drop_quarantined(store, entry_id)
        if row is not None:
            usage = _Usage(max(0, usage.entries - 1), max(0, usage.size - _size(row)))
    if usage != before:
        _put_usage(tx, store, usage)


def quarantined(
    tx: JournalTransaction, store: str, *, after: bytes = b"", entries_max: int | None = None
) -> list[QuarantinedEntry]:
    """List what was kept aside of a store, or a part of it."""
    number = tx.store_number(store)
    ids = {remote.number: remote.remote_id for remote in tx.list_remotes(number)}
    return [
        QuarantinedEntry(
            row.id,
            ids.get(row.remote, b""),
            row.sequence,
            row.event,
            row.primary_key,
            row.data,
            row.reason,
        )
        for row in tx.quarantined_rows(number, after, entries_max)
    ]


# -- how much it takes --------------------------------------------------------------------------------------
def _usage(tx: JournalTransaction, store: int) -> _Usage:
    value = tx.get_setting(f"quarantine:{store}")
    if value is not None:
        return _Usage(int.from_bytes(value[:8]), int.from_bytes(value[8:16]))
    usage = _counted(tx, store)
    _put_usage(tx, store, usage)
    return usage


def _counted(tx: JournalTransaction, store: int) -> _Usage:
    """Count what an older release left, once."""
    entries = size = 0
    after = b""
    while rows := tx.quarantined_rows(store, after, _COUNT_ROWS):
        entries, size, after = entries + len(rows), size + sum(map(_size, rows)), rows[-1].id
    return _Usage(entries, size)


def _put_usage(tx: JournalTransaction, store: int, usage: _Usage) -> None:
    tx.put_setting(f"quarantine:{store}", usage.entries.to_bytes(8) + usage.size.to_bytes(8))


def _size(row: QuarantinedRow) -> int:
    texts = (row.event, row.primary_key, row.reason)
    return len(row.data) + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


# -- what was not kept --------------------------------------------------------------------------------------
def count_not_kept(tx: JournalTransaction, store: str) -> int:
    """Count what a store's remotes sent and there was no room for; what came twice counts twice."""
    found = (_not_kept(tx, remote) for remote in tx.list_remotes(tx.store_number(store)))
    return sum(one.entries for one in found if one is not None)


def return_to_not_kept(tx: JournalTransaction, remote: RemoteRow, key_check: bytes) -> RemoteRow:
    """
    Go back to the first entry of a remote that was not kept, if it was for another key; returns the row, not written.

    What the remote has of ours stays known; what it sends again and is held here is a duplicate.
    """
    found = _not_kept(tx, remote)
    if found is None or found.key_check in (_NO_KEY, key_check):
        return remote
    forget_not_kept(tx, remote)
    cursor = min(remote.next_sequence, found.first_sequence)
    logger.info("quarantine_read_again", store=tx.store_name(remote.store), not_kept=found.entries, cursor=cursor)
    return remote._replace(next_sequence=cursor)


def forget_not_kept(tx: JournalTransaction, remote: RemoteRow) -> None:
    """Count anew: the remote is read again from before the first entry that was not kept."""
    if _not_kept(tx, remote) is not None:
        tx.put_setting(_not_kept_name(remote), b"")


def _note_not_kept(tx: JournalTransaction, remote: RemoteRow, rows: Sequence[QuarantinedRow], key_check: bytes) -> None:
    first, before = min(row.sequence for row in rows), _not_kept(tx, remote) or _NotKept(0, 0, _NO_KEY)
    entries = before.entries + len(rows)
    if before.entries:
        first = min(first, before.first_sequence)
    if _NO_KEY not in (before.key_check, key_check) and before.key_check != key_check:
        key_check = _SEVERAL_KEYS
    value = entries.to_bytes(8) + max(0, first).to_bytes(8) + (key_check or before.key_check)
    tx.put_setting(_not_kept_name(remote), value)
    if entries.bit_length() > before.entries.bit_length():
        # Told each time their number has doubled: a flood of them must not flood the log.
        logger.warning(
            "quarantine_full",
            store=tx.store_name(remote.store),
            remote=remote.remote_id.hex(),
            not_kept=entries,
            reason=rows[-1].reason,
        )


def _not_kept(tx: JournalTransaction, remote: RemoteRow) -> _NotKept | None:
    value = tx.get_setting(_not_kept_name(remote))
    return _NotKept(int.from_bytes(value[:8]), int.from_bytes(value[8:16]), value[16:]) if value else None


def _not_kept_name(remote: RemoteRow) -> str:
    return f"quarantine_full:{remote.number}"
