"""The stores that transcripts are imported into, as they lie in a replica's directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.sqlite.journal import JOURNAL_FILE
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.replica_store import file_of_store, has_index
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.sync.service import SyncService

__all__ = ["IDENTITY_FILE", "STORES", "TranscriptStores", "open_transcript_stores"]

IDENTITY_FILE = "identity"
"""Name of the identity file in a replica's directory."""

_KINDS: tuple[type[JournaledStore], ...] = (ChatHistoryStore, ArtifactStore, AgentSessionStore)
STORES = tuple(kind.name for kind in _KINDS)
"""Names of the stores that an import writes to."""


@final
@dataclass(frozen=True, slots=True)
class TranscriptStores:
    """
    Where transcripts are imported.

    Attributes:
        chat: Gets the messages.
        artifacts: Gets the results of tools.
        sessions: Gets every line as it is, so that the session can be resumed.
    """

    chat: JournaledStore
    artifacts: JournaledStore
    sessions: JournaledStore

    def by_journal(self) -> list[tuple[JournaledStore, ...]]:
        """Group the stores by the journal they share; the group of the sessions comes last."""
        groups: dict[int, list[JournaledStore]] = {}
        for store in (self.chat, self.artifacts, self.sessions):
            groups.setdefault(id(store.journal), []).append(store)
        ordered = sorted(groups.values(), key=lambda group: self.sessions in group)
        return [tuple(group) for group in ordered]


@asynccontextmanager
async def open_transcript_stores(
    directory: Path, *, sync: SyncService | None = None
) -> AsyncIterator[TranscriptStores]:
    """
    Open a replica's stores for an import, beside whatever else has them open; the replica is made if there is none.

    Args:
        directory: The replica's directory.
        sync: Replicates the stores of the shared journal while they are open.

    Raises:
        StorageUnavailableError: The directory cannot be written to.
        StorageCorruptionError: A journal is damaged, or none.
        MigrationError: A newer release wrote it.
    """
    identity = Identity.load_or_create(directory / IDENTITY_FILE)
    async with AsyncExitStack() as stack:
        journals: dict[Path, SQLiteJournal] = {}
        stores: list[JournaledStore] = []
        for kind in _KINDS:
            path = file_of_store(directory, kind.name)
            if path not in journals:
                journals[path] = await stack.enter_async_context(SQLiteJournal(path))
            journal, is_shared = journals[path], path.name == JOURNAL_FILE
            index = SessionIndexStore(journal) if is_shared and has_index(path) else None
            store = kind(journal, identity, session_index=index, sync=sync if is_shared else None)
            stores.append(await stack.enter_async_context(store))
        yield TranscriptStores(*stores)
