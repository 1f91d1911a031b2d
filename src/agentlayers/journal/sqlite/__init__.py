"""The journal in one SQLite file: the default."""

from __future__ import annotations

from agentlayers.journal.sqlite.journal import JOURNAL_FILE, SQLiteJournal
from agentlayers.journal.sqlite.schema import SCHEMA_VERSION

__all__ = ["JOURNAL_FILE", "SCHEMA_VERSION", "SQLiteJournal"]
