"""Retention as compaction strategies, and dropping entries by id."""

from __future__ import annotations

from collections.abc import Sequence

from agentlayers.journal import retention
from agentlayers.journal.compaction import ByAge, ByCount, CompactionStrategy
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.transaction import JournalTransaction

__all__ = ["drop_entries", "is_held_back", "kept_by", "report_dropped"]


def kept_by(max_age_seconds: float | None, max_count: int | None) -> list[CompactionStrategy]:
    """Return strategies that keep the newest entries of each scope; :obj:`None` sets no bound."""
    strategies: list[CompactionStrategy] = []
    if max_age_seconds is not None:
        strategies.append(ByAge(max_age_seconds))
    if max_count is not None:
        strategies.append(ByCount(max_count))
    return strategies


def drop_entries(tx: JournalTransaction, schema: StoreSchema, entry_ids: Sequence[bytes]) -> int:
    """
    Drop entries by id, as compaction does: remembered, so that they do not come back.

    What a current remote has not acknowledged stays. Of a keyed thing, naming its heads drops all versions.
    Nothing is reported; see :func:`report_dropped`.

    Returns:
        How many entries were dropped.
    """
    held = tx.held(tx.store_number(schema.name), entry_ids)
    return retention.drop(tx, schema, sorted(entry.position for entry in held.values())).entries


def is_held_back(tx: JournalTransaction, store: str, entry_ids: Sequence[bytes]) -> bool:
    """Tell whether any of these entries may not be dropped yet: a current remote lacks it, or a reaction is to come."""
    held = tx.held(tx.store_number(store), entry_ids)
    return bool(retention.pending(tx, store, sorted(entry.position for entry in held.values())))


def report_dropped(tx: JournalTransaction, store: str, dropped: int, events: Sequence[str]) -> None:
    """Let the journal's observers know of entries that were dropped in this transaction or before it."""
    if dropped:
        before = tx.count_rows(tx.store_number(store)) + dropped
        retention.report_compaction(tx, store, before, sorted(events))
