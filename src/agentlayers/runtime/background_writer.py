"""
Write items in order, in batches, without making whoever brings them wait for the medium.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar, final

from agentlayers.errors import AgentLayersError
from agentlayers.logs import get_logger

__all__ = ["BackgroundWriter"]

logger = get_logger(__name__)

T = TypeVar("T")

ITEMS_QUEUED_MAX: Final = 4096
"""Items that wait for the medium. Past it :meth:`BackgroundWriter.put` waits: losing nothing goes before speed."""

BATCH_ITEMS_MAX: Final = 64
"""Items handed to the medium at once."""

RETRY_BASE_SECONDS: Final = 0.05
"""Before the first retry of a medium that is unavailable; doubles."""

RETRY_MAX_SECONDS: Final = 1.0
"""Longest pause between retries."""

CLOSE_SECONDS_MAX: Final = 10.0
"""How long closing waits for a medium that does not answer, before what is queued is given up and reported."""


@final
class BackgroundWriter(Generic[T]):
    """
    A bounded queue with one writer behind it.

    An error that may pass (``retryable``) is retried until the writer is closed; another one gives up the item
    that caused it and goes on with the next. Nothing is dropped without a log line and a count.

    Attributes:
        error: Why the last attempt failed; :obj:`None` when it succeeded.
        lost: Items given up.
        lost_error: Why the last of them was.

    Args:
        write: Keeps a leading part of the batch, at least one item, and returns how many are now durable. If it
            raises, it has kept none.
        name: Of the task and in logs.
        strict: The first failure is final: nothing is tried again, and what comes after it fails too, so that
            what is kept never has a gap.
        items_max: Bound of the queue.
        close_seconds_max: How long :meth:`aclose` waits.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[int]],
        *,
        name: str,
        strict: bool = False,
        items_max: int = ITEMS_QUEUED_MAX,
        close_seconds_max: float = CLOSE_SECONDS_MAX,
    ) -> None:
        self._write = write
        self._name = name
        self._strict = strict
        self._items_max = items_max
        self._close_seconds_max = close_seconds_max
        self._items: deque[tuple[T, asyncio.Future[None]]] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        self.lost = 0
        self.lost_error: Exception | None = None

    @property
    def pending(self) -> int:
        """Items not durable yet."""
        return len(self._items)

    async def put(self, item: T) -> asyncio.Future[None]:
        """Queue an item, waiting only for room in the queue; the future says when it is durable, or why not."""
        while len(self._items) >= self._items_max and not self._closing:
            self._room.clear()
            await self._room.wait()
        return self.put_nowait(item)

    def put_nowait(self, item: T) -> asyncio.Future[None]:
        """Queue an item past the bound, for callers that cannot wait."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._strict and self.lost_error is not None:
            future.set_exception(self.lost_error)
            future.exception()  # seen: nobody has to wait for it
            return future
        self._items.append((item, future))
        self._arrived.set()
        if self._task is None and not self._closing:
            self._task = asyncio.create_task(self._run(), name=f"writer-{self._name}")
        return future

    async def aclose(self) -> None:
        """Wait until everything queued is durable; what cannot be kept in time is counted and reported."""
        self._closing = True
        self._arrived.set()
        self._room.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._close_seconds_max)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._items:
            error = self.error or TimeoutError(f"no answer within {self._close_seconds_max:g} s")
            self._give_up(len(self._items), error)

    async def _run(self) -> None:
        while self._items or not self._closing:
            if not self._items:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            # Items stay queued until they are durable, so that `pending` and a closing writer see them.
            count = min(len(self._items), BATCH_ITEMS_MAX)
            await self._keep(count)

    async def _keep(self, count: int) -> None:
        delay = RETRY_BASE_SECONDS
        while True:
            batch = [item for item, _ in itertools.islice(self._items, count)]
            try:
                kept = await self._write(batch)
            except Exception as error:  # noqa: BLE001 - reported through the item's future
                self.error = error
                may_pass = isinstance(error, AgentLayersError) and error.retryable
                if self._strict:
                    self._give_up(len(self._items), error)
                    return
                if may_pass:
                    logger.warning(
                        "writer_retry",
                        writer=self._name,
                        error=str(error),
                        pending=len(self._items),
                    )
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_MAX_SECONDS)
                elif count > 1:
                    count = 1  # one bad item must not take its neighbours along
                else:
                    self._give_up(1, error)
                    return
            else:
                self.error = None
                self._settle(kept)
                return

    def _settle(self, count: int) -> None:
        for _ in range(count):
            _, future = self._items.popleft()
            if not future.done():
                future.set_result(None)
        self._room.set()

    def _give_up(self, count: int, error: Exception) -> None:
        self.lost += count
        self.lost_error = error
        logger.error(
            "writer_lost",
            writer=self._name,
            items=count,
            error=str(error),
            error_type=type(error).__name__,
        )
        for _ in range(count):
            _, future = self._items.popleft()
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: nobody has to wait for it
        self._room.set()
