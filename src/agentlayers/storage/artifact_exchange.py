"""
Ask other replicas for pieces of content that were dropped here, and give them what they ask for.

Equal content is stored once, so a replica may put an artifact whose pieces another one has dropped by then: it
deleted the artifact they came with, or its retention did. Whoever dropped a piece that an artifact needs again asks
for it, and a replica that has it writes it anew. The one that wrote the artifact does so at once; the others only
if nobody has by the time of their next cleanup.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from agentlayers.errors import AgentLayersError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.event_journal import Commit
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import prefix_end
from agentlayers.logs import get_logger
from agentlayers.storage.artifact import STORE
from agentlayers.storage.artifact_chunk import (
    ARTIFACT_CHUNK,
    ARTIFACT_CHUNK_WANTED,
    CONTENT_STORE,
    DIGEST_BYTES,
    chunk_key,
    chunk_payload,
    digest_of_key,
)
from agentlayers.storage.artifact_chunk_index import (
    asked_prefix,
    chunk_data,
    chunk_entries,
    is_held,
    referrers,
    wanted_prefix,
)

__all__ = ["ChunkExchange", "note_wanted"]

logger = get_logger(__name__)

_STEP: Final = 4


def note_wanted(tx: JournalTransaction, primary_key: str, entry_id: bytes) -> None:
    """Remember that somebody wants a piece, unless it was written anew since."""
    digest = digest_of_key(primary_key)
    if digest and any(held < entry_id for held in chunk_entries(tx, digest)):
        key = wanted_prefix() + digest
        tx.put(key, max(tx.get(key) or b"", entry_id))


class ChunkExchange:
    """
    Asks and gives for one open artifact store.

    Args:
        log: Of the store, or of its pieces.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._is_noticed = False
        self._task: asyncio.Task[None] | None = None
        self._stop_listening = log.journal.on_commit(self._committed)

    def notice(self) -> None:
        """Look after the next commit; called by projections, in whatever thread these run."""
        self._is_noticed = True

    def _committed(self, commit: Commit) -> None:
        if self._is_noticed and self._task is None and not commit.stores.isdisjoint((STORE, CONTENT_STORE)):
            self._task = asyncio.create_task(self._react(), name="artifact-exchange")

    async def _react(self) -> None:
        try:
            while self._is_noticed:
                self._is_noticed = False
                await self.run(for_others=False)
        except AgentLayersError as error:
            # What is to be asked for or given is kept with the journal, so the next cleanup tries again.
            logger.warning("artifact_exchange_failed", reason=str(error))
        finally:
            self._task = None

    async def run(self, *, for_others: bool) -> None:
        """
        Ask for what is missing here, and give what was asked for.

        Args:
            for_others: Also give pieces of artifacts that other replicas wrote.
        """
        # Not a read: the transaction of what was noticed may not be committed yet, and this one comes after it.
        if not await self._log.transact(_has_work):
            return
        await self._log.transact(_ask)
        after = await self._log.transact(partial(_give, after=b"", for_others=for_others))
        while after:
            after = await self._log.transact(partial(_give, after=after, for_others=for_others))

    async def stop(self) -> None:
        """Finish what is going on, and react to nothing any more."""
        self._stop_listening()
        if self._task is not None:
            await asyncio.wait([self._task])


def _has_work(tx: JournalTransaction) -> bool:
    """Tell whether there is anything to ask for or to give."""
    return any(
        next(iter(tx.scan(prefix, prefix_end(prefix), limit=1)), None) is not None
        for prefix in (asked_prefix(), wanted_prefix())
    )


def _ask(tx: JournalTransaction) -> None:
    """Ask for all pieces that artifacts here need and that were dropped here."""
    prefix = asked_prefix()
    for key, _value in list(tx.scan(prefix, prefix_end(prefix))):
        tx.delete(key)
        digest = key[-DIGEST_BYTES:]
        if not is_held(tx, digest) and referrers(tx, digest):
            tx.write(CONTENT_STORE, ARTIFACT_CHUNK_WANTED, chunk_key(digest), {"sha256": digest.hex()})


def _give(tx: JournalTransaction, after: bytes, *, for_others: bool) -> bytes:
    """
    Write the next few wanted pieces anew.

    Args:
        tx: Writes.
        after: Begin behind this piece.
        for_others: Also those of artifacts that other replicas wrote.

    Returns:
        The last piece looked at; empty if there are no more.
    """
    prefix, digest = wanted_prefix(), b""
    start = prefix + after + b"\x00" if after else prefix
    for key, wanted_id in list(tx.scan(start, prefix_end(prefix), limit=_STEP)):
        digest = key[-DIGEST_BYTES:]
        if any(held > wanted_id for held in chunk_entries(tx, digest)) or not is_held(tx, digest):
            tx.delete(key)
        elif for_others or _is_ours(tx, digest):
            tx.delete(key)
            data = chunk_data(tx, digest)
            if data is not None:
                tx.write(CONTENT_STORE, ARTIFACT_CHUNK, chunk_key(digest), chunk_payload(digest, data))
    return digest


def _is_ours(tx: JournalTransaction, digest: bytes) -> bool:
    return any(head.replica == tx.registry.replica_id for key in referrers(tx, digest) for head in tx.heads(STORE, key))
