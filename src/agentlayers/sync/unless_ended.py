"""Wait for something that only comes as long as something else lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from agentlayers.errors import ConnectionLostError

__all__ = ["unless_ended"]

T = TypeVar("T")


async def unless_ended(work: Awaitable[T], ended: asyncio.Future[Any]) -> T:
    """
    Wait for ``work``, but no longer than until ``ended`` is done; then ``work`` is cancelled.

    Args:
        work: What is waited for. If it is done, it counts, whether the other is done too.
        ended: Left as it is, so that others may wait for it as well.

    Raises:
        ConnectionLostError: The end came first, or ``work`` was cancelled with it.
        Exception: The end came first, and it was this failure.
    """
    task = asyncio.ensure_future(work)
    try:
        waited: set[asyncio.Future[Any]] = {task, ended}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled():
            return task.result()
        if ended.done():
            ended.result()
        raise ConnectionLostError(reason="the connection ended meanwhile")
    finally:
        task.cancel()
