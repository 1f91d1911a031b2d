"""
Decides which queries run now, which wait, and which are refused.

A query holds its slot until its agent is gone, not until its caller is done reading: a caller that is slow
with the last messages keeps nobody waiting.
"""

from __future__ import annotations

import asyncio
import bisect
import random as random_module
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, final

from agentlayers.errors import (
    QueryPendingCanceledError,
    QueryPendingTimeoutError,
    QueryQueueFullError,
    StateError,
)
from agentlayers.logs import get_logger
from agentlayers.runtime.backend import BackendQuery, Prompt
from agentlayers.runtime.broadcast import Broadcast
from agentlayers.runtime.frames import new_uuid
from agentlayers.runtime.query_event import (
    QueryCompleted,
    QueryEvent,
    QueryQueued,
    QueryStarted,
    QueryStartFailed,
)
from agentlayers.runtime.query_handle import QueryHandle
from agentlayers.runtime.settings import SupervisorSettings
from agentlayers.runtime.tap import MessageTap
from agentlayers.runtime.telemetry import QueryTelemetry, Telemetry, find_telemetry

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = [
    "QueryMetrics",
    "QuerySupervisor",
    "QuerySupervisorStats",
]

logger = get_logger(__name__)

DURATION_BOUNDS_MS: Final = (50, 100, 250, 500, 1000, 2000, 5000, 10_000, 30_000)
"""Upper bounds of the duration histogram, as in the reference."""


_STATUS: Final[dict[str, Literal["success", "failure", "interrupted"]]] = {
    "completed": "success", "failed": "failure", "interrupted": "interrupted", "timed_out": "interrupted",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class QuerySupervisorStats:
    """
    How busy the supervisor is.

    Attributes:
        active: Queries with a slot.
        pending: Queries in the queue.
        concurrency_limit: Slots there are.
        pending_queue_capacity: Room in the queue.
        pending_queue_strategy: What happens when it is full; ``disabled`` without a queue.
        started: Queries whose agent ran, since the supervisor was made.
        completed: Those of them that are gone.
        failed: Queries whose agent could not be started.
    """

    active: int
    pending: int
    concurrency_limit: int
    pending_queue_capacity: int
    pending_queue_strategy: Literal["suspend", "dropping", "sliding", "disabled"]
    started: int
    completed: int
    failed: int


@final
@dataclass(slots=True)
class QueryMetrics:
    """
    Durations of queries, counted when ``metrics_enabled`` is set.

    Attributes:
        bounds_ms: Upper bounds of the buckets; the last bucket has none.
        buckets: Queries by duration.
        total_ms: Sum of all durations.
    """

    bounds_ms: tuple[int, ...] = DURATION_BOUNDS_MS
    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_MS) + 1))
    total_ms: float = 0.0

    def add(self, duration_ms: float) -> None:
        """Count one query."""
        self.buckets[bisect.bisect_left(self.bounds_ms, duration_ms)] += 1
        self.total_ms += duration_ms


