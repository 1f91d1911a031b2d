"""
What a replica's files say of its stores and its servers, read without opening the replica.

Read-only, from one snapshot of each file, so it is safe beside a running replica and on what a killed one left.
"""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentlayers.journal.event_journal import Remote
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.storage.journal_file import journal_files
from agentlayers.storage.snapshot import open_snapshot
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
        pending: Entries to be sent that it is not known to have.
        relayed: How many of them came from other servers.
        relays: Whether it is sent what came from other servers.
        is_retired: Another one took its place.
        last_contact: When it was last connected to, or something was exchanged, as ISO 8601.
    """

    remote_id: str
    url: str | None
    next_sequence: int
    pending: int
    relayed: int
    relays: bool
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
        not_kept: Further ones that there was no room for: read again once the store has another key.
        unapplied: Entries whose projection failed and is retried.
        remotes: The servers it was ever connected to.
    """

    store: str
    journal: str
    entries: int
    unsent: int
    quarantined: int
    not_kept: int
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
        with open_snapshot(path) as snapshot:
            replica = replica or snapshot.replica_id
            names = snapshot.store_names.values()
            stores += [_store(snapshot.connection, snapshot.tx, path, name) for name in names]
    return ReplicaState(str(directory), replica, tuple(stores))


def _store(connection: sqlite3.Connection, tx: JournalTransaction, path: Path, name: str) -> StoreSummary:
    number = tx.store_number(name)
    remotes = sorted(tx.remotes(name), key=lambda remote: remote.is_retired)
    return StoreSummary(
        store=name,
        journal=path.name,
        entries=_count(connection, "SELECT count(*) FROM entry WHERE store = ?", number),
        unsent=0 if remotes else tx.count_outbound(number, 0, 0),
        quarantined=_count(connection, "SELECT count(*) FROM quarantine WHERE store = ?", number),
        not_kept=tx.count_not_kept(name),
        unapplied=_count(connection, "SELECT count(*) FROM unapplied WHERE store = ?", number),
        remotes=tuple(_remote(tx, name, remote) for remote in remotes),
    )


def _remote(tx: JournalTransaction, name: str, remote: Remote) -> RemoteSummary:
    contact = contact_ms(tx.get_setting(f"{SETTING}{name}:{remote.remote_id.hex()}"))
    return RemoteSummary(
        remote_id=remote.remote_id.hex(),
        url=remote.url,
        next_sequence=remote.state.next_sequence,
        pending=remote.state.pending,
        relayed=remote.state.relayed,
        relays=remote.relays,
        is_retired=remote.is_retired,
        last_contact=None if contact is None else datetime.fromtimestamp(contact / 1000, UTC).isoformat("T", "seconds"),
    )


def _count(connection: sqlite3.Connection, query: str, *values: int) -> int:
    (count,) = connection.execute(query, values).fetchone()
    return int(count)
