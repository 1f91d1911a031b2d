"""Pauses that a seed decides about."""

from __future__ import annotations

import asyncio
from random import Random

__all__ = ["pause"]


async def pause(random: Random, *, longest: float = 0.5) -> None:
    """Wait not at all, for some turns of the loop, or for a while."""
    kind = random.random()
    if kind < 0.5:
        return
    if kind < 0.85:
        for _ in range(random.randint(1, 4)):
            await asyncio.sleep(0)
    elif kind < 0.97:
        await asyncio.sleep(random.random() * 0.01)
    else:
        await asyncio.sleep(random.random() * longest)
