"""
Compaction in bounded steps: select a chunk, newest first, then drop what may be dropped of it.

Selecting only reads; a step that drops is one short transaction, so appends never wait for long. A keyed entry
goes in one of two ways: a superseded version alone, or a key whole, by the decision on its newest head; so no
visible value changes except by a key's disappearance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from agentlayers.errors import StorageError
from agentlayers.journal.causality import NO_STATE
from agentlayers.journal.compaction import Candidate, Selector
from agentlayers.journal.consumer import awaited
from agentlayers.journal.entry import Entry
from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.journal.event_journal import Observation, StoreSchema
from agentlayers.journal.held_entries import lacking
from agentlayers.journal.primitives import EntryRow
from agentlayers.journal.projection import emit
from agentlayers.journal.replication import HORIZON_FLOOR
from agentlayers.limits import COMPACTION_STEP_ROWS_MAX, HORIZON_WINDOW_SECONDS, JOURNAL_PAGE_BYTES_MAX
from agentlayers.logs import get_logger

if TYPE_CHECKING:
    from agentlayers.journal.transaction import JournalTransaction

__all__ = ["Dropped", "Selection", "drop", "forget_horizon", "pending", "report_compaction"]

logger = get_logger(__name__)

_DAY_MILLIS: Final = 86_400_000
_HORIZON_DAYS: Final = int(HORIZON_WINDOW_SECONDS * 1000) // _DAY_MILLIS


class Dropped(NamedTuple):
    """What one step dropped."""

    entries: int
    events: frozenset[str]
    held_back: int


class Selection:
    """
    One pass over a store, newest first, a chunk at a time.

    Attributes:
        is_done: The pass has reached the oldest entry.
    """

    def __init__(self, schema: StoreSchema, selector: Callable[[], Selector]) -> None:
        self.is_done = False
        self._schema, self._selector = schema, selector
        self._scopes: dict[str, Selector] = {}
        self._below = b""

    def advance(self, tx: JournalTransaction) -> list[int]:
        """Look at the next chunk and return the positions of what the strategy does not keep."""
        number = tx.store_number(self._schema.name)
        rows = tx.rows_by_age(number, self._below, COMPACTION_STEP_ROWS_MAX, bytes_max=JOURNAL_PAGE_BYTES_MAX)
        self.is_done = not rows
        if rows:
            self._below = rows[-1].id
        now_ms = tx.now_ms()
        return [row.position for row in rows if not self._keeps(tx, row, now_ms)]

    def _keeps(self, tx: JournalTransaction, row: EntryRow, now_ms: int) -> bool:
        entry = Entry(row.id, row.event, row.primary_key, row.payload)
        scope = self._schema.scope_of(entry)
        keep = self._scopes.get(scope)
        if keep is None:
            keep = self._scopes[scope] = self._selector()
        size = len(row.payload) + len(row.event.encode()) + len(row.primary_key.encode()) + len(row.id)
        if self._schema.bytes_elsewhere is not None:
            size += self._schema.bytes_elsewhere(entry)
        return keep(
            Candidate(
                row.id,
                row.event,
                row.primary_key,
                (now_ms - entry_id_millis(row.id)) / 1000,
                size,
                not row.keyed or _is_head(tx, row),
                row.event in self._schema.deletions,
            )
        )


def _is_head(tx: JournalTransaction, row: EntryRow) -> bool:
    state = tx.key_state(row.store, row.primary_key) or NO_STATE
    return any(head.id == row.id for head in state.heads)


def drop(tx: JournalTransaction, schema: StoreSchema, positions: Sequence[int]) -> Dropped:
    """
    Drop selected entries as far as it is allowed now, with their part of the read model.

    What a current remote lacks or a consumer has yet to handle stays, and so does every version of a key with such a
    one.
    """
    number = tx.store_number(schema.name)
    rows = tx.rows_at(positions)
    doomed: dict[int, EntryRow] = {}
    pending = _pending(tx, number, rows)
    held_back = 0
    for row in rows:
        if row.keyed and _is_head(tx, row):
            versions = _whole_key(tx, row)
            if _pending(tx, number, versions):
                held_back += 1
            elif versions and _retract_key(tx, schema, row):
                doomed.update((version.position, version) for version in versions)
        elif row.position in pending:
            held_back += 1
        elif row.keyed or (not _is_needed(tx, schema, row) and _retract(tx, schema, [row])):
            doomed[row.position] = row
    _delete(tx, number, list(doomed.values()))
    return Dropped(len(doomed), frozenset(row.event for row in doomed.values()), held_back)


def pending(tx: JournalTransaction, store: str, positions: Sequence[int]) -> set[int]:
    """Return which of these positions may not be dropped yet, because a current remote or a consumer lacks them."""
    return _pending(tx, tx.store_number(store), tx.rows_at(positions))


def _is_needed(tx: JournalTransaction, schema: StoreSchema, row: EntryRow) -> bool:
    entry = Entry(row.id, row.event, row.primary_key, row.payload)
    return schema.is_needed is not None and schema.is_needed(tx, entry)


def _pending(tx: JournalTransaction, store: int, rows: Sequence[EntryRow]) -> set[int]:
    """Return which of these positions a current remote lacks, or a consumer has yet to handle."""
    return awaited(tx, tx.store_name(store), rows) | lacking(tx, store, rows)


def _whole_key(tx: JournalTransaction, head: EntryRow) -> list[EntryRow]:
    """Return all versions of a key if this is its newest head, whose turn decides for the key."""
    state = tx.key_state(head.store, head.primary_key) or NO_STATE
    if state.heads[-1].id != head.id:
        return []
    return tx.version_rows(head.store, head.primary_key)


def _retract_key(tx: JournalTransaction, schema: StoreSchema, head: EntryRow) -> bool:
    state = tx.key_state(head.store, head.primary_key) or NO_STATE
    heads = [tx.expect_row(head.store, item.id) for item in state.heads]
    if not _retract(tx, schema, heads):
        return False
    # What the key's versions had seen stays known, so a late superseded one does not become a head.
    tx.put_key_state(head.store, head.primary_key, state._replace(heads=()))
    return True


def _retract(tx: JournalTransaction, schema: StoreSchema, rows: Sequence[EntryRow]) -> bool:
    if schema.retract is None:
        return True
    savepoint = tx.open_savepoint()
    try:
        for row in rows:
            schema.retract(tx, Entry(row.id, row.event, row.primary_key, row.payload))
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001  # an entry that cannot be retracted is kept instead
        tx.rollback_savepoint(savepoint)
        logger.warning("retract_failed", store=schema.name, error=type(error).__name__)
        return False
    tx.release_savepoint(savepoint)
    return True


def _delete(tx: JournalTransaction, store: int, rows: Sequence[EntryRow]) -> None:
    if not rows:
        return
    tx.remember_compacted(store, [row.id for row in rows], tx.now_ms() // _DAY_MILLIS)
    for row in rows:
        if not row.applied:
            tx.drop_unapplied(row.position)
    tx.delete_rows(rows)


def forget_horizon(tx: JournalTransaction, store: str) -> bool:
    """
    Forget compacted ids past the window, one step; :obj:`True` while there may be more.

    What is as old as a forgotten id can no longer be told from it: it is quarantined when it arrives.
    """
    number = tx.store_number(store)
    before_day = tx.now_ms() // _DAY_MILLIS - _HORIZON_DAYS
    forgotten = tx.forget_compacted(number, before_day, COMPACTION_STEP_ROWS_MAX)
    if forgotten:
        name = f"{HORIZON_FLOOR}{number}"
        highest = max(entry_id_millis(entry_id) for entry_id in forgotten)
        known = tx.get_setting(name)
        if known is None or int.from_bytes(known) < highest:
            tx.put_setting(name, highest.to_bytes(8))
    return len(forgotten) == COMPACTION_STEP_ROWS_MAX


def report_compaction(tx: JournalTransaction, store: str, before: int, events: Sequence[str]) -> None:
    """Emit ``sync_compaction`` for a run that dropped something here (no remote: an empty id)."""
    fields: dict[str, object] = {
        "remoteId": "",
        "before": before,
        "after": tx.count_rows(tx.store_number(store)),
        "timestamp": tx.now_ms(),
    }
    if events:
        fields["events"] = list(events)
    emit(tx, Observation("sync_compaction", store, fields))
