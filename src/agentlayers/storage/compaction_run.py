"""Compact the stores of a replica from outside its application, or tell what that would do."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from agentlayers.journal.compaction import CompactionReport, CompactionStrategy
from agentlayers.journal.conflict_policy import ConflictPolicy
from agentlayers.journal.retention import Selection
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.journal_file import journal_files, open_journal_file
from agentlayers.storage.replica_store import FurtherStore, open_replica_stores
from agentlayers.storage.snapshot import JournalSnapshot, open_snapshot

__all__ = ["CompactedFile", "compact_replica", "only_here"]


@dataclass(frozen=True, slots=True)
class CompactedFile:
    """
    What became of one file.

    Attributes:
        path: The file.
        stores: What was done, by store.
        bytes_before: Size of the file and of what was not yet moved into it.
        bytes_after: The same afterwards.
        skipped: Stores that were left alone though they were meant, with the reason.
    """

    path: Path
    stores: dict[str, CompactionReport]
    bytes_before: int
    bytes_after: int
    skipped: dict[str, str]


async def compact_replica(
    directory: Path,
    strategy: CompactionStrategy,
    *,
    stores: Collection[str] | None = None,
    policy: ConflictPolicy | None = None,
    dry_run: bool = False,
    progress: Callable[[str], None] | None = None,
    further: Sequence[FurtherStore] = (),
) -> list[CompactedFile]:
    """
    Drop what a strategy does not keep, with its part of the read models, from every file of a replica.

    What a current remote has not acknowledged stays. Runs in bounded steps, so a running replica goes on.

    Args:
        directory: The replica's directory, or one journal file.
        strategy: What to keep.
        stores: Only these stores; all if not given.
        policy: The one its application shows artifacts by; last write wins if not given.
        dry_run: Do it to a temporary copy, which takes as much room as the file, and leave the replica as it is.
        progress: Called with the name of each store when its turn comes.
        further: Stores that whoever asks knows beside those of this room; any other is left alone.

    Raises:
        StorageUnavailableError: There is no journal, it cannot be written, or there is no room for the copy.
        StorageCorruptionError: A file is damaged.
        MigrationError: A newer release wrote a file.
    """
    done = []
    for path in journal_files(directory):
        chosen, skipped = _chosen(path, stores, further)
        reports: dict[str, CompactionReport] = {}
        async with _target(path, dry_run=dry_run) as target:
            before = _bytes(target)
            if chosen:
                # The audit log is open as well, and comes last, because it records what was compacted.
                opening = {*chosen, AuditEventStore.name}
                async with open_replica_stores(target, policy=policy, stores=opening, further=further) as (
                    journal, opened, _index,
                ):  # fmt: skip
                    for name in sorted(opened, key=lambda name: name == AuditEventStore.name):
                        if name in chosen:
                            if progress is not None:
                                progress(name)
                            reports[name] = await journal.compact(name, strategy)
            if reports or skipped:
                done.append(CompactedFile(path, reports, before, _bytes(target), skipped))
    return done


def only_here(
    directory: Path,
    strategy: CompactionStrategy,
    *,
    stores: Collection[str] | None = None,
    further: Sequence[FurtherStore] = (),
) -> dict[str, int]:
    """
    Count what a strategy does not keep and no server has, of each store that never met one.

    A server that was met either has an entry or holds it back; one that an application is configured for and that was
    never reached is not known to the file. What is still needed, by a reaction say, is counted though it stays.

    Args:
        directory: The replica's directory, or one journal file.
        strategy: What to keep.
        stores: Only these stores; all if not given.
        further: Stores that whoever asks knows beside those of this room.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: A file is damaged.
        MigrationError: A newer release wrote a file.
    """
    found: dict[str, int] = {}
    for path in journal_files(directory):
        chosen, _skipped = _chosen(path, stores, further)
        with open_snapshot(path, further=further) as snapshot:
            for name in snapshot.known_stores:
                if name in chosen and not snapshot.tx.remotes(name):
                    found[name] = found.get(name, 0) + _not_kept(snapshot, name, strategy)
    return {name: count for name, count in found.items() if count}


def _not_kept(snapshot: JournalSnapshot, store: str, strategy: CompactionStrategy) -> int:
    """Count the entries written here, and meant for servers, that a strategy does not keep."""
    selection = Selection(snapshot.registry.schema(store), strategy.selector)
    count = 0
    while not selection.is_done:
        count += sum(row.outbound for row in snapshot.tx.rows_at(selection.advance(snapshot.tx)))
    return count


def _chosen(
    path: Path, stores: Collection[str] | None, further: Sequence[FurtherStore]
) -> tuple[set[str], dict[str, str]]:
    """Return which stores of a file are compacted, and why others that were meant are not."""
    with open_snapshot(path, further=further) as snapshot:
        known, unknown = snapshot.known_stores, snapshot.unknown_stores
    kept = {store.name: store.kept_whole for store in further if store.kept_whole}
    meant = {name for name in (*known, *unknown) if stores is None or name in stores}
    skipped = {name: kept[name] for name in known if name in meant and name in kept}
    skipped |= {name: "its events are not known here" for name in unknown if name in meant}
    return meant - skipped.keys(), skipped


def _bytes(path: Path) -> int:
    wal = path.with_name(path.name + "-wal")
    return path.stat().st_size + (wal.stat().st_size if wal.is_file() else 0)


@asynccontextmanager
async def _target(path: Path, *, dry_run: bool) -> AsyncIterator[Path]:
    if not dry_run:
        yield path
        return
    with JOURNAL_FORMAT.translated("copy", path):
        directory = Path(tempfile.mkdtemp(prefix="agentlayers-"))
    try:
        copy = directory / path.name
        with (
            JOURNAL_FORMAT.translated("copy", path),
            closing(open_journal_file(path)) as source,
            closing(sqlite3.connect(copy)) as to,
        ):
            source.backup(to)
        yield copy
    finally:
        shutil.rmtree(directory, ignore_errors=True)
