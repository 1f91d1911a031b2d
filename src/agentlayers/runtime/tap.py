"""
Taps: what watches a query besides its consumer, such as the recorder, the artifacts and the audit trail.

A tap sees every message in order, also those the consumer never reads, and is closed after the last one.
It can neither change nor stop a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from agentlayers.runtime.message import AgentMessage

__all__ = ["MessageTap", "QueryEnd", "Receipt"]


@final
@dataclass(frozen=True, slots=True)
class QueryEnd:
    """
    How a query ended, as its taps are told.

    Attributes:
        state: ``completed``, ``failed``, ``interrupted`` or ``timed_out``.
        session_id: The last session a message named; empty if none did.
    """

    state: str
    session_id: str


@final
@dataclass(slots=True)
class Receipt:
    """
    A promise of a tap that the consumer waits for before it gets the message.

    Attributes:
        done: Set when the tap has done its work, or has failed.
        deadline: Loop time after which nobody waits any longer; :obj:`None` waits for ever.
        strict: A failure is raised to the consumer.
    """

    done: asyncio.Future[None]
    deadline: float | None = None
    strict: bool = False

    async def settle(self) -> None:
        """Wait until the promise is kept, its deadline has passed, or it failed."""
        if not self.done.done():
            remaining = None
            if self.deadline is not None:
                remaining = max(0.0, self.deadline - asyncio.get_running_loop().time())
            await asyncio.wait({self.done}, timeout=remaining)
        if self.strict and self.done.done():
            self.done.result()


class MessageTap:
    """Watches one query; every method may be left as it is."""

    @property
    def pending(self) -> int:
        """How many messages wait to be kept."""
        return 0

    @property
    def is_behind(self) -> bool:
        """A message was yielded before it was kept, and still is not."""
        return False

    @property
    def lost(self) -> int:
        """How many messages were given up and will never be kept."""
        return 0

    @property
    def error(self) -> Exception | None:
        """Why the last attempt to keep something failed; :obj:`None` when it succeeded."""
        return None

    async def received(self, message: AgentMessage) -> Receipt | None:  # noqa: ARG002
        """See one message of the agent; the consumer waits for the receipt before it gets the message."""
        return None

    async def sent(self, message: Mapping[str, Any]) -> None:
        """See one user message that the agent was given."""

    async def ended(self, end: QueryEnd) -> None:
        """Finish what is queued; no message comes after this."""
