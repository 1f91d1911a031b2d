"""A tap that is attached to a query when some of its messages are waiting to be read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, final

from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt

__all__ = ["LateTap"]


@final
class LateTap(MessageTap):
    """
    Shows a tap what is buffered before anything new.

    Args:
        tap: The tap.
        backlog: Messages that are not read yet; the tap's receipts are added to theirs.
    """

    def __init__(self, tap: MessageTap, backlog: list[tuple[AgentMessage, list[Receipt]]]) -> None:
        self._tap = tap
        self._backlog = backlog
        self._order = asyncio.Lock()
        self._has_ended = False

    @property
    def pending(self) -> int:
        """Messages not kept yet, and those the tap has not seen."""
        return self._tap.pending + len(self._backlog)

    @property
    def is_behind(self) -> bool:
        """As the tap says."""
        return self._tap.is_behind

    @property
    def lost(self) -> int:
        """As the tap says."""
        return self._tap.lost

    @property
    def error(self) -> Exception | None:
        """As the tap says."""
        return self._tap.error

    async def catch_up(self) -> None:
        """Show what is buffered."""
        # Both the reader and the owner task come here; the lock keeps the order of messages.
        if not self._backlog:
            return
        async with self._order:
            while self._backlog:
                message, receipts = self._backlog[0]
                receipt = await self._tap.received(message)
                if receipt is not None:
                    receipts.append(receipt)
                self._backlog.pop(0)

    async def received(self, message: AgentMessage) -> Receipt | None:
        """Show one message, after what is buffered."""
        await self.catch_up()
        return await self._tap.received(message)

    async def sent(self, message: Mapping[str, Any]) -> None:
        """Show one user message, after what is buffered."""
        await self.catch_up()
        await self._tap.sent(message)

    async def ended(self, end: QueryEnd) -> None:
        """End the tap, once, after what is buffered."""
        if not self._has_ended:
            self._has_ended = True
            await self.catch_up()
            await self._tap.ended(end)
