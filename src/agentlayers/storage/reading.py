"""
Read many entries of a store by id in few steps.

Each step of SQLite in a thread waits for the interpreter while the event loop computes, so a page that is
read entry by entry takes long exactly when the application is busy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.transaction import JournalTransaction

__all__ = ["stored_entries"]

_STEP: Final = 512


def stored_entries(tx: JournalTransaction, store: str, entry_ids: Sequence[bytes]) -> Iterator[StoredEntry]:
    """Yield the entries with these ids in the order given; ids the store does not hold are passed over."""
    number = tx.store_number(store)
    for start in range(0, len(entry_ids), _STEP):
        step = entry_ids[start : start + _STEP]
        positions = [held.position for held in tx.held(number, step).values()]
        rows = {row.id: row for row in tx.rows_at(positions)}
        yield from (tx.stored(rows[entry_id]) for entry_id in step if entry_id in rows)
