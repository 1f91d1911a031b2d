"""Replicas with all stores, and the way of entries between them, without a network."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.compaction import CompactionStrategy
from agentlayers.journal.conflict_policy import ConflictPolicy, LastWriteWins
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement, EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.digest import is_synced
from agentlayers.storage.event_groups import ARTIFACT_CHUNK_EVENTS
from agentlayers.storage.replica_store import with_parts
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import StorageConfig

__all__ = ["IDENTITY", "STORES", "Clock", "Replica", "open_replica"]

IDENTITY = Identity("test", bytes(32))
STORES = ("chat_history", "artifacts", "audit_log")
CHUNK_EVENTS = {event.tag for event in ARTIFACT_CHUNK_EVENTS.events}


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Replica:
    """One replica, open."""

    journal: EventJournal
    chat: ChatHistoryStore
    artifacts: ArtifactStore
    audit: AuditEventStore
    index: SessionIndexStore
    delivered: dict[tuple[bytes, str], int] = field(default_factory=dict)

    @property
    def remote_id(self) -> bytes:
        """Name others know this replica by when it hands them entries."""
        return hashlib.sha256(self.journal.replica_id.encode()).digest()[:16]

    async def synced(self, store: str) -> list[Entry]:
        """Return the entries of one store that are synced, received ones and those of its parts included."""
        stored = await self.journal.entries(entries_max=100_000)
        return [one.entry for one in stored if is_synced(one) and one.store in with_parts(store)]

    async def take(self, source: Replica, store: str, entries: Sequence[Entry]) -> None:
        """Receive entries from another replica, in this order, in one batch."""
        whole, *parts = with_parts(store)
        for name in (whole, *parts):
            taken = [entry for entry in entries if not parts or (entry.event in CHUNK_EVENTS) == (name in parts)]
            remote = [RemoteEntry(sequence, entry) for sequence, entry in enumerate(taken)]
            await self.journal.write_from_remote(name, source.remote_id, remote, through=0)

    async def take_all(self, source: Replica, *, reverse: bool = False) -> None:
        """Receive everything another replica has, oldest or newest first, one at a time."""
        for store in STORES:
            for entry in (await source.synced(store))[:: -1 if reverse else 1]:
                await self.take(source, store, [entry])

    async def meet_remote(self, store: str, remote_id: bytes = b"r" * 16) -> None:
        """Have a remote that holds nothing of ours yet, so that everything is pending for it."""
        for name in with_parts(store):
            await self.journal.write_from_remote(name, remote_id, [], through=0)

    async def acknowledge_all(self, store: str, remote_id: bytes = b"r" * 16) -> None:
        """Let the remote acknowledge everything."""
        for name in with_parts(store):
            pending = await self.journal.uncommitted(name, remote_id, entries_max=100_000, bytes_max=1 << 30)
            await self.journal.acknowledge(name, remote_id, Acknowledgement([stored.position for stored in pending]))

    async def compact(self, store: str, strategy: CompactionStrategy) -> None:
        """Compact a store and its parts."""
        for name in with_parts(store):
            await self.journal.compact(name, strategy)


@asynccontextmanager
async def open_replica(
    journal: EventJournal | None = None,
    *,
    policy: ConflictPolicy | None = None,
    compaction: CompactionStrategy | None = None,
    config: StorageConfig | None = None,
    clock: Callable[[], float] | None = None,
    seed: int | None = None,
) -> AsyncIterator[Replica]:
    """Open a replica, in memory unless a journal is given."""
    if journal is None:
        journal = MemoryJournal(clock=clock or Clock(), random=random.Random(seed))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(journal)
        index = await stack.enter_async_context(SessionIndexStore(journal, storage_config=config))
        arguments = {
            "conflict_policy": policy or LastWriteWins(),
            "compaction": compaction,
            "storage_config": config,
            "session_index": index,
        }
        chat, artifacts, audit = [
            await stack.enter_async_context(store(journal, IDENTITY, **arguments))  # type: ignore[arg-type]
            for store in (ChatHistoryStore, ArtifactStore, AuditEventStore)
        ]
        yield Replica(journal, chat, artifacts, audit, index)  # type: ignore[arg-type]
