"""
One moment of a journal file, with everything a transaction can read of it.

Beside a running replica or on what a killed one left; nothing is written, not even a migration.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentlayers.journal.conflict_policy import ConflictPolicy
from agentlayers.journal.entry import Entry, StoredEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.journal.sqlite.transaction import SQLiteTransaction
from agentlayers.storage.journal_file import entry_rows, open_journal_file
from agentlayers.storage.replay_source import IndexedText
from agentlayers.storage.replica_store import FurtherStore, has_index, replica_schemas, stores_of_file

__all__ = ["JournalSnapshot", "open_snapshot"]


_TEXT_TABLES: Final = (("text_index", "rowid"), ("text_waiting", "position"))


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """
    What a journal file holds at one moment; valid inside the block that opened it.

    Attributes:
        path: The file.
        tx: Reads it, as a journal's own transactions do.
        connection: Reads it in SQL.
        registry: The stores that a tool knows.
        replica_id: Name of the replica.
        schema_version: Version of the file's tables.
        store_names: Stores that have anything in the file, by their number in it.
    """

    path: Path
    tx: SQLiteTransaction
    connection: sqlite3.Connection
    registry: JournalRegistry
    replica_id: str
    schema_version: int
    store_names: dict[int, str]

    @property
    def known_stores(self) -> tuple[str, ...]:
        """Stores of the file whose events are known here."""
        return tuple(name for name in self.store_names.values() if name in self.registry.schemas)

    @property
    def unknown_stores(self) -> tuple[str, ...]:
        """Stores of the file whose events are not known here, such as those an application declares."""
        return tuple(name for name in self.store_names.values() if name not in self.registry.schemas)

    @property
    def has_index(self) -> bool:
        """Whether the stores of the file keep the session index with them."""
        return has_index(self.path)

    @property
    def lists_texts(self) -> bool:
        """Whether texts can be compared: all of them are in the index, or wait for it."""
        return True

    def listed_keys(self, store: int) -> Iterator[str]:
        """Iterate over the keys something is noted of, also those without entries."""
        query = "SELECT primary_key FROM key_state WHERE store = ? ORDER BY primary_key"
        return (key for (key,) in self.connection.execute(query, (store,)))

    def texts(self, store: int) -> Iterator[IndexedText]:
        """Iterate over the texts that entries are found by, in no order."""
        for table, column in _TEXT_TABLES:
            query = (
                f"SELECT entry.id, text, scope FROM {table} JOIN entry ON entry.position = {table}.{column} "
                f"WHERE {table}.store = ?"
            )
            yield from map(IndexedText._make, self.connection.execute(query, (store,)))

    def text_of(self, store: int, entry_id: bytes) -> IndexedText | None:
        """Return the text one entry is found by."""
        (found,) = self.connection.execute(
            "SELECT max(position) FROM entry WHERE id = ? AND store = ?", (entry_id, store)
        ).fetchone()
        for table, column in _TEXT_TABLES:
            query = f"SELECT text, scope FROM {table} WHERE {column} = ? AND store = ?"
            row = self.connection.execute(query, (found, store)).fetchone()
            if row is not None:
                return IndexedText(entry_id, *row)
        return None

    def entries(self, *, store: str | None = None, after: int = 0, newest_first: bool = False) -> Iterator[StoredEntry]:
        """Iterate over entries in local arrival order or against it, one in memory at a time."""
        numbers = {name: number for number, name in self.store_names.items()}
        if store is not None and store not in numbers:
            return
        chosen = "" if store is None else f"AND store = {int(numbers[store])}"
        condition = f"WHERE position > ? {chosen} ORDER BY position {'DESC' if newest_first else 'ASC'}"
        for row in entry_rows(self.connection, self.path, condition, (after,)):
            entry = Entry(row.id, row.event, row.primary_key, row.payload)
            yield StoredEntry(row.position, self.store_names[row.store], entry, row.origin == 0, row.applied)


@contextmanager
def open_snapshot(
    path: Path,
    *,
    policy: ConflictPolicy | None = None,
    schemas: Mapping[str, StoreSchema] | None = None,
    further: Sequence[FurtherStore] = (),
) -> Iterator[JournalSnapshot]:
    """
    Open one moment of a journal file.

    Args:
        path: The file.
        policy: Decides what is shown of concurrent versions; last write wins if not given.
        schemas: The stores that are known; those a tool knows if not given.
        further: Stores that a tool knows beside those of this room.

    Raises:
        StorageUnavailableError: The file cannot be read.
        StorageCorruptionError: It is damaged, or no journal.
        MigrationError: A newer release wrote it.
    """
    with JOURNAL_FORMAT.translated("read", path), closing(open_journal_file(path)) as connection:
        registry = JournalRegistry(clock=time.time, random=None)
        if schemas is None:
            known = replica_schemas(policy, with_index=has_index(path), further=further)
            schemas = {name: known[name] for name in stores_of_file(path, further)}
        registry.schemas.update(schemas)
        names: dict[int, str] = dict(connection.execute("SELECT number, name FROM store ORDER BY number"))
        tx = SQLiteTransaction(
            registry, connection, path=path, read_only=True, stores={name: number for number, name in names.items()}
        )
        registry.replica_id = (tx.get_setting("replica_id") or b"").decode("utf-8", "replace")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        yield JournalSnapshot(path, tx, connection, registry, registry.replica_id, version, names)
