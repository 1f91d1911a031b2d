"""Fetch pieces of large content that are not here, where content is synced on demand."""

from __future__ import annotations

from functools import partial

from agentlayers.errors import AgentLayersError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifact_chunk import CONTENT_STORE, ContentChunks
from agentlayers.storage.artifact_chunk_index import is_held
from agentlayers.storage.artifact_content import content_missing
from agentlayers.sync.service import SyncService

__all__ = ["fetch_content"]


async def fetch_content(log: EventLog, record: ArtifactRecord, sync: SyncService | None) -> None:
    """
    Fetch what is missing of an artifact's content from a server.

    Args:
        log: Of the artifact store.
        record: The artifact; what is here of it is not fetched again.
        sync: Where to fetch from.

    Raises:
        StorageUnavailableError: There is no server, it does not answer, or it has not got all of it yet.
    """
    missing = [] if record.chunks is None else await log.read(partial(_missing, chunks=record.chunks))
    if not missing:
        return
    if sync is None or not all(missing):
        raise content_missing(record.id, "not all of its content has arrived here yet; sync, then try again")
    try:
        nowhere = await sync.fetch(CONTENT_STORE, missing)
    except AgentLayersError as error:
        raise content_missing(
            record.id, f"not all of its content is here, and it cannot be fetched: {error}"
        ) from error
    if nowhere:
        reason = f"{len(nowhere)} pieces of its content have not arrived at a server yet; try again later"
        raise content_missing(record.id, reason)


def _missing(tx: JournalTransaction, chunks: ContentChunks) -> list[bytes]:
    """Return the entries that hold the pieces which are not here; an empty id where the record names none."""
    ids = chunks.entry_ids or (b"",) * len(chunks.digests)
    return [entry_id for digest, entry_id in zip(chunks.digests, ids, strict=True) if not is_held(tx, digest)]
