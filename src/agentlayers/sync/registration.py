"""One store that takes part in sync with one server, and what is known of it across connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from random import Random
from typing import Final, NoReturn, TypeVar

from agentlayers import limits
from agentlayers.errors import AgentLayersError, StateError, StorageError, UsageError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.event_journal import Commit
from agentlayers.logs import get_logger
from agentlayers.schedule import exponential
from agentlayers.sync.signal import Signal
from agentlayers.sync.status import QuarantinedEntry, StoreStatus

__all__ = ["Registration"]

T = TypeVar("T")

logger = get_logger(__name__)

_RETRIES: Final = exponential(0.25).capped(30)
"""Pauses after the failures of a journal."""


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
        diverged_at: Loop time at which that was noticed.
        is_contradictory: It differed of what the server had sent from the start on that very connection: exchanging
            everything again does not help.
        must_start_over: The next connection forgets what is known of the server, and exchanges everything again.
        quarantine: The latest entries kept out of the journal.
        has_reopened: What was kept aside was tried with the key of this process.
        acknowledging: Entries whose Ack is here and not in the journal yet.
        failures: How often the journal failed, or the key.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        enabled: bool,
        on_demand: bool = False,
        relay: bool | None = None,
        random: Random | None = None,
        changed: Signal | None = None,
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
        self.diverged_at = 0.0
        self.is_contradictory = False
        self.must_start_over = False
        self.quarantine: deque[QuarantinedEntry] = deque(maxlen=limits.QUARANTINE_ENTRIES_MAX)
        self.has_reopened = False
        self.acknowledging = 0
        self._errors: dict[str, AgentLayersError] = {}
        self.failures = 0
        self._forget_expected: Callable[[], None] | None = None
        self._changed, self._retry = changed or Signal(), Signal()
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

    @property
    def changes(self) -> int:
        """How often something happened that a count does not know of if it began before."""
        return self._changes

    def counted(self, pending: int, *, since: int | None = None) -> None:
        """
        Note how many entries are pending.

        Args:
            pending: As the journal says.
            since: What :attr:`changes` was when it was asked, if that took time: where something was written
                meanwhile, at least that is pending, and it is counted again.
        """
        if since not in (None, self._changes):
            self.pending, self.is_stale = max(1, pending), True
            return
        self._changes += 1
        self.pending, self.is_stale, self.is_relayed_stale = pending, False, False

    def acknowledged(self, count: int, now: float) -> None:
        """Note that the server durably holds ``count`` more of our entries."""
        self._changes += 1
        self.sent += count
        self.acknowledging = max(0, self.acknowledging - count)
        self._last_acknowledged = now
        if self.pending is not None:
            # What was written since it was counted may not have been sent yet.
            self.pending = max(int(self.is_stale), self.pending - count)

    def left(self) -> None:
        """Note that a replication ended, whatever of it the journal may have taken over."""
        self._changes += 1
        self.acknowledging, self.is_stale = 0, True

    def expect(self, url: str) -> None:
        """Let the journal keep what is written here until this server was met for the first time."""
        self._forget_expected = self.log.journal.expect_remote(self.store, url)

    def met(self) -> None:
        """Note that the journal knows this server, or that it is not going to."""
        forget, self._forget_expected = self._forget_expected, None
        if forget is not None:
            forget()

    @property
    def error(self) -> AgentLayersError | None:
        """Why the store cannot be replicated now; the connection and other stores go on."""
        return next(iter(self._errors.values()), None)

    async def persisted(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """
        Do something with the store; where its journal fails, or its key cannot be used, again after a pause.

        Meanwhile the connection goes on for the other stores, and the server keeps to the credit of this one.

        Args:
            what: Names it: it counts as failing until it is done itself, whatever else is done meanwhile.
            work: Does it.
        """
        try:
            for attempt in itertools.count(1):
                try:
                    return await work()
                except (StorageError, StateError, UsageError) as error:
                    self._note_failure(what, error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRIES.delay_seconds(attempt, self._random)):
                        await self._retry.wait()
            raise AssertionError("it is tried for ever")
        finally:
            # Done, or not wanted any more.
            if self._errors.pop(what, None) is not None:
                self._changed.notify()

    def _note_failure(self, what: str, error: AgentLayersError) -> None:
        if what not in self._errors:
            logger.warning("store_not_synced", store=self.store, step=what, error=str(error))
        self._errors[what] = error
        self.failures += 1
        self._changed.notify()

    def retry(self) -> None:
        """Cut the pause short that follows a failure."""
        self._retry.notify()

    async def until_failed(self, failures: int) -> NoReturn:
        """
        Wait until the store has failed more often than that.

        Raises:
            AgentLayersError: Why it failed.
        """
        await self._changed.until(lambda: self.failures > failures and self.error is not None)
        assert self.error is not None
        raise self.error

    def keep_out(self, entry_id: bytes, sequence: int, reason: str, *, is_kept: bool) -> None:
        """Note a received entry that was put into quarantine, or would have been if there had been room."""
        self.quarantine.append(QuarantinedEntry(self.store, entry_id, sequence, reason, is_kept))
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
            last_error=None if self.error is None else str(self.error),
        )


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
