"""Every journal passes the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.testing.contracts.event_journal import EventJournalContract
from agentlayers.testing.contracts.event_journal_world import ManualClock, Medium


class TestMemoryJournal(EventJournalContract):
    @pytest.fixture
    def medium(self, clock: ManualClock) -> Medium:
        journals: dict[str, EventJournal] = {}

        def make(name: str = "a") -> EventJournal:
            return journals.setdefault(name, MemoryJournal(clock=clock))

        return make


class TestSQLiteJournal(EventJournalContract):
    @pytest.fixture
    def medium(self, clock: ManualClock, tmp_path: Path) -> Medium:
        def make(name: str = "a") -> EventJournal:
            return SQLiteJournal(tmp_path / name, clock=clock, durability="normal")

        return make
