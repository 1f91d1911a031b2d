"""Stores in memory for the runtime's tests: the real stores on the real memory journal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.memory import MemoryJournal
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.session_index import SessionIndexStore


@dataclass
class Stores:
    """The four stores of one replica."""

    chat: ChatHistoryStore
    artifacts: ArtifactStore
    audit: AuditEventStore
    index: SessionIndexStore

    async def history(self, session_id: str) -> list[tuple[str, str]]:
        """What is recorded of a session, as (source, type) or (source, text)."""
        found: list[tuple[str, str]] = []
        for event in await self.chat.list(session_id):
            message = event.message
            content = message.get("message", {}).get("content") if message["type"] != "result" else None
            text = content if isinstance(content, str) else message["type"]
            found.append((event.source, text))
        return found

    async def audited(self, event: str) -> list[dict[str, object]]:
        """The payloads of one audit event, in order."""
        return [dict(entry.payload) for entry in await self.audit.entries(event=event)]


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    identity = Identity.generate()
    async with (
        MemoryJournal() as journal,
        SessionIndexStore(journal) as index,
        ChatHistoryStore(journal, identity, session_index=index) as chat,
        ArtifactStore(journal, identity, session_index=index) as artifacts,
        AuditEventStore(journal, identity) as audit,
    ):
        yield Stores(chat, artifacts, audit, index)
