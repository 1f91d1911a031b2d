"""What one peer has written that is not stored or not acknowledged: bounded by reading its socket no further."""

from __future__ import annotations

import asyncio
from typing import Final

from agentlayers.limits import SUBSCRIPTIONS_PER_CONNECTION_MAX, WRITE_WINDOW_MESSAGES

__all__ = ["ACKS_OWED_MAX", "WRITES_IN_FLIGHT_MAX", "WRITE_BYTES_IN_FLIGHT_MAX", "WritesInFlight"]

WRITES_IN_FLIGHT_MAX: Final = 64
"""Writes of one connection that are not committed yet; when reached, its socket is not read."""

WRITE_BYTES_IN_FLIGHT_MAX: Final = 16 * 1024 * 1024
"""As above, in bytes: ciphertext, and 256 for each entry (one larger write still goes alone)."""

ACKS_OWED_MAX: Final = 2 * SUBSCRIPTIONS_PER_CONNECTION_MAX * WRITE_WINDOW_MESSAGES
"""Writes without an Ack, most of them waiting until their writer has read its backlog; more than a client that keeps to
its write windows can have, because its credit is not read either while this is reached."""


class WritesInFlight:
    """
    Counts the writes of one connection from their arrival to their commit, and to their Ack.

    Attributes:
        bytes: What those take that are not committed.
    """

    __slots__ = ("_acks_owed", "_changed", "_count", "_is_released", "bytes")

    def __init__(self) -> None:
        self._count = 0
        self.bytes = 0
        self._acks_owed = 0
        self._is_released = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether so much is in flight that no more is to be read."""
        return (
            self._count >= WRITES_IN_FLIGHT_MAX
            or self.bytes >= WRITE_BYTES_IN_FLIGHT_MAX
            or self._acks_owed >= ACKS_OWED_MAX
        )

    def add(self, size: int) -> None:
        """Count a write of that size, as the hub tells it."""
        self._count += 1
        self.bytes += size
        self._acks_owed += 1

    def settle(self, size: int) -> None:
        """Count a write as committed, or failed."""
        self._count -= 1
        self.bytes -= size
        self._changed.set()

    def acknowledge(self) -> None:
        """Count a write as acknowledged."""
        self._acks_owed -= 1
        self._changed.set()

    def release(self) -> None:
        """Let nobody wait any more: the connection ends."""
        self._is_released = True
        self._changed.set()

    async def wait_for_room(self) -> None:
        """Return when more may be read."""
        while self.is_full and not self._is_released:
            self._changed.clear()
            await self._changed.wait()
