"""
The one thread that writes a server's SQLite file: all appends that are waiting share a commit.

The thread owns the connection and what is cached of the journals. It knows nothing of the event loop but
the function it hands its results to.
"""

from __future__ import annotations

import functools
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentlayers.limits import COMMIT_BATCH_MAX
from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry
from agentlayers.protocol.sequence_digest import extend_digest
from agentlayers.server.sqlite_digest import digest_below
from agentlayers.server.sqlite_file import POSITION_BITS, SERVER_FORMAT
from agentlayers.server.storage import Appended
from agentlayers.sqlite_file import transaction
from agentlayers.sqlite_log_room import LogRoom

__all__ = ["AppendJob", "CallJob", "Outcome", "SQLiteWriter"]

_ROWS_PER_STATEMENT: Final = (512, 128)
"""Row counts with a prepared statement of their own; a remainder below the last has one for each count."""

_COLUMNS: Final = 6
_IDS_PER_LOOKUP: Final = 512
_JOURNALS_MAX: Final = 16_384
"""Journals whose end is remembered; whoever may write can make any number of them."""
_GROUP_BYTES_MAX: Final = 16 * 1024 * 1024
_SEQUENCE_MASK: Final = (1 << POSITION_BITS) - 1


@dataclass(slots=True)
class AppendJob:
    """Entries to append, and whom to tell."""

    tenant: str
    public_key: str
    entries: Sequence[EncryptedEntry]
    waiter: Any


