"""
The one thread that writes to a journal file: group commit.

What is queued when a commit begins shares it (one fsync), each piece of work in its own savepoint. Results
and the news of the commit reach the event loop in one call per batch, in commit order.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agentlayers.errors import StateError
from agentlayers.journal.event_journal import Commit
from agentlayers.journal.queued_work import QueuedWork
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.journal.sqlite.transaction import SQLiteTransaction, Tail
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import COMMIT_BATCH_MAX, FOREIGN_COMMIT_POLL_SECONDS
from agentlayers.sqlite_file import DRIVER_ERRORS, Durability
from agentlayers.sqlite_log_room import LogRoom

__all__ = ["WriterThread"]

T = TypeVar("T")


class WriterThread:
    """Owns the writing connection; everything but :meth:`_run` and below belongs to the event loop."""

    def __init__(
        self,
        path: Path,
        registry: JournalRegistry,
        publish: Callable[[Commit], None],
        *,
        is_followed: Callable[[], bool],
        durability: Durability,
    ) -> None:
        self._path, self._registry, self._publish = path, registry, publish
        self._is_followed, self._durability = is_followed, durability
        self._queue: queue.SimpleQueue[QueuedWork | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._stores: dict[str, int] = {}
        self._last_position = 0
        self._data_version = 0
        self._tail = Tail(None, None)
        self._has_foreign_news = False

    async def start(self) -> None:
        """Open the file in the thread; raises what opening raises."""
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"journal {self._path.name}", daemon=True)
        self._thread.start()
        await self._started

    async def stop(self) -> None:
        """Finish what is queued, close the file, end the thread."""
        if not self._is_stopping:
            self._is_stopping = True
            self._queue.put(None)
        await self._stopped
        self._thread.join()

    def submit(self, work: Callable[[JournalTransaction], T]) -> asyncio.Future[T]:
        """Queue a transaction; the future is done when it is durable or undone."""
        return self._put(work, is_transaction=True)

    def maintain(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queue something that runs between transactions, such as giving space back."""
        return self._put(work, is_transaction=False)

    def _put(self, work: Callable[[Any], Any], *, is_transaction: bool) -> asyncio.Future[Any]:
        if self._is_stopping:
            raise StateError("the journal is closing")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(QueuedWork(work, future, is_transaction))
        return future

    def nudge(self) -> None:
        """Look for other processes' commits from now on, because somebody follows."""
        if not self._is_stopping:
            self.maintain(lambda _connection: None)

    # -- in the thread -------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            self._connection = JOURNAL_FORMAT.open(self._path, durability=self._durability)
            # What is there at the start is no news, and need not be looked through at the first commit.
            (last,) = self._connection.execute("SELECT max(position) FROM entry").fetchone()
            self._last_position = last or 0
        except BaseException as error:  # noqa: BLE001  # handed to whoever awaits the start
            self._call(_fail, self._started, error)
            self._call(_succeed, self._stopped)
            return
        self._room = LogRoom(self._connection, self._path, pages=JOURNAL_FORMAT.checkpoint_pages)
        self._call(_succeed, self._started)
        try:
            self._serve()
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._call(_succeed, self._stopped)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        # The loop may be gone when a program ends without closing its journal.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _serve(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=FOREIGN_COMMIT_POLL_SECONDS if self._is_followed() else None)
            except queue.Empty:
                self._look_for_foreign()
                continue
            batch: list[QueuedWork] = []
            while job is not None and job.is_transaction:
                batch.append(job)
                if len(batch) >= COMMIT_BATCH_MAX or self._queue.empty():
                    break
                job = self._queue.get()
            if batch:
                self._commit(batch)
            if job is None:
                return
            if not job.is_transaction:
                self._maintain(job)

    def _maintain(self, job: QueuedWork) -> None:
        try:
            with JOURNAL_FORMAT.translated("maintain", self._path):
                job.value = job.work(self._connection)
        except BaseException as error:  # noqa: BLE001  # handed to whoever awaits it
            job.error = error
        self._call(job.settle)
        self._look_for_foreign()

    def _commit(self, batch: list[QueuedWork]) -> None:
        commit = None
        stores = dict(self._stores)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            tx = SQLiteTransaction(self._registry, self._connection, path=self._path, read_only=False, stores=stores)
            if self._was_written_by_others():
                self._registry.load_replica_id(tx)
                self._work_each(tx, batch)
            else:
                tx.resume(self._tail)
                (self._work_alone if len(batch) == 1 else self._work_each)(tx, batch)
            tx.flush()
            commit = self._news(tx)
            self._connection.execute("COMMIT")
            self._stores, self._tail = stores, tx.tail()
            if commit is not None:
                self._last_position, self._has_foreign_news = commit.last_position, False
        except BaseException as error:  # noqa: BLE001  # every caller of the batch is told
            commit = None
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            self._fail_all(batch, error)
        self._call(self._deliver, batch, commit)
        if self._has_foreign_news:
            self._look_for_foreign()
        self._room.after_commit()

    def _fail_all(self, batch: list[QueuedWork], error: BaseException) -> None:
        if isinstance(error, DRIVER_ERRORS):
            translated = JOURNAL_FORMAT.error(error, operation="write", path=self._path)
            translated.__cause__ = error
            error = translated
        for job in batch:
            job.error = job.error or error
        if _is_full(error):
            # What the log holds takes less room in the file, and then the log starts over: the next may fit.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _was_written_by_others(self) -> bool:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return False
        self._data_version = version
        self._tail = Tail(None, None)
        self._has_foreign_news = True
        return True

    def _work_alone(self, tx: SQLiteTransaction, batch: list[QueuedWork]) -> None:
        # Undone with the whole transaction if it fails, so it needs no savepoint.
        (job,) = batch
        if not job.future.cancelled():
            try:
                job.value = job.work(tx)
            except BaseException as error:
                job.error = error
                raise

    def _work_each(self, tx: SQLiteTransaction, batch: list[QueuedWork]) -> None:
        for job in batch:
            if job.future.cancelled():
                continue
            stores = tx.written_stores.copy()
            savepoint = tx.open_savepoint()
            try:
                job.value = job.work(tx)
            except BaseException as error:
                job.error = error
                if not self._connection.in_transaction:
                    # SQLite has given the whole transaction up, as it does on a full disk.
                    raise
                tx.rollback_savepoint(savepoint)
                tx.written_stores = stores
            else:
                tx.release_savepoint(savepoint)

    def _news(self, tx: SQLiteTransaction) -> Commit | None:
        if not tx.written_stores:
            return None
        last = tx.next_position() - 1
        commit = Commit(frozenset(tx.written_stores), last, frozenset(tx.sources))
        if last - tx.rows_added > self._last_position:
            # Since our last commit another process has added entries.
            commit = self._commit_between(self._last_position, last)
        return commit

    def _commit_between(self, after: int, last: int) -> Commit:
        query = (
            "SELECT DISTINCT store.name, entry.outbound, remote.remote_id FROM entry "
            "JOIN store ON store.number = entry.store LEFT JOIN remote ON remote.number = entry.origin "
            "WHERE entry.position > ? AND entry.position <= ?"
        )
        found = self._connection.execute(query, (after, last)).fetchall()
        sources = {(name, b"" if outbound else remote) for name, outbound, remote in found if outbound or remote}
        return Commit(frozenset(name for name, _, _ in found), last, frozenset(sources))

    def _look_for_foreign(self) -> None:
        try:
            if self._was_written_by_others() or self._has_foreign_news:
                self._publish_foreign()
        except sqlite3.Error:
            # Looked at again in a moment; whoever writes or reads is told what is wrong.
            return

    def _publish_foreign(self) -> None:
        # Positions tell what is news, so a second look publishes nothing twice.
        (last,) = self._connection.execute("SELECT max(position) FROM entry").fetchone()
        if last is not None and last > self._last_position:
            commit = self._commit_between(self._last_position, last)
            self._last_position = last
            self._call(self._publish, commit)
        self._has_foreign_news = False

    def _deliver(self, batch: list[QueuedWork], commit: Commit | None) -> None:
        for job in batch:
            job.settle()
        if commit is not None:
            self._publish(commit)


def _is_full(error: BaseException) -> bool:
    return getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
