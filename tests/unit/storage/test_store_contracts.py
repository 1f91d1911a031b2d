"""Every store passes its contract on every journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.testing.contracts.artifacts import ArtifactStoreContract
from agentlayers.testing.contracts.audit_log import AuditLogContract
from agentlayers.testing.contracts.chat_history import ChatHistoryContract
from agentlayers.testing.contracts.session_index import SessionIndexContract
from helpers.key_value_journal import JournalWithStore


class InMemory:
    @pytest.fixture
    def journal(self) -> EventJournal:
        return MemoryJournal()


class OnSQLite:
    @pytest.fixture
    def journal(self, tmp_path: Path) -> EventJournal:
        return SQLiteJournal(tmp_path)


class OnKeyValues:
    @pytest.fixture
    def journal(self) -> EventJournal:
        return JournalWithStore()


class TestChatHistoryInMemory(InMemory, ChatHistoryContract):
    pass


class TestChatHistoryOnSQLite(OnSQLite, ChatHistoryContract):
    pass


class TestArtifactsInMemory(InMemory, ArtifactStoreContract):
    pass


class TestArtifactsOnSQLite(OnSQLite, ArtifactStoreContract):
    pass


class TestAuditLogInMemory(InMemory, AuditLogContract):
    pass


class TestAuditLogOnSQLite(OnSQLite, AuditLogContract):
    pass


class TestSessionIndexInMemory(InMemory, SessionIndexContract):
    pass


class TestSessionIndexOnSQLite(OnSQLite, SessionIndexContract):
    pass


class TestChatHistoryOnKeyValues(OnKeyValues, ChatHistoryContract):
    pass


class TestArtifactsOnKeyValues(OnKeyValues, ArtifactStoreContract):
    pass


class TestAuditLogOnKeyValues(OnKeyValues, AuditLogContract):
    pass


class TestSessionIndexOnKeyValues(OnKeyValues, SessionIndexContract):
    pass
