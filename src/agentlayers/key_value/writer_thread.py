"""The one thread that writes to a medium: what is waiting when a commit begins shares it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from agentlayers.errors import StateError
from agentlayers.key_value.expectation import NOTHING_EXPECTED, Expectation
from agentlayers.key_value.key_value_store import Changes
from agentlayers.key_value.medium import Medium
from agentlayers.limits import COMMIT_BATCH_MAX, KEY_VALUE_GROUP_BYTES_MAX

__all__ = ["WriterThread"]


@dataclass(slots=True)
class _Job:
    changes: Changes
    expected: Expectation
    future: asyncio.Future[None]
    error: BaseException | None = None

    @property
    def size(self) -> int:
        return sum(len(key) + len(value or b"") for key, value in self.changes.items())


class WriterThread:
    """
    Opens a medium, writes to it in the order asked for, and closes it.

    Args:
        medium: Only this thread opens and closes it; who else writes takes turns with it.
        before_close: Called in the thread when everything queued is written.
    """

    def __init__(self, medium: Medium, *, before_close: Callable[[], None]) -> None:
        self._medium, self._before_close = medium, before_close
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._taken: _Job | None = None
        self._turn = threading.Lock()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="key-value-writer", daemon=True)

    async def start(self) -> None:
        """Open the medium in the thread; raises what opening raises."""
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread.start()
        try:
            await self._started
        except BaseException:
            # Also when the wait was cancelled: the thread closes what it has opened.
            self._queue.put(None)
            raise

    async def stop(self) -> None:
        """Write what is queued, close the medium, end the thread."""
        if not self._is_stopping:
            self._is_stopping = True
            self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    async def write(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        """Write; returns once it is durable."""
        self.require_running()
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Job(changes, expected, future))
        await future

    def write_blocking(self, changes: Changes, expected: Expectation) -> None:
        """Write in the calling thread, which saves two changes of thread; returns once it is durable."""
        with self._turn:
            self.require_running()
            self._medium.write(changes, expected)

    def require_running(self) -> None:
        """
        Refuse to work for a store that closes.

        Raises:
            StateError: It is closing, or closed.
        """
        if self._is_stopping:
            raise StateError("the key-value store is closing")

    # -- in the thread ---------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            self._medium.open()
        except BaseException as error:  # noqa: BLE001  # handed to whoever awaits the start
            self._before_close()
            self._call(_settle, self._started, error)
            self._call(_settle, self._stopped, None)
            return
        self._call(_settle, self._started, None)
        while group := self._next_group():
            self._write(group)
            self._call(_settle_all, group)
        failure: BaseException | None = None
        try:
            self._before_close()
            with self._turn:
                self._medium.close()
        except Exception as error:  # noqa: BLE001  # handed to whoever closes the store
            failure = error
        self._call(_settle, self._stopped, failure)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        # The loop may be gone when a program ends without closing its store.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _next_group(self) -> list[_Job]:
        """Wait for a write and take along what is queued behind it; empty when it is time to stop."""
        job, self._taken = self._taken or self._queue.get(), None
        if job is None:
            return []
        group, size = [job], job.size
        # What depends on the state is written alone, so that its failure is nobody else's.
        shares = self._medium.shares_commits and not job.expected
        while shares and len(group) < COMMIT_BATCH_MAX and size < KEY_VALUE_GROUP_BYTES_MAX:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                # Seen again when this group is done.
                self._queue.put(None)
                break
            if job.expected:
                self._taken = job
                break
            group.append(job)
            size += job.size
        return group

    def _write(self, group: list[_Job]) -> None:
        changes: dict[bytes, bytes | None] = {}
        for job in group:
            changes |= job.changes
        try:
            with self._turn:
                self._medium.write(changes, group[0].expected)
        except Exception as error:  # noqa: BLE001  # handed to the callers
            if len(group) == 1:
                group[0].error = error
                return
            # One write may be too much for the disk while the others fit.
            for job in group:
                self._write([job])


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _settle_all(group: list[_Job]) -> None:
    for job in group:
        _settle(job.future, job.error)
