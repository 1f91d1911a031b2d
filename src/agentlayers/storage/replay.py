"""
Bring read models up again from the entries alone, beside the ones a journal has, and tell where the two differ.

The entries are read from one snapshot; what is made of them goes to a temporary database, so that memory does not
grow with the journal. Nothing of the replica is changed here.

Three things are no function of the entries that are held, and are taken over from the journal: what a key's compacted
versions had seen, the highest sequence number of a session whose messages were compacted, and which messages were
purged before a remote had them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from agentlayers.errors import MalformedMessageError
from agentlayers.journal.causality import NO_STATE, KeyState, version_of, with_version
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.primitives import EntryRow, UnappliedRow
from agentlayers.journal.projection import apply_rows
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.journal.sqlite.transaction import SQLiteTransaction
from agentlayers.journal.state_codec import decode_state
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.limits import JOURNAL_PAGE_BYTES_MAX
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.artifact_index import STORE as ARTIFACTS
from agentlayers.storage.artifact_index import ArtifactRow
from agentlayers.storage.chat_index import STORE as CHAT_HISTORY
from agentlayers.storage.chat_index import carry_over
from agentlayers.storage.chat_search import has_backlog
from agentlayers.storage.replay_source import IndexedText, ReplaySource
from agentlayers.storage.session_index import SessionMeta, is_listed, session_meta, session_metas

__all__ = [
    "IndexGap",
    "KeyDifference",
    "Replay",
    "TextDifference",
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


class TextDifference(NamedTuple):
    """
    An entry that is not found by the text it has.

    Attributes:
        store: The store.
        entry_id: The entry.
        found: What it is found by; :obj:`None` for nothing.
        expected: What a replay gives; :obj:`None` for nothing.
    """

    store: str
    entry_id: bytes
    found: IndexedText | None
    expected: IndexedText | None


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

    snapshot: ReplaySource
    scratch: ReplayTransaction
    entries: int = 0
    unreadable: list[UnreadableEntry] = field(default_factory=list)

    def differences(self) -> Iterator[ValueDifference | KeyDifference | TextDifference]:
        """Iterate over what differs between the journal and the replay, store by store, in key order."""
        for store in self.snapshot.known_stores:
            yield from self.head_differences(store)
            yield from self._value_differences(store)
            if self.snapshot.lists_texts:
                yield from self._text_differences(store)

    def _text_differences(self, store: str) -> Iterator[TextDifference]:
        number = self.snapshot.tx.store_number(store)
        for found in self.snapshot.texts(number):
            expected = self.scratch.expected_text(number, found.entry_id)
            if found != expected:
                yield TextDifference(store, found.entry_id, found, expected)
        # A file from before there was an index is brought up at the first search.
        backlog = self.snapshot.tx.text_backlog() if has_backlog(self.snapshot.tx) else 0
        for expected in self.scratch.expected_texts(number):
            if self.snapshot.text_of(number, expected.entry_id) is None:
                row = self.snapshot.tx.find_row(number, expected.entry_id)
                if row is not None and row.position > backlog:
                    yield TextDifference(store, expected.entry_id, None, expected)

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

    def head_differences(self, store: str) -> Iterator[KeyDifference]:
        """Iterate over keys whose heads are not those of their versions, also of a store that is not known."""
        tx = self.snapshot.tx
        number = tx.store_number(store)
        for primary_key, expected in self.scratch.written_states(number):
            found = found_state(tx, number, primary_key)
            if not _is_same(found, expected):
                yield KeyDifference(store, primary_key, found, expected)
        for primary_key in self.snapshot.listed_keys(number):
            found = found_state(tx, number, primary_key)
            if found is not None and found.heads and not self.scratch.has_state(number, primary_key):
                yield KeyDifference(store, primary_key, found, found._replace(heads=()))

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
    found = session_meta(tx, expected.session_id)
    if found is None or not is_listed(tx, found):
        return False
    return found.created_at_ms <= expected.created_at_ms and found.updated_at_ms >= expected.updated_at_ms


def found_state(tx: JournalTransaction, store: int, primary_key: str) -> KeyState | None:
    """Return the state of a key, :obj:`None` where it is missing or damaged."""
    try:
        return tx.key_state(store, primary_key)
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
    """Entries of a snapshot; read models, states of keys and texts of a temporary database."""

    def __init__(self, snapshot: ReplaySource, connection: sqlite3.Connection) -> None:
        super().__init__(snapshot.registry, connection, path=Path("replay"), read_only=False, stores={})
        self.source = snapshot.tx
        self.connection = connection
        self._replayed_texts: dict[tuple[int, bytes], IndexedText | None] = {}

    def store_number(self, name: str) -> int:
        """Return the number the snapshot has for a store."""
        return self.source.store_number(name)

    def store_name(self, number: int) -> str:
        """Return the name the snapshot has for a store."""
        return self.source.store_name(number)

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

    # -- keys ----------------------------------------------------------------------------------------------
    def written_states(self, store: int) -> Iterator[tuple[str, KeyState]]:
        """Iterate over the keys that have entries, and what these give."""
        query = "SELECT primary_key, state FROM key_state WHERE store = ? ORDER BY primary_key"
        return ((key, decode_state(data)) for key, data in self.connection.execute(query, (store,)))

    def has_state(self, store: int, primary_key: str) -> bool:
        """Tell whether a key has entries."""
        query = "SELECT 1 FROM key_state WHERE store = ? AND primary_key = ?"
        return self.connection.execute(query, (store, primary_key)).fetchone() is not None

    # -- texts ---------------------------------------------------------------------------------------------
    def put_text(self, store: int, entry_id: bytes, scope: str, text: str | None) -> None:
        """Note the text an entry would be found by."""
        noted = None if text is None else IndexedText(entry_id, text, scope)
        self._set(self._replayed_texts, (store, entry_id), noted)

    def flush(self) -> None:
        """Write what is still kept in Python."""
        super().flush()
        for (store, entry_id), noted in self._replayed_texts.items():
            self.connection.execute("DELETE FROM replayed_text WHERE store = ? AND id = ?", (store, entry_id))
            if noted is not None:
                self.connection.execute("INSERT INTO replayed_text VALUES (?, ?, ?, ?)", (store, *noted))

    def expected_text(self, store: int, entry_id: bytes) -> IndexedText | None:
        """Return the text an entry would be found by."""
        query = "SELECT id, text, scope FROM replayed_text WHERE store = ? AND id = ?"
        row = self.connection.execute(query, (store, entry_id)).fetchone()
        return None if row is None else IndexedText._make(row)

    def expected_texts(self, store: int) -> Iterator[IndexedText]:
        """Iterate over the texts entries would be found by."""
        query = "SELECT id, text, scope FROM replayed_text WHERE store = ? ORDER BY id"
        return map(IndexedText._make, self.connection.execute(query, (store,)))


_TEXT_TABLE: Final = """
CREATE TABLE replayed_text (
    store INTEGER NOT NULL, id BLOB NOT NULL, text TEXT NOT NULL, scope TEXT NOT NULL, PRIMARY KEY (store, id)
) WITHOUT ROWID
"""


@contextmanager
def replayed(snapshot: ReplaySource, progress: Progress | None = None) -> Iterator[Replay]:
    """
    Replay all entries of the stores that are known; of others only the heads of their keys, which need no more.

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
        connection.execute(_TEXT_TABLE)
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
        if schema is None:
            _note_heads(replay, members, tx)
        else:
            versions = _versions(replay, schema, members, tx)
            usable = [row for row in members if not row.keyed or row.id in versions]
            apply_rows(tx, schema, usable, versions)
    tx.flush()


def _note_heads(replay: Replay, rows: Sequence[EntryRow], tx: ReplayTransaction) -> None:
    for row in rows:
        if row.keyed:
            try:
                # Which of them are deletions only the application knows; heads do not depend on it.
                version = version_of(row.id, row.event, decode_payload(row.payload), is_deletion=False)
            except (MalformedMessageError, ValueError, TypeError) as error:
                replay.unreadable.append(UnreadableEntry(row, _unreadable(error)))
                continue
            state = with_version(tx.key_state(row.store, row.primary_key) or NO_STATE, version)
            tx.put_key_state(row.store, row.primary_key, state)


def _unreadable(error: Exception) -> str:
    return f"its payload cannot be read ({type(error).__name__})"


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
                replay.unreadable.append(UnreadableEntry(row, _unreadable(error)))
    return versions


def read_model_digest(tx: JournalTransaction, stores: Sequence[str]) -> str:
    """Return SHA-256, in hexadecimal, over all rows of the stores' read models in key order."""
    digest = hashlib.sha256()
    for store in sorted(stores):
        start = pack_key(store)
        for key, value in tx.scan(start, prefix_end(start)):
            digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()
