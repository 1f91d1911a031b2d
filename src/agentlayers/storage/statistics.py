"""What a replica's files hold, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agentlayers.errors import MalformedMessageError, StorageCorruptionError
from agentlayers.journal.competing import are_competing
from agentlayers.journal.event_journal import QuarantinedEntry, Remote, StoreSchema, UnappliedEntry
from agentlayers.storage.artifact_index import STORE as ARTIFACTS
from agentlayers.storage.artifact_index import sessions
from agentlayers.storage.audit_log import AUDIT_LOG, audited_sessions
from agentlayers.storage.chat_index import STORE as CHAT_HISTORY
from agentlayers.storage.chat_index import listed_sessions
from agentlayers.storage.journal_file import journal_files
from agentlayers.storage.snapshot import JournalSnapshot, open_snapshot

__all__ = ["FileStatistics", "StoreRemote", "StoreStatistics", "journal_statistics"]


class StoreRemote(NamedTuple):
    """One remote of one store."""

    store: str
    remote: Remote


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """
    One store of one file.

    Attributes:
        name: The store.
        entries: How many entries it holds.
        local: Those written here.
        payload_bytes: Their payloads together.
        oldest_id: Lowest entry id; empty when there is none.
        newest_id: Highest entry id; empty when there is none.
        sessions: Sessions it has something of; :obj:`None` for a store that is not known here.
        conflicts: Keys with several versions that nothing supersedes and that say different things.
        compacted: Ids of compacted entries that are remembered.
        unapplied: Entries that are not in the read model, with the reason.
        quarantined: What was kept aside, with the reason.
        waiting: Entries of a store that is not known here, kept until its application opens it.
        not_kept: How many more had to be kept aside and there was no room for; what came twice counts twice.
    """

    name: str
    entries: int
    local: int
    payload_bytes: int
    oldest_id: bytes
    newest_id: bytes
    sessions: int | None
    conflicts: int
    compacted: int
    unapplied: tuple[UnappliedEntry, ...]
    quarantined: tuple[QuarantinedEntry, ...]
    waiting: int = 0
    not_kept: int = 0


@dataclass(frozen=True, slots=True)
class FileStatistics:
    """
    One journal file.

    Attributes:
        path: The file.
        bytes: Its size.
        wal_bytes: Size of what is committed but not yet moved into it.
        free_bytes: Room in it that is not used.
        schema_version: Version of its tables.
        replica_id: Name of the replica.
        stores: What it holds.
        remotes: Whom its stores were synced with.
    """

    path: Path
    bytes: int
    wal_bytes: int
    free_bytes: int
    schema_version: int
    replica_id: str
    stores: tuple[StoreStatistics, ...] = ()
    remotes: tuple[StoreRemote, ...] = field(default=())


def journal_statistics(directory: Path) -> Iterator[FileStatistics]:
    """
    Iterate over the files of a replica.

    Args:
        directory: The replica's directory, or one journal file.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: A file is damaged, or no journal.
        MigrationError: A newer release wrote a file.
    """
    for path in journal_files(directory):
        with open_snapshot(path) as snapshot:
            yield _file(snapshot)


def _file(snapshot: JournalSnapshot) -> FileStatistics:
    (free_pages,) = snapshot.connection.execute("PRAGMA freelist_count").fetchone()
    (page_bytes,) = snapshot.connection.execute("PRAGMA page_size").fetchone()
    wal = snapshot.path.with_name(snapshot.path.name + "-wal")
    names = snapshot.store_names.values()
    return FileStatistics(
        snapshot.path,
        snapshot.path.stat().st_size,
        wal.stat().st_size if wal.is_file() else 0,
        free_pages * page_bytes,
        snapshot.schema_version,
        snapshot.replica_id,
        tuple(_store(snapshot, name) for name in names),
        tuple(StoreRemote(name, remote) for name in names for remote in snapshot.tx.remotes(name)),
    )


def _store(snapshot: JournalSnapshot, name: str) -> StoreStatistics:
    number = snapshot.tx.store_number(name)
    entries, local, payload_bytes, oldest, newest = snapshot.connection.execute(
        "SELECT count(*), coalesce(sum(origin = 0), 0), coalesce(sum(length(payload)), 0), min(id), max(id) "
        "FROM entry WHERE store = ?",
        (number,),
    ).fetchone()
    conflicts = sum(_is_open(snapshot, name, key) for key in snapshot.tx.conflicted_keys(number))
    unapplied, waiting = _unapplied(snapshot, name)
    (compacted,) = snapshot.connection.execute("SELECT count(*) FROM horizon WHERE store = ?", (number,)).fetchone()
    return StoreStatistics(
        name, entries, local, payload_bytes, oldest or b"", newest or b"", _sessions(snapshot, name), conflicts,
        compacted, unapplied, tuple(snapshot.tx.quarantined(name)), waiting,
        snapshot.tx.count_not_kept(name),
    )  # fmt: skip


def _unapplied(snapshot: JournalSnapshot, name: str) -> tuple[tuple[UnappliedEntry, ...], int]:
    if name not in snapshot.unknown_stores:
        return tuple(snapshot.tx.unapplied(name)), 0
    # Counted, not listed: after an import they may be all entries of the store.
    tx = snapshot.tx
    rows = {row.position: row for row in tx.unapplied_rows(tx.store_number(name))}
    failed = tx.rows_at([at for at, row in rows.items() if row.attempts])
    listed = tuple(
        UnappliedEntry(tx.stored(row), rows[row.position].error, rows[row.position].attempts) for row in failed
    )
    return listed, len(rows) - len(listed)


def _is_open(snapshot: JournalSnapshot, name: str, primary_key: str) -> bool:
    schema = snapshot.registry.schemas.get(name) or StoreSchema(name=name)
    try:
        heads = snapshot.tx.heads_by(schema, primary_key)
    except (MalformedMessageError, StorageCorruptionError):
        return True  # what is damaged is for 'journal verify' to tell
    return are_competing(schema, heads)


def _sessions(snapshot: JournalSnapshot, name: str) -> int | None:
    count = {CHAT_HISTORY: listed_sessions, ARTIFACTS: sessions, AUDIT_LOG: audited_sessions}.get(name)
    return None if count is None else len(count(snapshot.tx))
