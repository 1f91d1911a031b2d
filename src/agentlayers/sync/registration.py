"""One store that takes part in sync with one server, and what is known of it across connections."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from random import Random
from typing import Final

from agentlayers import limits
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.event_journal import Commit
from agentlayers.sync.status import QuarantinedEntry, StoreStatus

__all__ = ["Registration"]

_QUARANTINE_MAX: Final = 1000
"""Quarantined entries kept for inspection per store; their number is counted beyond it."""


class Registration:
    """
    A registered store and its counters; they outlive connections.

    Attributes:
        log: The store.
        enabled: Whether its sync flag is on.
        on_demand: Entries are sent, but those of others only fetched by id.
        relay: Whether the server is sent what came from other servers; :obj:`None`: if it is one of ours, and there are
            several.
        pending: Entries to be sent that the server is not known to have, as last counted.
        is_stale: Something was written since ``pending`` was counted.
        is_relayed_stale: Since then something came from another server, or this one turned out to have something.
        next_sequence: First sequence of the server not held here.
        remote_id: The server that was last spoken to.
        sent: Entries acknowledged since the process started.
        received: New entries taken over since the process started.
        head: First sequence the server had not given out, as it last said.
        verified_at: When the server's digest of what it holds last equalled ours.
        is_diverged: Its digest differed, and no equal one was seen since.
        must_start_over: The next connection forgets what is known of the server, and exchanges everything again.
        quarantine: The latest entries kept out of the journal.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        enabled: bool,
        on_demand: bool = False,
        relay: bool | None = None,
        random: Random | None = None,
    ) -> None:
        self.log = log
        self.enabled = enabled
        self.on_demand = on_demand
        self.relay = relay
        self._random = random or Random()
        self.pending: int | None = None
        self.is_stale = True
        self.is_relayed_stale = False
        self.next_sequence = 0
        self.remote_id: bytes | None = None
        self.sent = 0
        self.received = 0
        self.head: int | None = None
        self.verified_at: float | None = None
        self.is_diverged = False
        self.must_start_over = False
        self.quarantine: deque[QuarantinedEntry] = deque(maxlen=_QUARANTINE_MAX)
        self._quarantined = 0
        self._changes = 0
        self._last_acknowledged: float | None = None

    @property
    def store(self) -> str:
        """Name of the store."""
        return self.log.store

    @property
    def public_key(self) -> str:
        """What the server calls it."""
        return self.log.public_key

    def note_commit(self, commit: Commit) -> None:
        """Take note that the journal got entries: until it is counted, at least one own entry may be pending."""
        self._changes += 1
        if commit.has_own(self.store):
            self.is_stale = True
            if self.pending is not None:
                self.pending = max(1, self.pending)
        if self.relay is not False and commit.has_received(self.store, other_than=self.remote_id or b""):
            self.is_relayed_stale = True

    def relay_pause_seconds(self) -> float:
        """Return how long to wait before something is relayed; it differs each time."""
        return limits.RELAY_DELAY_SECONDS * self._random.uniform(0.5, 1.5)

    def counted(self, pending: int) -> None:
        """Note how many entries are pending."""
        self._changes += 1
        self.pending, self.is_stale, self.is_relayed_stale = pending, False, False

    def acknowledged(self, count: int, now: float) -> None:
        """Note that the server durably holds ``count`` more of our entries."""
        self._changes += 1
        self.sent += count
        self._last_acknowledged = now
        if self.pending is not None:
            self.pending = max(0, self.pending - count)

    def keep_out(self, entry_id: bytes, sequence: int, reason: str) -> None:
        """Note a received entry that was put into quarantine."""
        self.quarantine.append(QuarantinedEntry(self.store, entry_id, sequence, reason))
        self._quarantined += 1

    async def recount(self) -> None:
        """Count again what is pending, if something was written since and a server is known."""
        if self.remote_id is None or not (self.is_stale or self.is_relayed_stale):
            return
        self.is_stale = self.is_relayed_stale = False
        changes = self._changes
        state = await self.log.journal.remote_state(self.store, self.remote_id)
        if changes == self._changes:
            self.pending, self.next_sequence = state.pending, state.next_sequence
        else:
            # Something was acknowledged or written while the journal was read: what it said is of no use.
            self.is_stale = self.is_relayed_stale = True

    def status(self) -> StoreStatus:
        """Return the counters as a value."""
        return StoreStatus(
            enabled=self.enabled,
            pending=self.pending,
            next_sequence=self.next_sequence,
            behind=None if self.head is None else max(0, self.head - self.next_sequence),
            last_acknowledged=_instant(self._last_acknowledged),
            last_verified=_instant(self.verified_at),
            is_diverged=self.is_diverged,
            sent=self.sent,
            received=self.received,
            quarantined=self._quarantined,
        )


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
