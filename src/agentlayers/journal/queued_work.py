"""What waits for the one thread that works on a journal, and the way its outcome goes back to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["QueuedWork"]


@dataclass(slots=True)
class QueuedWork:
    """
    One piece of work.

    Attributes:
        work: What to do.
        future: Who waits for it; belongs to the event loop.
        is_transaction: It shares a commit with others; what is none runs alone, between commits.
        value: What it returned.
        error: What it raised instead.
    """

    work: Callable[[Any], Any]
    future: asyncio.Future[Any]
    is_transaction: bool = True
    value: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tell whoever waits, if anybody still does; on the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)