@final
class QuerySupervisor:
    """
    Runs at most ``concurrency_limit`` queries and lets the others wait their turn, first come first served.

    Closing it interrupts what runs, tells what waits, and returns when nothing is left.

    Args:
        settings: Limits; the defaults if :obj:`None`. A mapping is checked (as it comes from YAML).
        telemetry: Told what queries do. Without it OpenTelemetry is, if ``metrics_enabled`` or ``tracing_enabled``
            is set and the extra ``otel`` installed.
        clock: Wall-clock seconds, for events.
        random: Source of query ids; :obj:`None` is the system's.
    """

    def __init__(
        self,
        settings: SupervisorSettings | None = None,
        *,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.time,
        random: random_module.Random | None = None,
    ) -> None:
        self.settings = SupervisorSettings.of(settings)
        self.metrics = QueryMetrics()
        self._telemetry = find_telemetry(
            telemetry, metrics=self.settings.metrics_enabled, tracing=self.settings.tracing_enabled
        )
        self._clock = clock
        self._random = random
        self._slots_taken = 0
        self._pending: deque[_Waiter] = deque()
        self._suspended: deque[_Waiter] = deque()
        self._active: dict[str, QueryHandle] = {}
        self._owners: set[asyncio.Task[None]] = set()
        self._events: Broadcast[QueryEvent] = Broadcast(
            capacity=self.settings.event_buffer_capacity,
            strategy=self.settings.event_buffer_strategy,
        )
        self._started = self._completed = self._failed = 0
        self._closed = False

    @staticmethod
    def layer(settings: SupervisorSettings | None = None, **fields: Any) -> Layer:
        """Supervise with these settings, given whole or by name (``concurrency_limit=8``)."""
        from agentlayers.layer import Layer

        chosen = SupervisorSettings.of(fields) if settings is None else settings
        return Layer.scoped(QuerySupervisor, QuerySupervisor, settings=chosen)

    @staticmethod
    def layer_from_env(prefix: str = "AGENTLAYERS") -> Layer:
        """Supervise with settings read from the environment when the app is built."""
        from agentlayers.layer import Layer

        given = {} if prefix == "AGENTLAYERS" else {"prefix": prefix}
        return Layer.scoped(QuerySupervisor, supervisor_from_env, **given)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # -- submitting -------------------------------------------------------------------------------------
    async def submit(
        self,
        start: Callable[[Prompt], Awaitable[BackendQuery]],
        *,
        prompt: Prompt = None,
        taps: Iterable[MessageTap] = (),
    ) -> QueryHandle:
        """
        Wait for a slot, start an agent, and return its query. The caller closes it.

        Args:
            start: Starts the agent with the prompt it is given.
            prompt: What it is asked.
            taps: Watch the query from its first message on.

        Raises:
            QueryQueueFullError: The queue is full and the strategy refuses, or a newer query displaced this one.
            QueryPendingTimeoutError: No slot became free in time.
            QueryPendingCanceledError: The supervisor was closed while the query waited.
            BackendError: The agent could not be started.
        """
        query_id = new_uuid(self._random)
        watch = None if self._telemetry is None else self._telemetry.query(query_id)
        await self._take_slot(query_id, watch)
        handle = QueryHandle(
            query_id,
            prompt=prompt,
            taps=taps,
            telemetry=watch,
            interrupt_grace_seconds=self.settings.interrupt_grace_seconds,
        )
        begun = time.monotonic()
        self._active[query_id] = handle
        try:
            with nullcontext() if watch is None else watch.current():
                owner = await handle.open(
                    start,
                    on_started=lambda: self._running(query_id),
                    on_gone=lambda state: self._gone(query_id, state, begun),
                )
        except BaseException as error:
            if self._active.pop(query_id, None) is not None:
                self._free_slot()
            if watch is not None:
                watch.refused(error)
            if isinstance(error, Exception):
                self._failed += 1
                code = str(getattr(error, "code", type(error).__name__))
                await self._emit(QueryStartFailed(query_id, self._clock(), code))
            raise
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)
        return handle

    async def _running(self, query_id: str) -> None:
        self._started += 1
        self._trace("query_started", query_id)
        await self._emit(QueryStarted(query_id, self._clock()))

    async def _gone(self, query_id: str, state: str, begun: float) -> None:
        if self._active.pop(query_id, None) is None:
            return
        self._free_slot()
        self._completed += 1
        duration_ms = (time.monotonic() - begun) * 1000
        if self.settings.metrics_enabled:
            self.metrics.add(duration_ms)
        self._trace("query_completed", query_id, state=state, duration_ms=round(duration_ms, 3))
        await self._emit(QueryCompleted(query_id, self._clock(), _STATUS.get(state, "failure")))

    # -- slots ------------------------------------------------------------------------------------------
    async def _take_slot(self, query_id: str, watch: QueryTelemetry | None) -> None:
        if watch is None:
            return await self._wait_for_slot(query_id)
        watch.queued()
        try:
            await self._wait_for_slot(query_id)
        except BaseException as error:
            watch.refused(error)
            raise
        return watch.granted()

    async def _wait_for_slot(self, query_id: str) -> None:
        if self._closed:
            raise StateError("the query supervisor is closed")
        if self._slots_taken < self.settings.concurrency_limit and not self._pending and not self._suspended:
            self._slots_taken += 1
            return
        waiter = _Waiter(query_id, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(self.settings.max_pending_time):
                await self._enqueue(waiter)
                await waiter.granted
        except TimeoutError as error:
            self._leave(waiter)
            raise QueryPendingTimeoutError(
                query_id=query_id, timeout_seconds=self.settings.max_pending_time or 0.0
            ) from error
        except BaseException:
            self._leave(waiter)
            raise

    async def _enqueue(self, waiter: _Waiter) -> None:
        capacity, strategy = (
            self.settings.pending_queue_capacity,
            self.settings.pending_queue_strategy,
        )
        if len(self._pending) < capacity:
            self._pending.append(waiter)
        elif strategy == "suspend":
            self._suspended.append(waiter)
            return
        elif strategy == "dropping" or capacity == 0:
            raise self._full(waiter)
        else:
            displaced = self._pending.popleft()
            self._pending.append(waiter)
            displaced.granted.set_exception(self._full(displaced))
        await self._emit(QueryQueued(waiter.query_id, self._clock()))

    def _full(self, waiter: _Waiter) -> QueryQueueFullError:
        return QueryQueueFullError(
            query_id=waiter.query_id,
            capacity=self.settings.pending_queue_capacity,
            strategy=self.settings.pending_queue_strategy,
        )

    def _leave(self, waiter: _Waiter) -> None:
        """Give back what a waiter that gives up was, or had just been, granted."""
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self._free_slot()
            return
        granted.cancel()
        for queue in (self._pending, self._suspended):
            if waiter in queue:
                queue.remove(waiter)
        self._admit()

    def _free_slot(self) -> None:
        self._slots_taken -= 1
        while self._slots_taken < self.settings.concurrency_limit:
            queue = self._pending or self._suspended
            if not queue:
                break
            waiter = queue.popleft()
            if not waiter.granted.done():
                self._slots_taken += 1
                waiter.granted.set_result(None)
        self._admit()

    def _admit(self) -> None:
        """Move callers that wait for room into the queue."""
        while self._suspended and len(self._pending) < self.settings.pending_queue_capacity:
            self._pending.append(self._suspended.popleft())

    # -- operating --------------------------------------------------------------------------------------
    @property
    def stats(self) -> QuerySupervisorStats:
        """How busy it is now."""
        capacity = self.settings.pending_queue_capacity
        return QuerySupervisorStats(
            active=self._slots_taken,
            pending=len(self._pending),
            concurrency_limit=self.settings.concurrency_limit,
            pending_queue_capacity=capacity,
            pending_queue_strategy=self.settings.pending_queue_strategy if capacity else "disabled",
            started=self._started,
            completed=self._completed,
            failed=self._failed,
        )

    def events(self) -> AsyncIterator[QueryEvent]:
        """
        Follow what happens to queries from now on; ends when the supervisor is closed.

        Raises:
            StateError: ``emit_events`` is off, so nothing would ever come.
        """
        if not self.settings.emit_events:
            raise StateError("no events are published; set emit_events (AGENTLAYERS_EMIT_EVENTS=true) to follow them")
        return self._events.subscribe()

    async def interrupt_all(self) -> None:
        """Interrupt every running query; waiting ones are left to wait."""
        handles = tuple(self._active.values())
        results = await asyncio.gather(*(_interrupt(handle) for handle in handles), return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                logger.warning("query_interrupt_failed", error=str(error))

    async def aclose(self) -> None:
        """Refuse new queries, tell those that wait, end those that run; nothing is left when this returns."""
        self._closed = True
        self._events.stop_waiting()
        for waiter in (*self._pending, *self._suspended):
            if not waiter.granted.done():
                waiter.granted.set_exception(QueryPendingCanceledError(query_id=waiter.query_id))
        self._pending.clear()
        self._suspended.clear()
        await asyncio.gather(*(handle.aclose() for handle in tuple(self._active.values())))
        if self._owners:
            await asyncio.wait(tuple(self._owners))
        self._events.close()

    async def _emit(self, event: QueryEvent) -> None:
        if self.settings.emit_events:
            await self._events.publish(event)

    def _trace(self, name: str, query_id: str, **fields: Any) -> None:
        if self.settings.tracing_enabled:
            logger.info(name, query_id=query_id, **fields)


@final
@dataclass(eq=False, slots=True)
class _Waiter:
    query_id: str
    granted: asyncio.Future[None]


async def _interrupt(handle: QueryHandle) -> None:
    await asyncio.gather(handle.close_input(), handle.interrupt())


def supervisor_from_env(
    *, prefix: str = "AGENTLAYERS", telemetry: Telemetry | None = None, **settings: Any
) -> QuerySupervisor:
    """Make a supervisor with settings from the environment, over those given (as YAML gives them)."""
    return QuerySupervisor(SupervisorSettings.from_env(prefix=prefix, defaults=settings), telemetry=telemetry)
