"""
One query's messages for several readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import final

from agentlayers.errors import UsageError
from agentlayers.runtime.broadcast import Broadcast, Subscription
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.settings import QueueStrategy

__all__ = ["SharedMessages"]


@final
class SharedMessages:
    """
    Gives every reader every message; made by ``QueryHandle.share``.

    Each ``async for`` over it is a reader of its own, with a buffer of its own. A reader sees what comes after it
    began, preceded by the last ``replay`` messages. While there is no reader messages wait, as they do in a query
    that nobody reads; what was in the buffer of one that left is gone with it. Recording goes on whatever they do.

    When the query ends, each reader ends after what it has buffered, with the query's error if it failed.

    Args:
        next_message: Takes the query's next message; raises :class:`StopAsyncIteration` at its end.
        capacity: Messages kept for a reader that is behind.
        strategy: Past that ``suspend`` lets the others wait for it, ``dropping`` keeps the oldest and ``sliding``
            the newest messages for it; ``missed`` of the reader counts what it lost.
        replay: Messages shown again to a reader that comes later.

    Raises:
        UsageError: A capacity below one, a negative replay, or an unknown strategy.
    """

    def __init__(
        self,
        next_message: Callable[[], Awaitable[AgentMessage]],
        *,
        capacity: int,
        strategy: QueueStrategy,
        replay: int,
    ) -> None:
        if capacity < 1:
            raise UsageError(f"capacity must be a whole number from 1, got {capacity!r}")
        if replay < 0:
            raise UsageError(f"replay must be a whole number from 0, got {replay!r}")
        if strategy not in {"suspend", "dropping", "sliding"}:
            raise UsageError(f"strategy {strategy!r} is unknown; it is one of suspend, dropping, sliding")
        self._next_message = next_message
        self._messages: Broadcast[AgentMessage] = Broadcast(capacity=capacity, strategy=strategy, replay=replay)
        self._pump: asyncio.Task[None] | None = None

    def __aiter__(self) -> Subscription[AgentMessage]:
        return self.subscribe()

    def subscribe(self) -> Subscription[AgentMessage]:
        """
        Read from now on.

        A reader that stops early closes it (``async with`` does); one that is simply forgotten is noticed when it is
        garbage collected.
        """
        reader = self._messages.subscribe()
        if self._pump is None:
            self._pump = asyncio.create_task(self._run(), name="shared-messages")
        return reader

    async def aclose(self) -> None:
        """End all readers after what they have buffered."""
        self._messages.close()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _run(self) -> None:
        error: Exception | None = None
        try:
            while True:
                await self._messages.until_followed()
                message = await self._next_message()
                while not await self._messages.publish(message):
                    await self._messages.until_followed()
        except StopAsyncIteration:
            pass
        except Exception as failure:  # noqa: BLE001 - raised to every reader
            error = failure
        finally:
            self._messages.close(error)
