"""Journals of all kinds, for whatever a store does on any journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from helpers.key_value_journal import JournalWithStore


@pytest.fixture(params=["memory", "sqlite", "key_value"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> EventJournal:
    """Return a new journal, not open yet."""
    if request.param == "key_value":
        return JournalWithStore()
    return MemoryJournal() if request.param == "memory" else SQLiteJournal(tmp_path / "replica")
