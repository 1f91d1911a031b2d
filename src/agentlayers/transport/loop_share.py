"""
Keep a reader that never has to wait from keeping the event loop to itself.

Awaiting what has arrived already does not let anything else run, so a peer that floods would hold up every other
connection, or the application, for as long as its messages last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final, final

__all__ = ["LoopShare", "portions"]

SECONDS_MAX: Final = 0.002
"""Work done in one go; small beside a round trip, and large beside the turn of the loop that follows."""

_PORTION_BYTES: Final = 4 * 1024
"""A stream is taken apart by so much at a time: hundreds of messages, if they are as short as can be."""


@final
class LoopShare:
    """
    Counts the time that one task works without letting others run.

    Args:
        clock: Seconds, monotonic.
    """

    __slots__ = ("_began_at", "_clock", "_used")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_at = 0.0
        self._used = 0.0

    def begin(self) -> None:
        """Note that work begins."""
        self._began_at = self._clock()

    async def end(self) -> None:
        """Note that it has ended; others run now if it was much since they last did."""
        self._used += self._clock() - self._began_at
        if self._used >= SECONDS_MAX:
            self._used = 0.0
            await asyncio.sleep(0)


def portions(data: bytes) -> Iterator[bytes]:
    """
    Cut what was read from a stream, so that there is a moment in between.

    >>> [len(one) for one in portions(bytes(10_000))]
    [4096, 4096, 1808]

    """
    if len(data) <= _PORTION_BYTES:
        yield data
        return
    for start in range(0, len(data), _PORTION_BYTES):
        yield data[start : start + _PORTION_BYTES]
