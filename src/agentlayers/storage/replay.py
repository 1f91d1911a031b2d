"""
Bring read models up again from the entries alone, beside the ones a journal has, and tell where the two differ.

The entries are read from one snapshot of the file; what is made of them goes to a temporary database, so that memory
does not grow with the journal. Nothing of the replica is changed here.

Three things are no function of the entries that are held, and are taken over from the journal: what a key's compacted
versions had seen, the highest sequence number of a session whose messages were compacted, and which messages were
purged before a remote had them.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from agentlayers.errors import MalformedMessageError
from agentlayers.journal.causality import KeyState
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.primitives import EntryRow, UnappliedRow
from agentlayers.journal.projection import apply_rows
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.journal.sqlite.state_codec import decode_state
from agentlayers.journal.sqlite.transaction import SQLiteTransaction
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.limits import JOURNAL_PAGE_BYTES_MAX
from agentlayers.storage.artifact_index import STORE as ARTIFACTS
from agentlayers.storage.artifact_index import ArtifactRow
from agentlayers.storage.chat_index import STORE as CHAT_HISTORY
from agentlayers.storage.chat_index import carry_over
from agentlayers.storage.session_index import SessionMeta, session_meta, session_metas
from agentlayers.storage.snapshot import JournalSnapshot

__all__ = [
    "IndexGap",
    "KeyDifference",
    "Replay",
    "UnreadableEntry",
    "ValueDifference",
    "found_state",
    "read_model_digest",
    "replayed",
]

Progress = Callable[[int], None]

_ROWS: Final = 512


class ValueDifference(NamedTuple):
    """
    A row of a read model that is not what the entries make of it.

    Attributes:
        store: Whose read model.
        key: Of the row.
        found: What the journal has; :obj:`None` for nothing.
        expected: What a replay gives; :obj:`None` for nothing.
    """

    store: str
    key: bytes
    found: bytes | None
    expected: bytes | None


class KeyDifference(NamedTuple):
    """
    A key whose heads are not those of its versions.

    Attributes:
        store: The store.
        primary_key: The key.
        found: What the journal has; :obj:`None` for nothing.
        expected: What a replay gives.
    """

    store: str
    primary_key: str
    found: KeyState | None
    expected: KeyState


class IndexGap(NamedTuple):
    """
    A session that a store has something of, but that the session index does not list, or with a shorter time.

    Attributes:
        store: The store.
        expected: The session as the store's rows tell it.
    """

    store: str
    expected: SessionMeta


class UnreadableEntry(NamedTuple):
    """An entry that cannot be taken into account, and why."""

    row: EntryRow
    reason: str


@dataclass(slots=True)
class Replay:
    """
    What a replay gave; valid inside the block that made it.

    Attributes:
        snapshot: Where the entries were read.
        entries: How many they were.
        unreadable: Those that could not be taken into account.
    """

    snapshot: JournalSnapshot
    scratch: ReplayTransaction
    entries: int = 0
    unreadable: list[UnreadableEntry] = field(default_factory=list)

    def differences(self) -> Iterator[ValueDifference | KeyDifference]:
        """Iterate over what differs between the journal and the replay, store by store, in key order."""
        for store in self.snapshot.known_stores:
            yield from self._key_differences(store)
            yield from self._value_differences(store)

    def _value_differences(self, store: str) -> Iterator[ValueDifference]:
        start = pack_key(store)
        end = prefix_end(start)
        found, expected = self.snapshot.tx.scan(start, end), self.scratch.scan(start, end)
        left, right = next(found, None), next(expected, None)
        while left is not None or right is not None:
            if right is None or (left is not None and left[0] < right[0]):
                assert left is not None
                yield ValueDifference(store, left[0], left[1], None)
                left = next(found, None)
            elif left is None or right[0] < left[0]:
                yield ValueDifference(store, right[0], None, right[1])
                right = next(expected, None)
            else:
                if left[1] != right[1]:
                    yield ValueDifference(store, left[0], left[1], right[1])
                left, right = next(found, None), next(expected, None)

    def _key_differences(self, store: str) -> Iterator[KeyDifference]:
        number = self.snapshot.tx.store_number(store)
        query = "SELECT primary_key, state FROM key_state WHERE store = ? ORDER BY primary_key"
        for primary_key, data in self.snapshot.connection.execute(query, (number,)):
            found = _decoded_state(data)
            expected = self.scratch.key_state(number, primary_key)
            if expected is not None and not _is_same(found, expected):
                yield KeyDifference(store, primary_key, found, expected)
        for primary_key, data in self.scratch.connection.execute(query, (number,)):
            is_there = "SELECT 1 FROM key_state WHERE store = ? AND primary_key = ?"
            if self.snapshot.connection.execute(is_there, (number, primary_key)).fetchone() is None:
                yield KeyDifference(store, primary_key, None, decode_state(data))

    def index_gaps(self) -> Iterator[IndexGap]:
        """Iterate over sessions that are missing in the session index, or stand there with too short a time."""
        if not self.snapshot.has_index:
            return
        for meta in session_metas(self.scratch):
            if not _covers(self.snapshot.tx, meta):
                yield IndexGap(CHAT_HISTORY, meta)
        start = pack_key(ARTIFACTS, "k")
        for _key, value in self.scratch.scan(start, prefix_end(start)):
            row = ArtifactRow.decode(value)
            meta = SessionMeta(row.session_id, row.created_at_ms, row.created_at_ms)
            if not _covers(self.snapshot.tx, meta):
                yield IndexGap(ARTIFACTS, meta)


def _covers(tx: JournalTransaction, expected: SessionMeta) -> bool:
    try:
        found = session_meta(tx, expected.session_id)
    except struct.error:
        return False
    if found is None:
        return False
    return found.created_at_ms <= expected.created_at_ms and found.updated_at_ms >= expected.updated_at_ms


def found_state(tx: JournalTransaction, store: int, primary_key: str) -> KeyState | None:
    """Return the state of a key, :obj:`None` where it is missing or damaged."""
    try:
        return tx.key_state(store, primary_key)
    except (ValueError, TypeError):
        return None


def _decoded_state(data: bytes) -> KeyState | None:
    try:
        return decode_state(data)
    except (ValueError, TypeError):
        return None


def _is_same(found: KeyState | None, expected: KeyState) -> bool:
    return (
        found is not None
        and found.heads == expected.heads
        and dict(found.seen) == dict(expected.seen)
        and dict(found.applied) == dict(expected.applied)
    )


class ReplayTransaction(SQLiteTransaction):
    """Entries of a snapshot, read models and states of keys of a temporary database."""

    def __init__(self, snapshot: JournalSnapshot, connection: sqlite3.Connection) -> None:
        super().__init__(snapshot.registry, connection, path=Path("replay"), read_only=False, stores=snapshot.tx.stores)
        self.source = snapshot.tx
        self.connection = connection

    def find_row(self, store: int | None, entry_id: bytes) -> EntryRow | None:
        """Look an entry up in the snapshot."""
        return self.source.find_row(store, entry_id)

    def rows_at(self, positions: Sequence[int]) -> list[EntryRow]:
        """Return entries of the snapshot."""
        return self.source.rows_at(positions)

    def version_rows(self, store: int, primary_key: str) -> list[EntryRow]:
        """List the versions of a key in the snapshot."""
        return self.source.version_rows(store, primary_key)

    def set_applied(self, position: int, *, applied: bool) -> None:
        """Note nothing: the snapshot stays as it is."""

    def put_unapplied(self, row: UnappliedRow) -> None:
        """Note nothing: whoever compares sees what the projection would have written."""

    def key_state(self, store: int, primary_key: str) -> KeyState | None:
        """Return the state of a key, which begins with what its compacted versions had seen."""
        state = super().key_state(store, primary_key)
        if state is None:
            state = found_state(self.source, store, primary_key)
            state = None if state is None else state._replace(heads=())
        return state


@contextmanager
def replayed(snapshot: JournalSnapshot, progress: Progress | None = None) -> Iterator[Replay]:
    """
    Replay all entries of the stores that are known.

    Args:
        snapshot: Where they are.
        progress: Called with the number of entries of each step.

    Raises:
        StorageUnavailableError: The file cannot be read, or there is no room for the temporary database.
        StorageCorruptionError: The file is damaged.
    """
    # A database without a name: SQLite keeps it in a file that is gone when it is closed.
    with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as connection:
        JOURNAL_FORMAT.migrate(connection)
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        tx = ReplayTransaction(snapshot, connection)
        if CHAT_HISTORY in snapshot.known_stores:
            carry_over(snapshot.tx, tx)
        tx.flush()
        replay = Replay(snapshot, tx)
        position = 0
        while rows := snapshot.tx.rows_after(None, position, _ROWS, bytes_max=JOURNAL_PAGE_BYTES_MAX):
            position = rows[-1].position
            _step(replay, rows, ReplayTransaction(snapshot, connection))
            replay.entries += len(rows)
            if progress is not None:
                progress(len(rows))
        replay.scratch = ReplayTransaction(snapshot, connection)
        yield replay


def _step(replay: Replay, rows: Sequence[EntryRow], tx: ReplayTransaction) -> None:
    by_store: dict[str, list[EntryRow]] = {}
    for row in rows:
        by_store.setdefault(tx.store_name(row.store), []).append(row)
    for store, members in by_store.items():
        schema = tx.registry.schemas.get(store)
        if schema is not None:
            versions = _versions(replay, schema, members, tx)
            usable = [row for row in members if not row.keyed or row.id in versions]
            apply_rows(tx, schema, usable, versions)
    tx.flush()


def _versions(
    replay: Replay, schema: StoreSchema, rows: Sequence[EntryRow], tx: JournalTransaction
) -> dict[bytes, Version]:
    versions: dict[bytes, Version] = {}
    for row in rows:
        if row.keyed != (row.event in schema.keyed_events):
            replay.unreadable.append(UnreadableEntry(row, "it is noted as a version of its key, or not, by mistake"))
        if row.keyed:
            try:
                versions[row.id] = tx.version_from(schema, row)
            except (MalformedMessageError, ValueError, TypeError) as error:
                reason = f"its payload cannot be read ({type(error).__name__})"
                replay.unreadable.append(UnreadableEntry(row, reason))
    return versions


def read_model_digest(tx: JournalTransaction, stores: Sequence[str]) -> str:
    """Return SHA-256, in hexadecimal, over all rows of the stores' read models in key order."""
    digest = hashlib.sha256()
    for store in sorted(stores):
        start = pack_key(store)
        for key, value in tx.scan(start, prefix_end(start)):
            digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()
