"""
Hand items to any number of subscribers, each with a bounded buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar, final

from agentlayers.runtime.settings import QueueStrategy

__all__ = ["Broadcast", "Subscription"]

T = TypeVar("T")


@final
class _Subscriber(Generic[T]):
    """What the publisher knows of a subscription; it holds no reference to it, so an abandoned one is noticed."""

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.missed = 0
        self.arrived = asyncio.Event()
        self.room = asyncio.Event()
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        self.arrived.set()
        self.room.set()


@final
class Subscription(AsyncIterator[T]):
    """
    Yields what is published, from the moment it was made; an async context manager.

    One that is closed, or that nobody refers to any more, holds nobody up.
    """

    def __init__(self, publisher: Broadcast[T], subscriber: _Subscriber[T]) -> None:
        self._publisher = publisher
        self._subscriber = subscriber
        self._loop = asyncio.get_running_loop()

    @property
    def missed(self) -> int:
        """Items dropped because this subscriber did not read in time."""
        return self._subscriber.missed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """
        Return the next item.

        Raises:
            Exception: What the publisher ended with, after everything that was published.
        """
        subscriber = self._subscriber
        while not subscriber.items:
            if not subscriber.is_open:
                raise StopAsyncIteration
            if self._publisher.is_closed:
                if self._publisher.error is not None:
                    raise self._publisher.error
                raise StopAsyncIteration
            subscriber.arrived.clear()
            await subscriber.arrived.wait()
        item = subscriber.items.popleft()
        subscriber.room.set()
        return item

    async def aclose(self) -> None:
        """Receive nothing more; safe to call twice."""
        self._publisher.drop(self._subscriber)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._subscriber.is_open:
            return
        # The garbage collector runs in whatever thread it likes; events belong to the loop's.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._publisher.drop, self._subscriber)


@final
class Broadcast(Generic[T]):
    """
    A publisher with subscribers that see what comes after they subscribed.

    Args:
        capacity: Items kept for a subscriber that does not read.
        strategy: What happens past that: the publisher waits, or the newest or the oldest item is dropped.
        replay: So many of the last items are shown to a subscriber that comes later.

    Attributes:
        error: What it was closed with.
    """

    def __init__(self, *, capacity: int, strategy: QueueStrategy, replay: int = 0) -> None:
        self._capacity = capacity
        self._strategy = strategy
        self._recent: deque[T] = deque(maxlen=replay)
        self._subscribers: set[_Subscriber[T]] = set()
        self._followed = asyncio.Event()
        self._closed = False
        self.error: Exception | None = None

    @property
    def is_closed(self) -> bool:
        """Nothing more will be published."""
        return self._closed

    async def publish(self, item: T) -> bool:
        """
        Hand an item to every subscriber; waits for slow ones only with the strategy ``suspend``.

        Returns:
            Whether there was one; otherwise nothing happened.
        """
        has_reached = False
        served: set[_Subscriber[T]] = set()
        # Who comes while it waits for a slow one is served too: only then is the item one to be replayed.
        while waiting := self._subscribers - served:
            for subscriber in waiting:
                served.add(subscriber)
                has_reached |= await self._hand(item, subscriber)
        if has_reached:
            self._recent.append(item)
        return has_reached

    async def _hand(self, item: T, subscriber: _Subscriber[T]) -> bool:
        while self._must_wait_for(subscriber):
            subscriber.room.clear()
            await subscriber.room.wait()
        if not subscriber.is_open:
            return False
        if len(subscriber.items) >= self._capacity:
            subscriber.missed += 1
            if self._strategy == "dropping":
                return True
            subscriber.items.popleft()
        subscriber.items.append(item)
        subscriber.arrived.set()
        return True

    def _must_wait_for(self, subscriber: _Subscriber[T]) -> bool:
        is_full = len(subscriber.items) >= self._capacity
        return is_full and self._strategy == "suspend" and subscriber.is_open and not self._closed

    def subscribe(self) -> Subscription[T]:
        """Follow from now on (not from the first ``anext`` on), until the publisher closes."""
        subscriber: _Subscriber[T] = _Subscriber()
        subscriber.items.extend(self._recent)
        if not self._closed:
            self._subscribers.add(subscriber)
            self._followed.set()
        return Subscription(self, subscriber)

    async def until_followed(self) -> None:
        """Wait until there is a subscriber."""
        await self._followed.wait()

    def drop(self, subscriber: _Subscriber[T]) -> None:
        """Forget a subscriber and what waits for it."""
        subscriber.close()
        subscriber.items.clear()
        self._subscribers.discard(subscriber)
        if not self._subscribers:
            self._followed.clear()

    def stop_waiting(self) -> None:
        """From now on drop the oldest item instead of waiting for a slow subscriber."""
        self._strategy = "sliding"
        for subscriber in self._subscribers:
            subscriber.room.set()

    def close(self, error: Exception | None = None) -> None:
        """End every subscription after what it has buffered, with ``error`` if there is one."""
        if self._closed:
            return
        self._closed = True
        self.error = error
        for subscriber in self._subscribers:
            subscriber.arrived.set()
            subscriber.room.set()
        self._subscribers.clear()
