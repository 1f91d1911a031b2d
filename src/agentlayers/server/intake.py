"""
How much a stock replica with an SQL journal has probably not taken over yet: an estimate, because it does not say.

The stock SQL journal stores all that has reached it with one statement, five variables to an entry. SQLite takes 32,766
in a statement: with more than 6,553 entries it fails, the entries are forgotten, and the next one that is stored moves
the place from which the replica resumes past them. So what is sent to it beyond what it has worked off is bounded.

What counts as worked off grows with time, at half the speed that was measured for an idle peer with SQLite, which looks
through its whole journal for each entry. But it never passes what the peer is known to have read: its answer to that
question also comes late while it is busy, because its statements keep its event loop from anything else. And it does
not grow before the first write of the peer has arrived: until that has its Ack, such a journal stores nothing.

This module keeps no clock; it is given one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["Intake", "seconds_per_entry"]

ENTRIES_MAX: Final = 2048
"""Sent and not worked off by the estimate; a third of what fits into a statement, for a peer that is slower."""

BURST_ENTRIES_MAX: Final = 3 * ENTRIES_MAX
"""Sent at once to a peer that has worked off everything, where that spares it a second turn."""

RESUME_ENTRIES: Final = 512
"""There has to be room for so many before a peer that was given too much is sent more."""

ENTRY_SECONDS: Final = 0.0002
"""For each entry, and ..."""

ENTRY_SECONDS_PER_SEQUENCE: Final = 0.000_000_14
"""... for each that is in the journal already."""

FIRST_WRITE_SECONDS_MAX: Final = 60.0
"""Longer is not waited for the first write: a stock client begins with one."""


class Intake:
    """
    What one connection was sent of one key, and what of it the peer has worked off by now.

    Args:
        clock: Seconds, monotonic.

    Attributes:
        sent: Entries sent, or listed in Acks.
    """

    __slots__ = ("_at", "_changes_end", "_clock", "_done", "_opens_at", "_received", "sent")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._opens_at = self._at + FIRST_WRITE_SECONDS_MAX
        self._received = 0
        self._done = 0.0
        self._changes_end = 0
        self.sent = 0

    @property
    def unread(self) -> int:
        """Entries that the peer is not known to have read."""
        return self.sent - self._received

    def take(self, count: int, *, in_changes: bool) -> None:
        """Count entries that are sent, in Changes or by listing them in an Ack."""
        self.sent += count
        if in_changes:
            self._changes_end = self.sent

    def has_changes(self, sequence: int) -> bool:
        """
        Whether there are Changes that the peer has not worked off: it would note what an Ack lists before them.

        It opens what it receives before it stores it; in an Ack there is nothing to open.
        """
        self._work(sequence)
        return self._done < self._changes_end

    def open(self) -> None:
        """Note the peer's first write."""
        self._opens_at = min(self._opens_at, self._clock())

    def room(self, sequence: int) -> int:
        """Return how many entries may be sent now to a peer that has those below ``sequence``."""
        self._work(sequence)
        return ENTRIES_MAX - self._waiting

    def room_at_once(self, sequence: int) -> int:
        """As :meth:`room`, or the whole of a statement if nothing else is waiting."""
        self._work(sequence)
        return ENTRIES_MAX - self._waiting if self._waiting else BURST_ENTRIES_MAX

    def received(self, sent: int, sequence: int) -> None:
        """Note that the peer has read the first ``sent`` entries."""
        self._work(sequence)  # it has worked on the others until now
        self._received = max(self._received, min(sent, self.sent))

    def seconds_until_resuming(self, sequence: int) -> float | None:
        """Return when there will be room for ``RESUME_ENTRIES``; :obj:`None` if not before the peer has read more."""
        missing = RESUME_ENTRIES - self.room(sequence)
        if missing <= 0:
            return 0.0
        if self._done + missing > self._received:
            return None
        return max(self._opens_at - self._at, 0.0) + missing * seconds_per_entry(sequence)

    @property
    def _waiting(self) -> int:
        return self.sent - int(self._done)

    def _work(self, sequence: int) -> None:
        """Let it work until now."""
        now = self._clock()
        seconds = now - max(self._at, self._opens_at)
        self._at = now
        if seconds > 0:
            self._done = min(self._done + seconds / seconds_per_entry(sequence), self._received)


def seconds_per_entry(sequence: int) -> float:
    """Return how long a peer is taken to work on an entry when it has those below ``sequence``."""
    return ENTRY_SECONDS + ENTRY_SECONDS_PER_SEQUENCE * sequence
