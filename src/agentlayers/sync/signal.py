"""Wake whoever waits for a condition each time something changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Signal"]


class Signal:
    """
    A condition without a lock, for one event loop.

    Waiters test their predicate, and again after each :meth:`notify`; several notifications before
    a waiter runs count as one.

    Attributes:
        count: How often :meth:`notify` was called.
    """

    __slots__ = ("_waiters", "count")

    def __init__(self) -> None:
        self.count = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Make every waiter test its predicate again."""
        self.count += 1
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def wait(self) -> None:
        """Wait for the next notification."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once ``predicate`` holds; at once if it does already."""
        while not predicate():
            await self.wait()
