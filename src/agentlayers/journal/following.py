"""Tell listeners and followers of a journal that something was committed; lives on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentlayers.journal.event_journal import Commit
from agentlayers.logs import get_logger

__all__ = ["CommitHub", "Follower"]

logger = get_logger(__name__)


class Follower:
    """One reader of ``changes``: knows whether something came since it last looked."""

    def __init__(self, store: str | None) -> None:
        self._store = store
        self._wake = asyncio.Event()
        self.is_closed = False

    def notify(self, commit: Commit) -> None:
        """Wake the reader if the commit concerns its store."""
        if self._store is None or self._store in commit.stores:
            self._wake.set()

    def close(self) -> None:
        """End the reader after what it has."""
        self.is_closed = True
        self._wake.set()

    def look(self) -> None:
        """Note that the reader is about to look; what is committed from here on wakes it."""
        self._wake.clear()

    async def wait(self) -> None:
        """Wait until something was committed since the last look."""
        await self._wake.wait()


class CommitHub:
    """
    Fans commits out.

    Attributes:
        last_position: Highest position published.
        on_followed: Called when the first listener or follower comes.
    """

    def __init__(self) -> None:
        self.on_followed: Callable[[], None] | None = None
        self.last_position = 0
        self._listeners: list[Callable[[Commit], None]] = []
        self._followers: set[Follower] = set()

    @property
    def is_followed(self) -> bool:
        """Whether anybody listens, so that looking for other processes' commits is worth it."""
        return bool(self._listeners or self._followers)

    def listen(self, listener: Callable[[Commit], None]) -> Callable[[], None]:
        """Call ``listener`` for each commit; returns how to stop."""
        self._announce()
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def follow(self, store: str | None) -> Follower:
        """Add a follower; give it back to :meth:`leave`."""
        self._announce()
        follower = Follower(store)
        self._followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Remove a follower."""
        self._followers.discard(follower)

    def _announce(self) -> None:
        if not self.is_followed and self.on_followed is not None:
            self.on_followed()

    def publish(self, commit: Commit) -> None:
        """Tell everybody; a listener that raises harms no other."""
        self.last_position = max(self.last_position, commit.last_position)
        for listener in tuple(self._listeners):
            try:
                listener(commit)
            except Exception as error:  # noqa: BLE001  # a listener's fault must not stop the journal
                logger.warning("commit_listener_failed", error=type(error).__name__)
        for follower in self._followers:
            follower.notify(commit)

    def close(self) -> None:
        """End all followers and drop all listeners."""
        self.on_followed = None
        self._listeners.clear()
        for follower in tuple(self._followers):
            follower.close()
