"""
Which of our entries a remote holds: watermarks, and notes beyond them.

Own entries are *outbound*. Entries that other remotes sent are *relayable* to this one. Of each kind a remote holds
all up to a watermark, and those beyond it that are noted: it sent them itself, or sent them again, or acknowledged
them. An acknowledgement of the next expected ones only moves the watermark; one out of turn leaves a note.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from agentlayers.journal.event_journal import RelayMode
from agentlayers.journal.primitives import EntryRow, RemoteRow

if TYPE_CHECKING:
    from agentlayers.journal.transaction import JournalTransaction

__all__ = [
    "is_relayable",
    "lacking",
    "mark_acknowledged",
    "mark_own",
    "mark_received",
    "pass_over_held",
    "relays",
]

_WALK_ROWS: Final = 512


def relays(tx: JournalTransaction, remote: RemoteRow) -> bool:
    """Tell whether a remote is sent what came from other remotes."""
    if remote.relay == RelayMode.WHEN_SEVERAL:
        return remote.lost_up_to > 0 or len(tx.list_remotes(remote.store)) > 1
    return remote.relay == RelayMode.ALWAYS


def is_relayable(remote: RemoteRow, origin: int, position: int) -> bool:
    """
    Tell whether an entry of this origin may be lacking at a remote; never one that it sent itself, unless it lost it.

    An event that is not synced when it is written here is one that is, once somebody has sent it.
    """
    return origin != 0 and (origin != remote.number or position <= remote.lost_up_to)


def mark_acknowledged(tx: JournalTransaction, remote: RemoteRow, positions: Sequence[int]) -> RemoteRow:
    """Take note that the remote holds these positions, of whichever kind they are; returns the row, not yet written."""
    given = sorted(set(positions))
    if not given:
        return remote
    if given[0] > remote.watermark and given == tx.outbound_positions(remote.store, remote.watermark, len(given)):
        # The common case: own entries, in order.
        return _absorb_own(tx, remote._replace(watermark=given[-1]))
    received = set() if remote.relay == RelayMode.NEVER else _received(tx, remote, given)
    remote = mark_received(tx, remote, received)
    return mark_own(tx, remote, [position for position in given if position not in received])


def _received(tx: JournalTransaction, remote: RemoteRow, positions: list[int]) -> set[int]:
    """Return those of some positions that can have been relayed."""
    given = set(positions)
    received = given.intersection(tx.relayable_positions(remote, positions[0] - 1, len(positions)))
    unknown = given.difference(received, tx.outbound_positions(remote.store, positions[0] - 1, len(positions)))
    rows = tx.rows_at(sorted(unknown)) if unknown else []
    return received | {row.position for row in rows if row.store == remote.store and _is_row_relayable(remote, row)}


def _is_row_relayable(remote: RemoteRow, row: EntryRow) -> bool:
    return not row.outbound and is_relayable(remote, row.origin, row.position)


# -- own entries --------------------------------------------------------------------------------------------
def mark_own(tx: JournalTransaction, remote: RemoteRow, positions: Collection[int]) -> RemoteRow:
    """Move the watermark over own entries the remote has; note those beyond the first gap."""
    fresh = sorted({position for position in positions if position > remote.watermark})
    if not fresh:
        return remote
    expected = tx.outbound_positions(remote.store, remote.watermark, len(fresh))
    if expected == fresh:
        return _absorb_own(tx, remote._replace(watermark=fresh[-1]))
    real = {row.position for row in tx.rows_at(fresh) if row.store == remote.store and row.outbound}
    tx.note(remote.number, [position for position in fresh if position in real])
    return _absorb_own(tx, remote)


def _absorb_own(tx: JournalTransaction, remote: RemoteRow) -> RemoteRow:
    watermark, rows_max = remote.watermark, 1
    while positions := tx.outbound_positions(remote.store, watermark, rows_max):
        noted = tx.noted(remote.number, positions)
        reached = next((at for at, position in enumerate(positions) if position not in noted), len(positions))
        if reached:
            watermark = positions[reached - 1]
        if reached < len(positions):
            break
        rows_max = _WALK_ROWS
    tx.forget_noted(remote.number, watermark)
    return remote._replace(watermark=watermark)


# -- entries from other remotes -----------------------------------------------------------------------------
def mark_received(tx: JournalTransaction, remote: RemoteRow, positions: Collection[int]) -> RemoteRow:
    """Move the relay watermark over relayable entries the remote has; note those beyond the first gap."""
    fresh = sorted({position for position in positions if position > remote.relay_watermark})
    if not fresh:
        return remote
    if tx.relayable_positions(remote, remote.relay_watermark, len(fresh)) == fresh:
        return pass_over_held(tx, remote._replace(relay_watermark=fresh[-1]))
    tx.note(remote.number, fresh, received=True)
    return pass_over_held(tx, remote)


def pass_over_held(tx: JournalTransaction, remote: RemoteRow) -> RemoteRow:
    """
    Move the relay watermark to just before the first entry the remote lacks.

    Not to the last that it has: in between may be any number that it sent itself, to be passed over only once.
    """
    watermark, rows_max = remote.relay_watermark, 1
    while positions := tx.relayable_positions(remote, watermark, rows_max):
        noted = tx.noted(remote.number, positions, received=True)
        missing = next((position for position in positions if position not in noted), None)
        if missing is not None:
            watermark = missing - 1
            break
        watermark, rows_max = positions[-1], _WALK_ROWS
    else:
        watermark = tx.next_position() - 1
    tx.forget_noted(remote.number, watermark, received=True)
    return remote._replace(
        relay_watermark=watermark, lost_up_to=remote.lost_up_to if remote.lost_up_to > watermark else 0
    )


# -- compaction ---------------------------------------------------------------------------------------------
def lacking(tx: JournalTransaction, store: int, rows: Sequence[EntryRow]) -> set[int]:
    """Return the positions of those rows of a store that a current remote is yet to be sent."""
    found: set[int] = set()
    remotes = tx.list_remotes(store)
    if _expects_another(tx, store, remotes):
        found.update(row.position for row in rows if row.outbound)
    for remote in remotes:
        if remote.is_retired:
            continue
        own = [row.position for row in rows if row.outbound and row.position > remote.watermark]
        found.update(set(own) - tx.noted(remote.number, own) if own else ())
        if relays(tx, remote):
            beyond = [row for row in rows if row.position > remote.relay_watermark]
            received = [row.position for row in beyond if _is_row_relayable(remote, row)]
            found.update(set(received) - tx.noted(remote.number, received, received=True) if received else ())
    return found


def _expects_another(tx: JournalTransaction, store: int, remotes: Sequence[RemoteRow]) -> bool:
    """Tell whether a store is to be synced with a remote that was never met, and so lacks all that was written here."""
    name, met = tx.store_name(store), {remote.url for remote in remotes}
    return any(expected == name and url not in met for expected, url in tx.registry.expected_remotes)
