"""Finish what was begun, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["uninterrupted"]

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T], *, name: str | None = None) -> T:
    """
    Finish ``work`` even if the caller is cancelled meanwhile, then let the cancellation go on.

    Args:
        work: Runs in a task of its own; it has to bound by itself how long it takes.
        name: Of that task.

    Returns:
        What ``work`` returns, if nobody was cancelled.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()
    raise cancelled
