"""
All who watch one query besides its readers: its taps, those attached later, and its telemetry.

None of them can break the conversation: what they raise is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, final

from agentlayers.logs import get_logger
from agentlayers.runtime.late_tap import LateTap
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt
from agentlayers.runtime.telemetry import QueryTelemetry

__all__ = ["QueryTaps"]

logger = get_logger(__name__)


@final
class QueryTaps:
    """
    The watchers of one query.

    Args:
        query_id: Named in logs.
        taps: See every message from the first one on.
        telemetry: Told what happens.
    """

    def __init__(self, query_id: str, taps: Iterable[MessageTap], telemetry: QueryTelemetry | None) -> None:
        self._query_id = query_id
        self._taps = list(taps)
        self._late: list[LateTap] = []
        self._telemetry = telemetry
        self._have_ended = False

    # -- how they are doing -----------------------------------------------------------------------------
    @property
    def have_ended(self) -> bool:
        """The query is over, and they were told."""
        return self._have_ended

    @property
    def pending(self) -> int:
        """Messages not kept yet."""
        return sum(tap.pending for tap in self._taps)

    @property
    def lost(self) -> int:
        """Messages that will never be kept."""
        return sum(tap.lost for tap in self._taps)

    @property
    def are_behind(self) -> bool:
        """A message was yielded before it was kept, and still is not."""
        return any(tap.is_behind for tap in self._taps)

    @property
    def error(self) -> Exception | None:
        """Why one of them cannot keep something."""
        return next((tap.error for tap in self._taps if tap.error is not None), None)

    # -- what they see ----------------------------------------------------------------------------------
    def attach(self, tap: MessageTap, backlog: list[tuple[AgentMessage, list[Receipt]]]) -> None:
        """Add one that sees the backlog first."""
        late = LateTap(tap, backlog)
        self._taps.append(late)
        self._late.append(late)

    async def catch_up(self) -> None:
        """Show the backlog to those that were attached later, before its first message is yielded."""
        for tap in self._late:
            await self._quietly(tap.catch_up(), "received")

    async def shown(self, messages: AsyncIterable[Mapping[str, Any]]) -> AsyncIterator[Mapping[str, Any]]:
        """Pass user messages on, showing each as it is taken."""
        async for message in messages:
            await self.sent(message)
            yield message

    async def sent(self, message: Mapping[str, Any]) -> None:
        """Show a user message."""
        for tap in self._taps:
            await self._quietly(tap.sent(message), "sent")

    def started(self) -> None:
        """Tell that the agent runs."""
        self._tell(lambda telemetry: telemetry.started())

    async def received(self, message: AgentMessage) -> list[Receipt]:
        """Show a message of the agent, and return what its reader has to wait for."""
        receipts: list[Receipt] = []
        for tap in self._taps:
            receipt = await self._quietly(tap.received(message), "received")
            if receipt is not None:
                receipts.append(receipt)
        if self._telemetry is not None:
            self._tell(lambda telemetry: telemetry.recording(receipts))
            await self._quietly(self._telemetry.received(message), "telemetry")
        return receipts

    def gone(self, state: str, error: Exception | None) -> None:
        """Tell that nothing of the agent is left."""
        self._tell(lambda telemetry: telemetry.gone(state, error))

    async def end(self, end: QueryEnd) -> None:
        """Let all of them finish; together, because each may wait a while for a store that does not answer."""
        try:
            await asyncio.gather(*(self._quietly(tap.ended(end), "ended") for tap in self._taps))
        finally:
            self._have_ended = True

    async def end_late(self, end: QueryEnd) -> None:
        """End those that were attached when the agent was gone, but not all of it read."""
        while self._late:
            await self._quietly(self._late.pop(0).ended(end), "ended")

    def _tell(self, note: Callable[[QueryTelemetry], None]) -> None:
        if self._telemetry is not None:
            try:
                note(self._telemetry)
            except Exception:
                logger.exception("tap_failed", what="telemetry", query_id=self._query_id)

    async def _quietly(self, call: Awaitable[Any], what: str) -> Any:
        try:
            return await call
        except Exception:
            logger.exception("tap_failed", what=what, query_id=self._query_id)
            return None