@dataclass(slots=True)
class CallJob:
    """
    A function to run on the writer's connection in a transaction of its own.

    Attributes:
        operation: For error texts.
        call: The function.
        waiter: Whom to tell.
        changes_journals: What the writer remembers of the journals has to be read again.
    """

    operation: str
    call: Callable[[sqlite3.Connection], Any]
    waiter: Any
    changes_journals: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of a job: a value or an error."""

    waiter: Any
    value: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Journal:
    journal: int
    head: int
    digest: bytes | None
    """Of everything below the head; None while rows of an older release have none."""

    @property
    def base(self) -> int:
        return self.journal << POSITION_BITS


@dataclass(slots=True)
class _Plan:
    """Rows of one transaction and what each job will be told, if it commits."""

    rows: list[Any] = field(default_factory=list)
    appended: list[Appended] = field(default_factory=list)
    ends: dict[tuple[str, str], tuple[int, bytes | None]] = field(default_factory=dict)
    """Head and digest of each journal once these rows are in it."""

    def end(self, key: tuple[str, str], journal: _Journal) -> int:
        """Return the first sequence behind the rows planned so far."""
        return self.ends.setdefault(key, (journal.head, journal.digest))[0]

    def add(self, key: tuple[str, str], journal: _Journal, fresh: Sequence[EncryptedEntry]) -> None:
        first, last = self.ends[key]
        digests: Sequence[bytes | None] = [None] * len(fresh)
        if last is not None:
            digests = extend_digest(last, first, [entry.entry_id for entry in fresh])
        position = journal.base + first
        rows = self.rows
        for (entry_id, iv, ciphertext), digest in zip(fresh, digests, strict=True):
            rows += (position, journal.journal, entry_id, iv, ciphertext, digest)
            position += 1
        if fresh:
            self.ends[key] = (first + len(fresh), digests[-1])


class SQLiteWriter:
    """
    A thread that appends in groups.

    Args:
        path: The file; it exists.
        deliver: Called in the thread with the outcomes of one commit, in commit order.
    """

    def __init__(self, path: Path, *, deliver: Callable[[list[Outcome]], None]) -> None:
        self._path = path
        self._deliver = deliver
        self._jobs: queue.SimpleQueue[AppendJob | CallJob | None] = queue.SimpleQueue()
        self._journals: dict[tuple[str, str], _Journal] = {}
        self._thread = threading.Thread(target=self._run, name="server-sqlite-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; the first outcome, with the waiter :obj:`None`, says whether the file opened."""
        self._thread.start()

    def submit(self, job: AppendJob | CallJob) -> None:
        """Queue a job; jobs are done in this order."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Ask the thread to end once everything queued is done."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    # -- the thread ---------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            connection = self._connection = SERVER_FORMAT.open(self._path)
        except BaseException as error:  # noqa: BLE001 - handed to whoever opens the storage
            self._deliver([Outcome(None, error=error)])
            return
        self._deliver([Outcome(None)])
        self._room = LogRoom(connection, self._path, pages=SERVER_FORMAT.checkpoint_pages)
        try:
            self._serve()
        finally:
            connection.close()

    def _serve(self) -> None:
        running = True
        while running:
            job = self._jobs.get()
            while job is not None and isinstance(job, CallJob):
                self._deliver([self._call(job)])
                job = self._jobs.get()
            if job is None:
                return
            group, carried, running = self._group(job)
            self._deliver(self._append_group(group))
            self._room.after_commit()
            if carried is not None:
                self._deliver([self._call(carried)])

    def _group(self, first: AppendJob) -> tuple[list[AppendJob], CallJob | None, bool]:
        """Collect the appends that are waiting already: they share one commit."""
        group = [first]
        size = sum(len(entry.ciphertext) for entry in first.entries)
        while len(group) < COMMIT_BATCH_MAX and size < _GROUP_BYTES_MAX:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return group, None, False
            if isinstance(job, CallJob):
                return group, job, True
            group.append(job)
            size += sum(len(entry.ciphertext) for entry in job.entries)
        return group, None, True

    def _call(self, job: CallJob) -> Outcome:
        try:
            with SERVER_FORMAT.translated(job.operation, self._path), transaction(self._connection):
                value = job.call(self._connection)
            if job.changes_journals:
                self._journals.clear()
        except Exception as error:  # noqa: BLE001 - handed to the caller
            return Outcome(job.waiter, error=error)
        return Outcome(job.waiter, value)

    def _append_group(self, group: list[AppendJob]) -> list[Outcome]:
        try:
            with SERVER_FORMAT.translated("append", self._path):
                appended = self._append(group)
        except Exception as error:  # noqa: BLE001 - handed to every caller of the group
            # What was cached may have been rolled back.
            self._journals.clear()
            return [Outcome(job.waiter, error=error) for job in group]
        return [Outcome(job.waiter, value) for job, value in zip(group, appended, strict=True)]

    def _append(self, group: list[AppendJob]) -> list[Appended]:
        self._open_journals(group)
        plan = self._plan_all_new(group)
        try:
            self._commit(plan)
        except sqlite3.IntegrityError:
            # Something was there already. That is rare, so it is found out by the unique index and not
            # by a look-up before every insert.
            self._journals.clear()
            with transaction(self._connection):
                plan = self._plan_with_duplicates(group)
                self._insert(plan.rows)
        for key, (head, digest) in plan.ends.items():
            self._journals[key].head, self._journals[key].digest = head, digest
        return plan.appended

    def _commit(self, plan: _Plan) -> None:
        count = len(plan.rows) // _COLUMNS
        if count in _ROWS_PER_STATEMENT or count < _ROWS_PER_STATEMENT[-1]:
            # One statement is a transaction by itself, in a single step.
            self._insert(plan.rows)
            return
        with transaction(self._connection):
            self._insert(plan.rows)

    def _plan_all_new(self, group: list[AppendJob]) -> _Plan:
        plan = _Plan()
        for job in group:
            key = (job.tenant, job.public_key)
            journal = self._journals[key]
            plan.appended.append(_appended(plan.end(key, journal), job.entries))
            plan.add(key, journal, job.entries)
        return plan

    def _plan_with_duplicates(self, group: list[AppendJob]) -> _Plan:
        plan = _Plan()
        known: dict[tuple[str, str], dict[bytes, int]] = {}
        for job in group:
            key = (job.tenant, job.public_key)
            journal = self._open_journal(*key)
            sequence_of = known.setdefault(key, {})
            sequence_of |= self._look_up(journal, [entry.entry_id for entry in job.entries])
            first = head = plan.end(key, journal)
            fresh: list[EncryptedEntry] = []
            sequences: list[int] = []
            for entry in job.entries:
                sequence = sequence_of.setdefault(entry.entry_id, head)
                if sequence == head:
                    fresh.append(entry)
                    head += 1
                sequences.append(sequence)
            plan.add(key, journal, fresh)
            new = _appended(first, fresh).new
            plan.appended.append(Appended(tuple(sequences), new))
        return plan

    def _insert(self, rows: list[Any]) -> None:
        start = 0
        for count in _ROWS_PER_STATEMENT:
            while len(rows) - start >= _COLUMNS * count:
                end = start + _COLUMNS * count
                self._connection.execute(_insert_sql(count), rows[start:end])
                start = end
        if start < len(rows):
            rest = rows[start:]
            self._connection.execute(_insert_sql(len(rest) // _COLUMNS), rest)

    def _open_journals(self, group: list[AppendJob]) -> None:
        """Know where the journals of a group end; new ones share a commit, so that a flood of them delays nobody."""
        if len(self._journals) > _JOURNALS_MAX:
            self._journals.clear()
        unopened = [job for job in group if (job.tenant, job.public_key) not in self._journals]
        if len(unopened) == 1:
            self._open_journal(unopened[0].tenant, unopened[0].public_key)
        elif unopened:
            with transaction(self._connection):
                for job in unopened:
                    self._open_journal(job.tenant, job.public_key)

    def _open_journal(self, tenant: str, public_key: str) -> _Journal:
        key = (tenant, public_key)
        journal = self._journals.get(key)
        if journal is not None:
            return journal
        select = "SELECT journal FROM journals WHERE tenant = ? AND public_key = ?"
        row = self._connection.execute(select, key).fetchone()
        if row is None:
            self._connection.execute("INSERT INTO journals (tenant, public_key) VALUES (?, ?)", key)
            row = self._connection.execute(select, key).fetchone()
        base = row[0] << POSITION_BITS
        (last,) = self._connection.execute(
            "SELECT max(position) FROM entries WHERE position BETWEEN ? AND ?",
            (base, base | _SEQUENCE_MASK),
        ).fetchone()
        head = 0 if last is None else (last & _SEQUENCE_MASK) + 1
        journal = _Journal(row[0], head, digest_below(self._connection, base, head))
        self._journals[key] = journal
        return journal

    def _look_up(self, journal: _Journal, entry_ids: Sequence[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for start in range(0, len(entry_ids), _IDS_PER_LOOKUP):
            some = entry_ids[start : start + _IDS_PER_LOOKUP]
            marks = ",".join("?" * len(some))
            (text,) = self._connection.execute(
                "SELECT group_concat(hex(entry_id) || ' ' || position) FROM entries"
                f" WHERE journal = ? AND entry_id IN ({marks})",
                (journal.journal, *some),
            ).fetchone()
            for pair in text.split(",") if text else ():
                entry_id, position = pair.split(" ")
                found[bytes.fromhex(entry_id)] = int(position) & _SEQUENCE_MASK
        return found


def _appended(first: int, entries: Sequence[EncryptedEntry]) -> Appended:
    sequences = range(first, first + len(entries))
    new = tuple(
        RemoteEncryptedEntry(sequence, iv, entry_id, ciphertext)
        for sequence, (entry_id, iv, ciphertext) in zip(sequences, entries, strict=True)
    )
    return Appended(tuple(sequences), new)


@functools.cache
def _insert_sql(count: int) -> str:
    values = ",".join(["(?,?,?,?,?,?)"] * count)
    return f"INSERT INTO entries (position, journal, entry_id, iv, ciphertext, digest) VALUES {values}"
