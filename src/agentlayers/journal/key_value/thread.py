"""
The one thread that works on a journal in a key-value store: reads, and group commit.

What is queued when a commit begins shares it, as one batch of the store, each piece of work in a savepoint of its
own. Reads go in between and so see one state; results and the news of a commit reach the event loop together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from agentlayers.errors import StateError, StorageError
from agentlayers.journal.event_journal import Commit
from agentlayers.journal.key_value.committed import CommittedValues
from agentlayers.journal.key_value.fence import Fence, Owner
from agentlayers.journal.key_value.overlay import Overlay
from agentlayers.journal.key_value.ranges import Tail
from agentlayers.journal.key_value.transaction import KeyValueTransaction
from agentlayers.journal.queued_work import QueuedWork
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.blocking_store import BlockingKeyValueStore
from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.key_range import KeyRange
from agentlayers.limits import COMMIT_BATCH_MAX, KEY_VALUE_GROUP_BYTES_MAX

__all__ = ["JournalThread"]

T = TypeVar("T")


class JournalThread:
    """
    Owns an open journal; everything below :meth:`_run` happens in the thread.

    Args:
        store: For threads that may wait.
        capabilities: Of the store.
        root: Every key of the journal begins with it.
        what: The journal and its store, as people know them.
        registry: Stores, observers and clock.
        publish: Called on the event loop with every commit that added entries.
        home: What a copy of the store does not share with it.
    """

    def __init__(
        self,
        store: BlockingKeyValueStore,
        capabilities: KeyValueCapabilities,
        root: bytes,
        *,
        what: str,
        registry: JournalRegistry,
        publish: Callable[[Commit], None],
        home: str,
    ) -> None:
        self._store, self._capabilities, self._root, self._what = store, capabilities, root, what
        self._registry, self._publish, self._home = registry, publish, home
        self._committed = CommittedValues(store, root, capabilities)
        self._queue: queue.SimpleQueue[QueuedWork | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._stores: dict[str, int] = {}
        self._highest: bytes | None = None
        self._is_stale = False
        self._lost: StateError | None = None
        group = min(KEY_VALUE_GROUP_BYTES_MAX, capabilities.batch_bytes_max // 8)
        self._group_bytes, self._group_changes = group, capabilities.batch_operations_max // 8
        # What is left is for the index of the texts, which grows with what was written.
        self._bytes_max = (capabilities.batch_bytes_max - group) // 2
        self._changes_max = (capabilities.batch_operations_max - self._group_changes) // 2

    # -- on the event loop ---------------------------------------------------------------------------------
    async def start(self) -> int:
        """Take the journal over in the thread; returns the last position, raises what opening raises."""
        self._loop = asyncio.get_running_loop()
        started: asyncio.Future[int] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=f"journal {self._what}", daemon=True)
        self._thread.start()
        try:
            return await started
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish what is queued and end the thread."""
        if not self._is_stopping:
            self._is_stopping = True
            self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def submit(self, work: Callable[[JournalTransaction], T]) -> asyncio.Future[T]:
        """Queue a transaction; the future is done when it is durable or undone."""
        return self._put(work, is_transaction=True)

    def read(self, work: Callable[[JournalTransaction], T]) -> asyncio.Future[T]:
        """Queue a read of what is committed."""
        return self._put(work, is_transaction=False)

    def _put(self, work: Callable[[Any], Any], *, is_transaction: bool) -> asyncio.Future[Any]:
        if self._is_stopping:
            raise StateError("the journal is closing")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(QueuedWork(work, future, is_transaction))
        return future

    # -- in the thread -------------------------------------------------------------------------------------
    def _run(self, started: asyncio.Future[int]) -> None:
        try:
            last_position = self._open()
        except BaseException as error:  # noqa: BLE001  # handed to whoever awaits the start
            self._call(_settle, started, None, error)
            self._call(_settle, self._stopped, None, None)
            return
        self._call(_settle, started, last_position, None)
        try:
            self._serve()
        finally:
            self._call(_settle, self._stopped, None, None)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        # The loop may be gone when a program ends without closing its journal.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _open(self) -> int:
        if self._claim():
            self._delete_all()
            self._claim()
        self._stores = self._transaction(read_only=True).load_stores()
        tx = self._transaction(read_only=False)
        self._registry.load_replica_id(tx, home=self._home)
        self._write(tx)
        return self._fence.last_position

    def _claim(self) -> bool:
        token = os.urandom(16)
        name = f"process {os.getpid()} on {socket.gethostname()}"
        owner = Owner(token, name, self._registry.now_ms())
        self._fence = Fence(self._store, self._root, owner, self._what)
        self._committed.forget()
        return self._fence.claim()

    def _serve(self) -> None:
        while True:
            jobs, is_last = self._next_jobs()
            for job in jobs:
                if not job.is_transaction:
                    self._read(job)
            left = [job for job in jobs if job.is_transaction]
            while left:
                left = self._commit(left)
            if is_last:
                return

    def _next_jobs(self) -> tuple[list[QueuedWork], bool]:
        """Wait for work, and take along what is queued behind it; tell whether it is time to stop."""
        jobs: list[QueuedWork] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) >= COMMIT_BATCH_MAX:
                return jobs, False
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _transaction(self, *, read_only: bool) -> KeyValueTransaction:
        overlay = Overlay(self._committed, bytes_max=self._bytes_max, changes_max=self._changes_max)
        tail = Tail(self._fence.last_position, self._highest)
        stores = self._stores if read_only else dict(self._stores)
        return KeyValueTransaction(self._registry, overlay, read_only=read_only, tail=tail, stores=stores)

    def _settled(self) -> None:
        """
        Make sure that this journal knows the state it works on.

        Raises:
            StateError: Somebody else has taken it over.
        """
        if self._lost is not None:
            raise StateError(str(self._lost))
        if self._is_stale:
            self._committed.forget()
            self._highest = None
            self._fence.load()
            self._stores = self._transaction(read_only=True).load_stores()
            self._is_stale = False

    def _failed(self, error: BaseException) -> BaseException:
        """Return the reason behind an error: what was read may have been somebody else's by then."""
        if self._lost is not None:
            return error
        try:
            self._fence.check()
        except StateError as lost:
            self._lost = lost
            return lost
        except Exception:  # noqa: BLE001  # the store does not answer: the error at hand says more
            self._is_stale = True
        return error

    # -- reading -------------------------------------------------------------------------------------------
    def _read(self, job: QueuedWork) -> None:
        try:
            self._settled()
            self._committed.was_asked = False
            job.value = job.work(self._transaction(read_only=True))
            if self._committed.was_asked:
                self._fence.check()
        except BaseException as error:  # noqa: BLE001  # handed to whoever awaits it
            job.error = self._failed(error)
        self._call(job.settle)

    # -- writing -------------------------------------------------------------------------------------------
    def _commit(self, jobs: list[QueuedWork]) -> list[QueuedWork]:
        """Commit as many jobs as one batch takes; returns those that are left."""
        done: list[QueuedWork] = []
        commit: Commit | None = None
        try:
            self._settled()
            tx = self._transaction(read_only=False)
            for job in jobs:
                if tx.cells.size > self._group_bytes or tx.cells.count > self._group_changes:
                    break
                done.append(job)
                self._work(tx, job)
            tx.cells.begin_share()
            tx.finish()
            commit = self._write(tx)
        except BaseException as error:  # noqa: BLE001  # every caller of the batch is told
            self._is_stale = True
            failure = self._failed(error)
            done = done or jobs
            for job in done:
                job.error = job.error or failure
        self._call(self._deliver, done, commit)
        return jobs[len(done) :]

    def _work(self, tx: KeyValueTransaction, job: QueuedWork) -> None:
        if job.future.cancelled():
            return
        written, sources = tx.written_stores.copy(), tx.sources.copy()
        tx.cells.begin_share()
        savepoint = tx.open_savepoint()
        try:
            job.value = job.work(tx)
        except BaseException as error:  # noqa: BLE001  # handed to whoever awaits it
            tx.rollback_savepoint(savepoint)
            tx.written_stores, tx.sources = written, sources
            job.error = self._failed(error) if isinstance(error, StorageError) else error
        else:
            tx.release_savepoint(savepoint)

    def _write(self, tx: KeyValueTransaction) -> Commit | None:
        changes = tx.cells.changes()
        tail = tx.tail()
        if changes:
            self._fence.commit(self._committed.as_stored(changes.items()), tail.last_position)
            self._committed.committed(changes)
        self._stores, self._highest = tx.stores, tail.highest
        if not tx.written_stores:
            return None
        return Commit(frozenset(tx.written_stores), tail.last_position, frozenset(tx.sources))

    def _deliver(self, jobs: list[QueuedWork], commit: Commit | None) -> None:
        for job in jobs:
            job.settle()
        if commit is not None:
            self._publish(commit)

    # -- destroying ----------------------------------------------------------------------------------------
    def destroy(self) -> asyncio.Future[None]:
        """Queue the deletion of everything; nothing works afterwards."""
        return self._put(self._destroy, is_transaction=False)

    def _destroy(self, _tx: JournalTransaction) -> None:
        self._fence.begin_destroying()
        self._delete_all()
        self._committed.was_asked = False

    def _delete_all(self) -> None:
        doomed: list[bytes] = []
        for page in self._store.pages(KeyRange.of(self._root)):
            doomed += [key for key, _value in page]
            if len(doomed) >= self._group_changes:
                self._fence.delete(doomed, is_last=False)
                doomed = []
        self._fence.delete(doomed, is_last=True)


def _settle(future: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
