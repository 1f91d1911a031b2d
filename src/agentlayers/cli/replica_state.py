"""
What a replica's files say of its stores and its servers, read without opening the replica.

Read-only, from one snapshot of each file, so it is safe beside a running replica and on what a killed one left.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.storage.journal_file import journal_files, open_journal_file
from agentlayers.sync.known_entries import SETTING, contact_ms

__all__ = ["RemoteSummary", "ReplicaState", "StoreSummary", "read_replica_state"]


@dataclass(frozen=True, slots=True)
class RemoteSummary:
    """
    One server as one store knows it.

    Attributes:
        remote_id: The server's id in hexadecimal.
        url: Where it was last reached, without credentials.
        next_sequence: First of its sequences that is not here.
        pending: Local entries it has not acknowledged.
        is_retired: Another one took its place.
        last_contact: When it was last connected to, or something was exchanged, as ISO 8601.
    """

    remote_id: str
    url: str | None
    next_sequence: int
    pending: int
    is_retired: bool
    last_contact: str | None


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """
    One store of a replica.

    Attributes:
        store: Its name.
        journal: Name of the file it is in.
        entries: Entries held.
        unsent: Entries written here that are to be synced, if it never was.
        quarantined: Received entries that were kept aside.
        unapplied: Entries whose projection failed and is retried.
        remotes: The servers it was ever connected to.
    """

    store: str
    journal: str
    entries: int
    unsent: int
    quarantined: int
    unapplied: int
    remotes: tuple[RemoteSummary, ...]


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """Everything that is known, and when it was read."""

    directory: str
    replica: str
    stores: tuple[StoreSummary, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object whose fields only grow in later releases."""
        return asdict(self)


def read_replica_state(directory: Path) -> ReplicaState:
    """
    Read the state of a replica.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: A file is damaged, or no journal.
        MigrationError: A newer release wrote a file.
    """
    replica, stores = "", []
    for path in journal_files(directory):
        with JOURNAL_FORMAT.translated("read", path), closing(open_journal_file(path)) as connection:
            row = connection.execute("SELECT value FROM setting WHERE name = 'replica_id'").fetchone()
            replica = replica or ("" if row is None else bytes(row[0]).decode("utf-8", "replace"))
            names = connection.execute("SELECT number, name FROM store ORDER BY number").fetchall()
            stores += [_store(connection, path, number, name) for number, name in names]
    return ReplicaState(str(directory), replica, tuple(stores))


def _store(connection: sqlite3.Connection, path: Path, number: int, name: str) -> StoreSummary:
    remotes = connection.execute(
        "SELECT number, remote_id, url, next_sequence, watermark, is_retired FROM remote WHERE store = ?"
        " ORDER BY is_retired, number",
        (number,),
    ).fetchall()
    return StoreSummary(
        store=name,
        journal=path.name,
        entries=_count(connection, "SELECT count(*) FROM entry WHERE store = ?", number),
        unsent=0 if remotes else _outbound(connection, number, 0),
        quarantined=_count(connection, "SELECT count(*) FROM quarantine WHERE store = ?", number),
        unapplied=_count(connection, "SELECT count(*) FROM unapplied WHERE store = ?", number),
        remotes=tuple(_remote(connection, name, number, remote) for remote in remotes),
    )


def _remote(connection: sqlite3.Connection, name: str, store: int, row: tuple[Any, ...]) -> RemoteSummary:
    number, remote_id, url, next_sequence, watermark, is_retired = row
    noted = "SELECT count(*) FROM remote_has JOIN entry USING (position) WHERE remote = ? AND position > ?"
    setting = f"{SETTING}{name}:{remote_id.hex()}"
    kept = connection.execute("SELECT value FROM setting WHERE name = ?", (setting,)).fetchone()
    contact = contact_ms(None if kept is None else bytes(kept[0]))
    return RemoteSummary(
        remote_id=remote_id.hex(),
        url=url,
        next_sequence=next_sequence,
        pending=_outbound(connection, store, watermark) - _count(connection, noted, number, watermark),
        is_retired=bool(is_retired),
        last_contact=None if contact is None else datetime.fromtimestamp(contact / 1000, UTC).isoformat("T", "seconds"),
    )


def _outbound(connection: sqlite3.Connection, store: int, after: int) -> int:
    return _count(connection, "SELECT count(*) FROM entry WHERE store = ? AND outbound AND position > ?", store, after)


def _count(connection: sqlite3.Connection, query: str, *values: int) -> int:
    (count,) = connection.execute(query, values).fetchone()
    return int(count)
