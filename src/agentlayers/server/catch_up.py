"""One connection catching up: what it lags behind with is read from storage as fast as its peer takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from agentlayers.errors import StorageError
from agentlayers.limits import OUTBOX_BYTES_MAX
from agentlayers.server.hub import Hub
from agentlayers.server.outbox import Outbox
from agentlayers.server.subscription import Peer

__all__ = ["CATCH_UP_BYTES_MAX", "CatchUp"]

CATCH_UP_BYTES_MAX: Final = OUTBOX_BYTES_MAX // 8
"""A backlog is read further once less than this is queued."""


class CatchUp:
    """
    Goes on while the hub says that the peer lags behind, with a pause where it says so.

    Args:
        peer: The connection.
        hub: Reads, and gives the connection what was read.
        outbox: Of the connection; decides how fast.
        on_failure: Called if the storage cannot be read; it is stopped then.
    """

    __slots__ = ("_hub", "_is_stopped", "_on_failure", "_outbox", "_pause", "_peer", "_task")

    def __init__(self, peer: Peer, hub: Hub, outbox: Outbox, on_failure: Callable[[StorageError], None]) -> None:
        self._peer = peer
        self._hub = hub
        self._outbox = outbox
        self._on_failure = on_failure
        self._task: asyncio.Task[None] | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def go_on(self) -> None:
        """Read on now, unless that is under way."""
        if self._task is None and not self._is_stopped:
            self._task = asyncio.create_task(self._run())

    def go_on_later(self) -> None:
        """Read on when there is room again, if that is only a matter of time."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        seconds = self._hub.pause_seconds(self._peer)
        if seconds is not None and not self._is_stopped:
            self._pause = asyncio.get_running_loop().call_later(seconds, self.go_on)

    def stop(self) -> None:
        """Begin to read no more; what is being read is still sent."""
        self._is_stopped = True
        if self._pause is not None:
            self._pause.cancel()

    async def close(self) -> None:
        """Stop, and return when nothing of it is left."""
        self.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while not self._is_stopped and self._hub.lags(self._peer):
                await self._outbox.wait_below(CATCH_UP_BYTES_MAX)
                await self._hub.catch_up(self._peer)
        except StorageError as error:
            self.stop()
            self._on_failure(error)
        finally:
            self._task = None
        self.go_on_later()
