"""
The user messages on their way to a running agent: one text, a stream of messages, and what is sent later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, final

from agentlayers.errors import StateError

__all__ = ["QueryInput"]

INPUT_MESSAGES_MAX: Final = 16
"""User messages waiting for the agent; past it the sender waits."""


@final
class QueryInput:
    """A bounded queue of user messages that can be closed."""

    def __init__(self, *, streaming: bool) -> None:
        self._streaming = streaming
        self._messages: deque[Mapping[str, Any]] = deque()
        self._changed = asyncio.Condition()
        self._closed = False

    @property
    def is_waiting(self) -> bool:
        """A message waits for the agent."""
        return bool(self._messages)

    async def send(self, message: Mapping[str, Any]) -> None:
        """
        Queue one message, waiting for room.

        Raises:
            StateError: The prompt was one text, or the input is closed.
        """
        if not self._streaming:
            raise StateError(
                "streaming input is not enabled for this query; "
                "give an async iterable (or None) as the prompt instead of a text"
            )
        await self.put(message)

    async def put(self, message: Mapping[str, Any]) -> None:
        """
        Queue one message of the prompt itself.

        Raises:
            StateError: The input is closed.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or len(self._messages) < INPUT_MESSAGES_MAX)
            if self._closed:
                raise StateError("the input of this query is closed; nothing more can be sent")
            self._messages.append(message)
            self._changed.notify_all()

    async def close(self) -> None:
        """Let :meth:`get` end after what is queued."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def get(self) -> Mapping[str, Any] | None:
        """Take the next message; :obj:`None` when the input is closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or bool(self._messages))
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._changed.notify_all()
            return message
