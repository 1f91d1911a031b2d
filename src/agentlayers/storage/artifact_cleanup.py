"""Drop pieces of large content that nothing consists of any more, and report what a cleanup did."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.compaction import CompactionReport
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.storage.artifact import ARTIFACT_RECORD, STORE
from agentlayers.storage.artifact_chunk import ARTIFACT_CHUNK
from agentlayers.storage.artifact_chunk_index import chunk_entries, due_chunks
from agentlayers.storage.retention import drop_entries, report_dropped

__all__ = ["drop_due_chunks", "report_cleanup"]

_DROP_STEP: Final = 4
"""Pieces of content dropped in one transaction, so that appends never wait long and memory stays small."""


async def drop_due_chunks(log: EventLog, schemas: Sequence[StoreSchema]) -> int:
    """
    Drop the pieces that need not be kept any more, a few at a time.

    Args:
        log: Reads and writes.
        schemas: Of the stores that pieces are in.

    Returns:
        How many entries were dropped.
    """
    dropped, after = 0, b""
    while due := await log.read(partial(due_chunks, after=after, limit=_DROP_STEP)):
        after = due[-1]

        def work(tx: JournalTransaction, due: list[bytes] = due) -> int:
            ids = [entry_id for digest in due for entry_id in chunk_entries(tx, digest)]
            return sum(drop_entries(tx, schema, ids) for schema in schemas)

        dropped += await log.transact(work)
    return dropped


def report_cleanup(
    tx: JournalTransaction, artifacts: int, pieces: int, others: CompactionReport | None
) -> CompactionReport:
    """Tell observers of what retention dropped, and join it with what other strategies did."""
    dropped = {ARTIFACT_RECORD: artifacts, ARTIFACT_CHUNK: pieces}
    events = tuple(event for event, count in dropped.items() if count)
    report_dropped(tx, STORE, artifacts + pieces, events)
    after = tx.count_rows(tx.store_number(STORE))
    total = artifacts + pieces + (0 if others is None else others.dropped)
    held_back = 0 if others is None else others.held_back
    return CompactionReport(after + total, after, total, events, held_back, tx.now_ms())
