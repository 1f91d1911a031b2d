"""
One query, as its caller holds it.

An *owner task* starts the agent, reads its messages, shows them to the taps and closes it, so that the agent
is read (and recorded) to its end whatever the caller does. The caller iterates over a bounded buffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Self, final

from agentlayers.errors import BackendError, QueryTimeoutError, StateError, UsageError
from agentlayers.logs import get_logger
from agentlayers.runtime.backend import BackendQuery, Prompt
from agentlayers.runtime.broadcast import Subscription
from agentlayers.runtime.message import AgentMessage, user_message
from agentlayers.runtime.query_controls import QueryControls
from agentlayers.runtime.query_status import QueryState, QueryStatus
from agentlayers.runtime.query_taps import QueryTaps
from agentlayers.runtime.settings import QueueStrategy
from agentlayers.runtime.shared_messages import SharedMessages
from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt
from agentlayers.runtime.telemetry import QueryTelemetry

__all__ = ["QueryHandle", "QueryStatus"]

logger = get_logger(__name__)

MESSAGES_BUFFERED_MAX: Final = 1024
"""Messages kept for a caller that does not read; past it the agent waits, until it is interrupted or closed."""

READER_MESSAGES_BUFFERED: Final = 16
"""Messages kept for one of several readers that is behind the others, as in the reference."""


@final
class QueryHandle(QueryControls):
    """
    A running query; made by the supervisor, used inside ``async with runtime.query(...)``.

    Iterate over it for its messages (one task at a time; :meth:`share` is for several). Attributes and control
    methods may be used from any task of the event loop.

    Attributes:
        query_id: Names the query in events, errors and logs.
        result: The last result message, once there is one.
    """

    def __init__(
        self,
        query_id: str,
        *,
        prompt: Prompt = None,
        taps: Iterable[MessageTap] = (),
        telemetry: QueryTelemetry | None = None,
        interrupt_grace_seconds: float = 2.0,
    ) -> None:
        self.query_id = query_id
        self.result: AgentMessage | None = None
        self._prompt = prompt
        self._taps = QueryTaps(query_id, taps, telemetry)
        self._grace = interrupt_grace_seconds
        self._query: BackendQuery | None = None
        self._state: QueryState = "starting"
        self._session_id = ""
        self._count = 0
        self._buffer: deque[tuple[AgentMessage, list[Receipt]]] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._unbounded = False
        self._discarding = False
        self._reading = False
        self._shared: SharedMessages | None = None
        self._gone = False
        self._interrupting = False
        self._ending = False
        self._error: Exception | None = None
        self._owner: asyncio.Task[None] | None = None
        self._shutdown: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []

    # -- reading ----------------------------------------------------------------------------------------
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentMessage:
        """
        Return the next message, durably recorded if the query is recorded.

        Raises:
            QueryTimeoutError: The query, or its first message, took too long.
            BackendError: The agent broke down.
            StorageError: A message could not be recorded, in strict mode only.
        """
        if self._shared is not None:
            raise StateError("the messages of this query are shared; iterate over what share() returned")
        if self._reading:
            raise StateError("the messages of a query are read by one task at a time; share() is for several")
        self._reading = True
        try:
            return await self._next()
        finally:
            self._reading = False

    def share(
        self, *, capacity: int = READER_MESSAGES_BUFFERED, strategy: QueueStrategy = "suspend", replay: int = 0
    ) -> SharedMessages:
        """
        Let several readers have every message from here on; each ``async for`` over the result is one.

        Args:
            capacity: Messages kept for a reader that is behind the others.
            strategy: What happens past that: the others wait (``suspend``), or that reader loses the newest
                (``dropping``) or the oldest (``sliding``). Recording never waits for a reader.
            replay: Messages shown again to a reader that comes later.

        Raises:
            StateError: It is shared already, or somebody reads it at the moment.
            UsageError: A number or a strategy that cannot be right.
        """
        if self._shared is not None or self._reading:
            raise StateError("the messages of this query are shared or read already; share it once, before reading it")
        self._shared = SharedMessages(self._next, capacity=capacity, strategy=strategy, replay=replay)
        return self._shared

    def broadcast(
        self, count: int, *, capacity: int = READER_MESSAGES_BUFFERED, strategy: QueueStrategy = "suspend"
    ) -> list[Subscription[AgentMessage]]:
        """
        Give ``count`` readers every message from here on, so that none misses one though it begins later.

        With ``suspend`` no reader gets further ahead of the slowest than ``capacity`` messages, not even of one that
        never reads; close the one you do not need.

        Raises:
            StateError: As :meth:`share`.
            UsageError: As :meth:`share`, or less than one reader.
        """
        if count < 1:
            raise UsageError(f"a broadcast needs at least one reader, got {count!r}")
        shared = self.share(capacity=capacity, strategy=strategy)
        return [shared.subscribe() for _ in range(count)]

    async def _next(self) -> AgentMessage:
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self._gone:
                await self._taps.end_late(self._end_told)
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        message, receipts = self._buffer[0]
        await self._taps.catch_up()
        # Taken out only when it is durable, so that a reader that gives up meanwhile misses nothing.
        for receipt in receipts:
            await receipt.settle()
        self._buffer.popleft()
        self._room.set()
        return message

    async def collect(self) -> list[AgentMessage]:
        """Read all remaining messages."""
        return [message async for message in self]

    async def collect_result(self) -> AgentMessage | None:
        """Read to the end; return the last result, or :obj:`None` if the agent ended without one."""
        async for _ in self:
            pass
        return self.result

    async def collect_success(self) -> AgentMessage:
        """
        Read to the end and return the result.

        Raises:
            BackendError: There is none, or it tells of an error.
        """
        result = await self.collect_result()
        if result is None or result.is_error:
            told = "it ended without a result" if result is None else f"{result.subtype}: {result.text}".rstrip(": ")
            raise BackendError(f"query {self.query_id} did not succeed: {told}")
        return result

    # -- control ----------------------------------------------------------------------------------------
    async def send(self, message: str | Mapping[str, Any]) -> None:
        """
        Give the agent one more user message (streaming input only).

        Raises:
            StateError: The prompt was one text, the input is closed, or the query has ended.
        """
        sent = user_message(message, session_id=self._session_id) if isinstance(message, str) else dict(message)
        await self._running().send(sent)
        await self._taps.sent(sent)

    async def send_all(self, messages: Iterable[str | Mapping[str, Any]]) -> None:
        """Give the agent several user messages, in order; see :meth:`send`."""
        for message in messages:
            await self.send(message)

    async def close_input(self) -> None:
        """Say that no more user messages come, so that the query ends after what was sent."""
        if self._query is not None and not self._gone:
            await self._query.close_input()

    async def interrupt(self) -> None:
        """Stop the current turn; its remaining messages, the result last, are still yielded."""
        if self._query is None or self._gone:
            return
        self._interrupting = True
        # An agent that waits for its reader would not see the interrupt.
        self._unbounded = True
        self._room.set()
        await self._query.interrupt()

    def attach(self, tap: MessageTap) -> None:
        """
        Let ``tap`` watch from now on.

        Messages that are buffered and not read yet are shown to it first, so nothing the caller will read
        is missed.

        Raises:
            StateError: The query has ended, and all of it was read.
        """
        if self._taps.have_ended and not self._buffer:
            raise StateError(f"query {self.query_id} has ended; a tap must be attached before")
        self._taps.attach(tap, list(self._buffer))

    @property
    def prompt(self) -> Prompt:
        """What the query was asked."""
        return self._prompt

    @property
    def session_id(self) -> str:
        """The session; empty until the agent's first message names it."""
        return self._session_id

    @property
    def status(self) -> QueryStatus:
        """How the query is doing now."""
        error = self._taps.error
        return QueryStatus(
            state=self._state,
            session_id=self._session_id,
            messages=self._count,
            recording_behind=self._taps.are_behind,
            recording_pending=self._taps.pending,
            recording_lost=self._taps.lost,
            recording_error="" if error is None else str(error),
        )

    async def aclose(self) -> None:
        """
        End the query: interrupt it if it runs, record what it still says, and leave nothing of it behind.

        Safe to call twice and to cancel: the ending goes on in the background.
        """
        if self._owner is None:
            return
        self._discarding = True
        if self._shutdown is None:
            self._shutdown = asyncio.create_task(self._shut_down(), name=f"close-{self.query_id}")
        await asyncio.shield(self._shutdown)

    # -- timeouts ---------------------------------------------------------------------------------------
    def expire_after(self, *, first_message_seconds: float | None, query_seconds: float | None) -> None:
        """Interrupt the query, and raise :class:`QueryTimeoutError` to its reader, when a time has passed."""
        loop = asyncio.get_running_loop()
        for what, seconds in (
            ("first message", first_message_seconds),
            ("end of the query", query_seconds),
        ):
            if seconds is not None and not self._gone and not (what == "first message" and self._count):
                self._timers.append(loop.call_later(seconds, self._expire, what, seconds))

    def _expire(self, what: str, seconds: float) -> None:
        if self._gone or (what == "first message" and self._count):
            return
        self._state = "timed_out"
        self._error = QueryTimeoutError(query_id=self.query_id, what=what, timeout_seconds=seconds)
        logger.warning("query_timed_out", query_id=self.query_id, what=what, timeout_seconds=seconds)
        self._discarding = True
        self._changed.set()
        if self._shutdown is None:
            self._shutdown = asyncio.create_task(self._shut_down(), name=f"close-{self.query_id}")

    # -- the owner task ---------------------------------------------------------------------------------
    async def open(
        self,
        start: Callable[[Prompt], Awaitable[BackendQuery]],
        *,
        on_started: Callable[[], Awaitable[None]] | None = None,
        on_gone: Callable[[str], Awaitable[None]],
    ) -> asyncio.Task[None]:
        """
        Start the agent in its owner task and return that task.

        Args:
            start: Starts the agent with the prompt it is given.
            on_started: Called when it runs, before its first message is read.
            on_gone: Called with the final state as soon as nothing of the agent is left.

        Raises:
            BackendError: It did not start; nothing is left of it, and ``on_gone`` is not called.
        """
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(start, started, on_started, on_gone), name=f"query-{self.query_id}")
        try:
            await asyncio.shield(started)
        except asyncio.CancelledError:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
            raise
        return self._owner

    async def _own(
        self,
        start: Callable[[Prompt], Awaitable[BackendQuery]],
        started: asyncio.Future[None],
        on_started: Callable[[], Awaitable[None]] | None,
        on_gone: Callable[[str], Awaitable[None]],
    ) -> None:
        try:
            query = await start(self._shown_prompt())
        except BaseException as error:
            self._state, self._gone = "failed", True
            if isinstance(error, Exception):
                started.set_exception(error)
                started.exception()  # seen: whoever waited may have gone
                return
            started.cancel()
            raise
        self._query = query
        self._unbounded = query.reads_ahead
        self._state = "running"
        try:
            self._taps.started()
            if on_started is not None:
                await on_started()
            started.set_result(None)
            if isinstance(self._prompt, str):
                await self._taps.sent(user_message(self._prompt))
            async for message in query:
                await self._deliver(message)
        except Exception as error:  # noqa: BLE001 - raised to the reader, who is elsewhere
            self._error = self._error or error
        finally:
            started.cancel()  # nobody may wait for a start that was cancelled; otherwise without effect
            await self._end(query, on_gone)

    async def _end(self, query: BackendQuery, on_gone: Callable[[str], Awaitable[None]]) -> None:
        self._ending = True
        for timer in self._timers:
            timer.cancel()
        try:
            await query.aclose()
        except Exception as error:
            logger.exception("query_close_failed", query_id=self.query_id)
            self._error = self._error or error
        self._state = self._final_state()
        try:
            self._taps.gone(self._state, self._error)
            await on_gone(self._state)
            await self._taps.end(self._end_told)
        finally:
            self._gone = True
            self._changed.set()

    @property
    def _end_told(self) -> QueryEnd:
        return QueryEnd(self._state, self._session_id)

    def _final_state(self) -> QueryState:
        if self._state == "timed_out":
            return "timed_out"
        if self._error is not None:
            return "failed"
        if self.result is not None and not self.result.is_error:
            return "completed"
        return "interrupted" if self._interrupting else "failed"

    async def _deliver(self, message: AgentMessage) -> None:
        self._count += 1
        self._session_id = message.session_id or self._session_id
        if message.is_result:
            self.result = message
        receipts = await self._taps.received(message)
        if self._discarding:
            return
        self._buffer.append((message, receipts))
        self._changed.set()
        # Waiting after the message is in the buffer, so that a tap attached meanwhile is shown it.
        while len(self._buffer) >= MESSAGES_BUFFERED_MAX and not (self._unbounded or self._discarding):
            self._room.clear()
            await self._room.wait()

    async def _shut_down(self) -> None:
        """Ask nicely, then insist."""
        owner = self._owner
        assert owner is not None
        self._room.set()
        if self._query is not None and not owner.done():
            self._interrupting = True
            asking = asyncio.create_task(self._ask_to_end(self._query))
            await asyncio.wait({owner}, timeout=self._grace)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        if not owner.done() and not self._ending:
            owner.cancel()
        # Past this point only the backend's own closing and the taps are waited for; both are bounded by themselves.
        await asyncio.wait({owner})
        if self._shared is not None:
            await self._shared.aclose()
        await self._taps.end_late(self._end_told)
        self._buffer.clear()

    async def _ask_to_end(self, query: BackendQuery) -> None:
        results = await asyncio.gather(query.close_input(), query.interrupt(), return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                logger.debug("query_interrupt_failed", query_id=self.query_id, error=str(error))

    # -- input ------------------------------------------------------------------------------------------
    def _shown_prompt(self) -> Prompt:
        return self._taps.shown(self._prompt) if isinstance(self._prompt, AsyncIterable) else self._prompt

    def _running(self) -> BackendQuery:
        if self._query is None or self._gone or self._discarding:
            raise StateError(f"query {self.query_id} does not run (it is {self._state})")
        return self._query
