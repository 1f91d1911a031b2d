"""
Make read models again what the entries say, beside a running replica or without one.

Entries are replayed into a temporary database, and only rows that differ are written, each only if it is still what
was compared. That goes on until a replay shows no difference. So a healthy replica is not written to at all, a running
one may go on writing, and after a crash in the middle the next run does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from agentlayers.errors import StateError, StorageUnavailableError
from agentlayers.journal.conflict_policy import ConflictPolicy
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.storage.journal_file import journal_files
from agentlayers.storage.replay import (
    IndexGap,
    KeyDifference,
    ValueDifference,
    found_state,
    read_model_digest,
    replayed,
)
from agentlayers.storage.replica_store import open_replica_stores
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.snapshot import open_snapshot

__all__ = ["RebuiltFile", "rebuild"]

Progress = Callable[[int], None]
_Change = ValueDifference | KeyDifference | IndexGap

_CHUNK: Final = 1000
"""Rows one transaction repairs, so that appends of a running replica never wait long."""

_ROUNDS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class RebuiltFile:
    """
    What became of one file.

    Attributes:
        path: The file.
        entries: Entries that were replayed.
        before: Digest of its read models before.
        after: The same afterwards; equal if there was nothing to repair.
        repaired: Rows that were written or taken away.
        unreadable: Entries that could not be taken into account.
    """

    path: Path
    entries: int
    before: str
    after: str
    repaired: int
    unreadable: int


async def rebuild(
    directory: Path, *, policy: ConflictPolicy | None = None, progress: Progress | None = None
) -> list[RebuiltFile]:
    """
    Rebuild the read models of every file of a replica.

    Args:
        directory: The replica's directory, or one journal file.
        policy: The one its application shows artifacts by; last write wins if not given.
        progress: Called with the number of entries of each step; several passes are possible.

    Raises:
        StorageUnavailableError: There is no journal, it cannot be written, or differences come back as quickly as they
            are repaired.
        StorageCorruptionError: A file is damaged.
        MigrationError: A newer release wrote a file.
    """
    return [await _rebuild_file(path, policy, progress) for path in journal_files(directory)]


async def _rebuild_file(path: Path, policy: ConflictPolicy | None, progress: Progress | None) -> RebuiltFile:
    with open_snapshot(path) as snapshot:
        before = await asyncio.to_thread(_digest, path)
        names = snapshot.known_stores
    if not names:
        return RebuiltFile(path, 0, before, before, 0, 0)
    repaired = 0
    async with open_replica_stores(path, policy=policy) as (journal, _stores, index):
        for _round in range(_ROUNDS_MAX):
            loop = asyncio.get_running_loop()
            one = _Round(path, journal, index, loop, policy, progress)
            try:
                await asyncio.to_thread(one.run)
            finally:
                one.is_stopped = True
            repaired += one.repaired
            if one.is_clean:
                after = await asyncio.to_thread(_digest, path)
                return RebuiltFile(path, one.entries, before, after, repaired, one.unreadable)
    reason = (
        "differences come back as they are repaired; say which conflict policy the running application has, or stop it"
    )
    raise StorageUnavailableError(backend="sqlite", operation="rebuild", path=path, reason=reason)


def _digest(path: Path) -> str:
    with open_snapshot(path) as snapshot:
        return read_model_digest(snapshot.tx, snapshot.known_stores)


class _Round:
    """One replay and the repair of what it showed; runs in a thread of its own."""

    def __init__(
        self,
        path: Path,
        journal: SQLiteJournal,
        index: SessionIndexStore | None,
        loop: asyncio.AbstractEventLoop,
        policy: ConflictPolicy | None,
        progress: Progress | None,
    ) -> None:
        self.path, self.journal, self.index, self.loop = path, journal, index, loop
        self.policy, self.progress = policy, progress
        self.repaired, self.entries, self.unreadable = 0, 0, 0
        self.is_clean = True
        self.is_stopped = False

    def run(self) -> None:
        """Replay and repair; :attr:`is_clean` says whether there was nothing to do."""
        with open_snapshot(self.path, policy=self.policy) as snapshot, replayed(snapshot, self._advance) as replay:
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
    if index is None:
        return False
    meta = change.expected
    index.touch_in(
        tx, meta.session_id, created_at_ms=meta.created_at_ms, updated_at_ms=meta.updated_at_ms, holder=change.store
    )
    return True
