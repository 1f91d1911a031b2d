"""
Hand events to any number of subscribers, each with a bounded buffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar, final

from agentlayers.runtime.settings import QueueStrategy

__all__ = ["Broadcast"]

T = TypeVar("T")


@final
class _Subscriber(Generic[T]):
    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.arrived = asyncio.Event()
        self.room = asyncio.Event()
        self.is_open = True


@final
class Broadcast(Generic[T]):
    """
    A publisher with subscribers that see what comes after they subscribed.

    Args:
        capacity: Events kept for a subscriber that does not read.
        strategy: What happens past that: the publisher waits, or the newest or the oldest event is dropped.
    """

    def __init__(self, *, capacity: int, strategy: QueueStrategy) -> None:
        self._capacity = capacity
        self._strategy = strategy
        self._subscribers: set[_Subscriber[T]] = set()
        self._closed = False

    async def publish(self, item: T) -> None:
        """Hand an event to every subscriber; waits for slow ones only with the strategy ``suspend``."""
        for subscriber in tuple(self._subscribers):
            while self._strategy == "suspend" and len(subscriber.items) >= self._capacity and subscriber.is_open:
                subscriber.room.clear()
                await subscriber.room.wait()
            if len(subscriber.items) >= self._capacity:
                if self._strategy == "dropping":
                    continue
                subscriber.items.popleft()
            subscriber.items.append(item)
            subscriber.arrived.set()

    def subscribe(self) -> AsyncIterator[T]:
        """Iterate over the events from now on (not from the first ``anext`` on), until the publisher closes."""
        subscriber: _Subscriber[T] = _Subscriber()
        if not self._closed:
            self._subscribers.add(subscriber)
        return self._events(subscriber)

    def stop_waiting(self) -> None:
        """From now on drop the oldest event instead of waiting for a slow subscriber."""
        self._strategy = "sliding"
        for subscriber in self._subscribers:
            subscriber.room.set()

    def close(self) -> None:
        """End every subscription after what it has buffered."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.is_open = False
            subscriber.arrived.set()
            subscriber.room.set()

    async def _events(self, subscriber: _Subscriber[T]) -> AsyncIterator[T]:
        try:
            while True:
                while subscriber.items:
                    yield subscriber.items.popleft()
                    subscriber.room.set()
                if self._closed:
                    return
                subscriber.arrived.clear()
                await subscriber.arrived.wait()
        finally:
            subscriber.is_open = False
            subscriber.room.set()
            self._subscribers.discard(subscriber)
