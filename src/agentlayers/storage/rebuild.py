"""
Make read models again what the entries say, beside a running replica or without one.

Entries are replayed into a temporary database, and only rows that differ are written, each only if it is still what
was compared. That goes on until a replay shows no difference. So a healthy replica is not written to at all, a running
one may go on writing, and after a crash in the middle the next run does the rest.

Entries keep their places, so a rebuild starts no reaction anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from agentlayers.errors import StateError, StorageUnavailableError
from agentlayers.journal.conflict_policy import ConflictPolicy
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.journal_file import journal_files
from agentlayers.storage.replay import (
    IndexGap,
    KeyDifference,
    Replay,
    TextDifference,
    ValueDifference,
    found_state,
    read_model_digest,
    replayed,
)
from agentlayers.storage.replay_source import OpenJournalSource
from agentlayers.storage.replica_store import FurtherStore, has_index, open_replica_stores, replica_schemas
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.snapshot import JournalSnapshot, open_snapshot

__all__ = ["Rebuilt", "RebuiltFile", "rebuild", "rebuild_open"]

Progress = Callable[[int], None]
_Opened = Callable[[], AbstractContextManager[JournalSnapshot]]
_Change = ValueDifference | KeyDifference | TextDifference | IndexGap

_CHUNK: Final = 1000
"""Rows one transaction repairs, so that appends of a running replica never wait long."""

_ROUNDS_MAX: Final = 8

_CHANGES_MAX: Final = 100_000
"""Differences one round keeps in memory where they cannot be repaired while they are found."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """
    What became of a journal's read models.

    Attributes:
        entries: Entries that were replayed.
        before: Digest of the read models before.
        after: The same afterwards; equal if there was nothing to repair.
        repaired: Rows that were written or taken away.
        unreadable: Entries that could not be taken into account.
    """

    entries: int
    before: str
    after: str
    repaired: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class RebuiltFile(Rebuilt):
    """
    What became of one file.

    Attributes:
        path: The file.
        skipped: Stores that were left alone, because their events are not known here.
    """

    path: Path
    skipped: tuple[str, ...] = ()


async def rebuild(
    directory: Path,
    *,
    policy: ConflictPolicy | None = None,
    progress: Progress | None = None,
    further: Sequence[FurtherStore] = (),
) -> list[RebuiltFile]:
    """
    Rebuild the read models of every file of a replica.

    Args:
        directory: The replica's directory, or one journal file.
        policy: The one its application shows artifacts by; last write wins if not given.
        progress: Called with the number of entries of each step; several passes are possible.
        further: Stores that whoever asks knows beside those of this room; any other is left alone.

    Raises:
        StorageUnavailableError: There is no journal, it cannot be written, or differences come back as quickly as they
            are repaired.
        StorageCorruptionError: A file is damaged.
        MigrationError: A newer release wrote a file.
    """
    return [await _rebuild_file(path, policy, progress, further) for path in journal_files(directory)]


async def rebuild_open(journal: EventJournal, *, progress: Progress | None = None) -> Rebuilt:
    """
    Rebuild the read models of all open stores of a journal, those an application declares included.

    The stores stay open and may go on writing. A file can be of any size; of a journal that is no SQLite file, the
    differences have to fit into memory.

    Args:
        journal: Open, with the stores registered.
        progress: Called with the number of entries of each step; several passes are possible.

    Raises:
        StateError: The journal is not open.
        StorageUnavailableError: It cannot be read or written, or differences come back as quickly as they are repaired.
        StorageCorruptionError: It is damaged.
    """
    registered = await journal.read(lambda tx: dict(tx.registry.schemas))
    path = journal.path if isinstance(journal, SQLiteJournal) else None
    with_index = path is None or has_index(path)
    schemas = _schemas_for_replay(registered, with_index=with_index)
    index = SessionIndexStore(journal) if with_index else None
    if path is None:
        return await _rebuild_in_reads(journal, schemas, index, progress)
    opened = partial(open_snapshot, path, schemas=schemas)
    before = await asyncio.to_thread(_digest, opened)
    return await _rebuild_by_rounds(journal, opened, before, index, progress)


def _schemas_for_replay(registered: Mapping[str, StoreSchema], *, with_index: bool) -> dict[str, StoreSchema]:
    # The built-in stores as tools replay them: what an open artifact store notes in the session index depends on more
    # than its entries.
    shown = registered.get(ArtifactStore.name)
    known = replica_schemas(None if shown is None else shown.policy, with_index=with_index)
    return {name: known.get(name, schema) for name, schema in registered.items()}


async def _rebuild_file(
    path: Path, policy: ConflictPolicy | None, progress: Progress | None, further: Sequence[FurtherStore]
) -> RebuiltFile:
    opened = partial(open_snapshot, path, policy=policy, further=further)
    with opened() as snapshot:
        before = await asyncio.to_thread(_digest, opened)
        names, skipped = snapshot.known_stores, snapshot.unknown_stores
    if not names:
        return RebuiltFile(0, before, before, 0, 0, path, skipped)
    opening = open_replica_stores(path, policy=policy, stores=names, further=further)
    async with opening as (journal, _stores, index):
        done = await _rebuild_by_rounds(journal, opened, before, index, progress)
    return RebuiltFile(done.entries, done.before, done.after, done.repaired, done.unreadable, path, skipped)


async def _rebuild_by_rounds(
    journal: EventJournal,
    opened: _Opened,
    before: str,
    index: SessionIndexStore | None,
    progress: Progress | None,
) -> Rebuilt:
    repaired = 0
    for _round in range(_ROUNDS_MAX):
        one = _Round(opened, journal, index, asyncio.get_running_loop(), progress)
        try:
            await asyncio.to_thread(one.run)
        finally:
            one.is_stopped = True
        repaired += one.repaired
        if one.is_clean:
            after = await asyncio.to_thread(_digest, opened)
            return Rebuilt(one.entries, before, after, repaired, one.unreadable)
    raise _not_settled()


async def _rebuild_in_reads(
    journal: EventJournal,
    schemas: Mapping[str, StoreSchema],
    index: SessionIndexStore | None,
    progress: Progress | None,
) -> Rebuilt:
    def look(tx: JournalTransaction) -> tuple[list[_Change], list[_Change], Replay, str]:
        source = OpenJournalSource(tx, schemas, has_index=index is not None)
        with replayed(source, progress) as replay:
            differences: list[_Change] = list(islice(replay.differences(), _CHANGES_MAX))
            gaps: list[_Change] = list(islice(replay.index_gaps(), _CHANGES_MAX))
        return differences, gaps, replay, read_model_digest(tx, source.known_stores)

    before, repaired = None, 0
    for _round in range(_ROUNDS_MAX):
        differences, gaps, replay, digest = await journal.read(look)
        before = before or digest
        for chunk in _chunks([*differences, *gaps]):
            repaired += await journal.transact(partial(_apply, index=index, chunk=chunk))
        if not differences:
            return Rebuilt(replay.entries, before, digest, repaired, len(replay.unreadable))
    raise _not_settled()


def _not_settled() -> StorageUnavailableError:
    reason = (
        "differences come back as they are repaired; say which conflict policy the running application has, or stop it"
    )
    return StorageUnavailableError(backend="journal", operation="rebuild", reason=reason)


def _digest(opened: _Opened) -> str:
    with opened() as snapshot:
        return read_model_digest(snapshot.tx, snapshot.known_stores)


class _Round:
    """One replay and the repair of what it showed; runs in a thread of its own."""

    def __init__(
        self,
        opened: _Opened,
        journal: EventJournal,
        index: SessionIndexStore | None,
        loop: asyncio.AbstractEventLoop,
        progress: Progress | None,
    ) -> None:
        self.opened, self.journal, self.index, self.loop = opened, journal, index, loop
        self.progress = progress
        self.repaired, self.entries, self.unreadable = 0, 0, 0
        self.is_clean = True
        self.is_stopped = False

    def run(self) -> None:
        """Replay and repair; :attr:`is_clean` says whether there was nothing to do."""
        with self.opened() as snapshot, replayed(snapshot, self._advance) as replay:
            self.entries, self.unreadable = replay.entries, len(replay.unreadable)
            for differences in _chunks(replay.differences()):
                self.is_clean = False
                self._repair(differences)
            # Not all applications keep the index, so a gap in it may open again and does not ask for another round.
            for gaps in _chunks(replay.index_gaps()):
                self._repair(gaps)

    def _repair(self, chunk: Sequence[_Change]) -> None:
        work = partial(_apply, index=self.index, chunk=chunk)
        self.repaired += asyncio.run_coroutine_threadsafe(self.journal.transact(work), self.loop).result()

    def _advance(self, count: int) -> None:
        if self.is_stopped:
            # Whoever waited for this thread was cancelled; there is nobody left to repair for.
            raise StateError("the rebuild was cancelled")
        if self.progress is not None:
            self.progress(count)


def _chunks(changes: Iterable[_Change]) -> Iterator[Sequence[_Change]]:
    remaining = iter(changes)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _apply(tx: JournalTransaction, *, index: SessionIndexStore | None, chunk: Sequence[_Change]) -> int:
    return sum(_repair_one(tx, index, change) for change in chunk)


def _repair_one(tx: JournalTransaction, index: SessionIndexStore | None, change: _Change) -> bool:
    # A running replica may have written the row since; then it is left to the next round.
    if isinstance(change, ValueDifference):
        if tx.get(change.key) != change.found:
            return False
        if change.expected is None:
            tx.delete(change.key)
        else:
            tx.put(change.key, change.expected)
        return True
    if isinstance(change, KeyDifference):
        number = tx.store_number(change.store)
        if found_state(tx, number, change.primary_key) != change.found:
            return False
        tx.put_key_state(number, change.primary_key, change.expected)
        return True
    if isinstance(change, TextDifference):
        # What it is found by now cannot be told in a transaction that writes; the next round sees if it was changed.
        text = change.expected
        tx.put_text(
            tx.store_number(change.store), change.entry_id, text.scope if text else "", text.text if text else None
        )
        return True
    if index is None:
        return False
    index.restore_in(tx, change.expected, holder=change.store)
    return True
