"""Entries, the journals that hold them, and what becomes of concurrent versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.journal.causality import Conflict
from agentlayers.journal.compaction import (
    ByAge,
    ByCount,
    ByKey,
    BySize,
    Candidate,
    Compaction,
    CompactionReport,
    CompactionStrategy,
    Composite,
)
from agentlayers.journal.conflict_policy import (
    ConflictPolicy,
    FirstWriteWins,
    LastWriteWins,
    Merge,
    Reject,
    Resolution,
    Version,
)
from agentlayers.journal.entry import Entry, RemoteEntry, StoredEntry
from agentlayers.journal.entry_id import entry_id_millis, next_entry_id
from agentlayers.journal.event_journal import (
    Acknowledgement,
    Commit,
    EventJournal,
    Observation,
    QuarantinedEntry,
    RelayMode,
    Remote,
    RemoteState,
    RemoteWriteResult,
    StoreSchema,
    UnappliedEntry,
)
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.journal.key_value import KeyValueJournal
    from agentlayers.journal.memory import MemoryJournal
    from agentlayers.journal.quarantine import QuarantineResult, UnreadableEntry
    from agentlayers.journal.sqlite import SQLiteJournal
    from agentlayers.journal.transaction import JournalTransaction

__all__ = [
    "Acknowledgement",
    "ByAge",
    "ByCount",
    "ByKey",
    "BySize",
    "Candidate",
    "Commit",
    "Compaction",
    "CompactionReport",
    "CompactionStrategy",
    "Composite",
    "Conflict",
    "ConflictPolicy",
    "Entry",
    "EventJournal",
    "FirstWriteWins",
    "JournalTransaction",
    "KeyValueJournal",
    "LastWriteWins",
    "MemoryJournal",
    "Merge",
    "Observation",
    "QuarantineResult",
    "QuarantinedEntry",
    "Reject",
    "RelayMode",
    "Remote",
    "RemoteEntry",
    "RemoteState",
    "RemoteWriteResult",
    "Resolution",
    "SQLiteJournal",
    "StoreSchema",
    "StoredEntry",
    "UnappliedEntry",
    "UnreadableEntry",
    "Version",
    "entry_id_millis",
    "next_entry_id",
    "pack_key",
    "prefix_end",
]

_HOMES = {
    # They bring sqlite3, msgpack, structlog and sortedcontainers with them.
    "JournalTransaction": "transaction",
    "KeyValueJournal": "key_value",
    "MemoryJournal": "memory",
    "QuarantineResult": "quarantine",
    "SQLiteJournal": "sqlite",
    "UnreadableEntry": "quarantine",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
