"""
Send one store's pending entries over one connection, as soon as they are committed.

What is pending is read from the journal, in local order, behind the last position sent on this
connection. Whatever is committed while a full window is on its way goes into the next batch, so
batches grow with the load and a single write leaves at once. Nothing here ever holds up a local
write.

What came from other servers goes another way: not before the server has said what it has, and a
random moment after it came, because then the server mostly has it from somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentlayers import limits
from agentlayers.crypto.encryption import Encryption
from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.event_journal import Commit
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.entry_codec import encode_entry
from agentlayers.protocol.messages import EncryptedEntry
from agentlayers.sync.registration import Registration
from agentlayers.sync.signal import Signal

__all__ = ["Push"]


@dataclass(slots=True)
class _Course:
    """
    How far the entries of one kind, own or relayed ones, were sent on this connection.

    Attributes:
        relayed: Which kind.
        is_woken: There may be something to be sent.
        position: The last one sent.
        reads_started: How often the journal was asked.
        read_until_dry: Number of the last time that it had nothing more.
        end: Nothing is to be sent that came after this position; :obj:`None`: all of it.
    """

    relayed: bool
    is_woken: bool = False
    position: int = 0
    reads_started: int = 0
    read_until_dry: int = 0
    end: int | None = None


class Push:
    """
    The sending half of a replication.

    Args:
        relays: Whether the server is sent what came from others; if not, nothing of that is ever pending here.

    Attributes:
        progress: Notified whenever something was read, sent or acknowledged.
        has_relayable: Something came from another server that this one may lack.
    """

    def __init__(
        self,
        registration: Registration,
        session: ClientSession,
        encryption: Encryption,
        flush: Callable[[], None],
        *,
        remote_id: bytes,
        relays: bool = True,
    ) -> None:
        self.progress = Signal()
        self.has_relayable = False
        self._registration, self._log = registration, registration.log
        self._session, self._encryption, self._flush = session, encryption, flush
        self._remote_id, self._relays = remote_id, relays
        self._in_flight: dict[int, list[int]] = {}
        self._unacknowledged = 0
        self._batch_entries = limits.FIRST_BATCH_ENTRIES
        self._own, self._others = _Course(relayed=False, is_woken=True), _Course(relayed=True)
        self._last_position: int | None = None
        self._wake = Signal()
        self._may_relay = False
        self._received_position = 0
        self._relay_timer: asyncio.TimerHandle | None = None

    # -- what wakes it --------------------------------------------------------------------------
    def on_commit(self, commit: Commit) -> None:
        """Look for pending entries again, if the commit brought this store any."""
        store = self._log.store
        if commit.has_own(store):
            self.wake()
            self._last_position = commit.last_position
        if self._relays and commit.has_received(store, other_than=self._remote_id):
            self.note_relayable(commit.last_position)

    def wake(self) -> None:
        """Look for pending entries again, until there are none."""
        self._last_position = None
        self._own.is_woken = True
        self._wake.notify()

    def note_relayable(self, position: int) -> None:
        """Something came from another server, up to this position."""
        self.has_relayable = True
        self._received_position = position
        self._wake.notify()
        self._relay_later()

    def relay(self) -> None:
        """Begin to relay: the server has said what it has."""
        self._may_relay = True
        self._relay_later()

    def _relay_later(self) -> None:
        if self._may_relay and self.has_relayable and self._relay_timer is None:
            pause = self._registration.relay_pause_seconds()
            loop = asyncio.get_running_loop()
            self._relay_timer = loop.call_later(pause, self._relay_now, self._received_position)

    def _relay_now(self, position: int) -> None:
        self._relay_timer = None
        self._relay_up_to(position)
        self._wake.notify()
        if self._received_position > position:
            self._relay_later()

    def _relay_up_to(self, position: int) -> None:
        self._others.end = max(self._others.end or 0, position)
        self._others.is_woken = True

    def close(self) -> None:
        """Forget what was to be done later."""
        self._may_relay = False
        self._stop_timer()

    def _stop_timer(self) -> None:
        timer, self._relay_timer = self._relay_timer, None
        if timer is not None:
            timer.cancel()

    # -- what others wait for -------------------------------------------------------------------
    async def until_relayable(self) -> None:
        """Return once there is something that may have to be relayed."""
        await self._wake.until(lambda: self.has_relayable)

    def acknowledge(self, message_id: int) -> list[int]:
        """Take a message out of the window and return the positions it carried."""
        positions = self._in_flight.pop(message_id, [])
        self._unacknowledged -= len(positions)
        self._registration.acknowledging += len(positions)
        self.progress.notify()
        return positions

    async def settled(self, *, relayed: bool = False) -> None:
        """
        Return once everything committed before the call was acknowledged by the server, whatever is written meanwhile.

        Args:
            relayed: Also what came from other servers, without waiting to see whether it has that.
        """
        journal, courses = self._log.journal, [self._own]
        end = await self._registration.persisted("look", lambda: journal.read(lambda tx: tx.next_position() - 1))
        if relayed and self._may_relay and self.has_relayable:
            self._stop_timer()
            self._relay_up_to(end)
            courses.append(self._others)
        targets = [(course, course.reads_started + 1) for course in courses]
        self.wake()
        await self.progress.until(
            lambda: all(course.read_until_dry >= target or course.position >= end for course, target in targets)
        )
        sent = frozenset(self._in_flight)
        await self.progress.until(lambda: sent.isdisjoint(self._in_flight))

    # -- sending --------------------------------------------------------------------------------
    async def run(self) -> None:
        """Send what is pending, and go on whenever something is committed."""
        course = self._others
        while True:
            await self._wake.until(lambda: self._own.is_woken or self._others.is_woken)
            # In turn, if there is something of both kinds.
            other = self._own if course is self._others else self._others
            course = other if other.is_woken else course
            course.is_woken = False
            course.is_woken = await self._push_batch(course) or course.is_woken

    async def _push_batch(self, course: _Course) -> bool:
        """Send one batch; whether there may be more."""
        await self._room()
        course.reads_started += 1
        read = course.reads_started
        batch = await self._registration.persisted("read", lambda: self._read(course))
        # The first ones are small, so that the server has something to do while the next are sealed.
        self._batch_entries = min(2 * self._batch_entries, limits.PUSH_BATCH_ENTRIES_MAX)
        found, end = len(batch), course.end
        if end is not None:
            batch = [stored for stored in batch if stored.position <= end]
        if batch:
            await self._send(batch)
            course.position = batch[-1].position
            self.progress.notify()
        is_dry = len(batch) < max(1, found) or self._is_last(batch[-1], end if course.relayed else self._last_position)
        if is_dry:
            course.read_until_dry = read
            self._count()
            self.progress.notify()
        return not is_dry

    def _read(self, course: _Course) -> Awaitable[Sequence[StoredEntry]]:
        return self._log.journal.uncommitted(
            self._log.store,
            self._remote_id,
            after=course.position,
            entries_max=self._batch_entries,
            bytes_max=limits.PUSH_BATCH_BYTES_MAX,
            relayed=course.relayed,
        )

    @staticmethod
    def _is_last(stored: StoredEntry, last_position: int | None) -> bool:
        """Tell whether the journal holds nothing behind an entry, so that it need not be asked once more."""
        # The size of a batch does not tell: one that is small was cut short if a large entry comes next.
        return last_position is not None and stored.position >= last_position

    def _count(self) -> None:
        """Know what is pending without asking, if nothing waits to be sent."""
        if not (self._own.is_woken or self._others.is_woken or self._has_unsent_relayable):
            self._registration.counted(self._unacknowledged + self._registration.acknowledging)

    @property
    def _has_unsent_relayable(self) -> bool:
        return self.has_relayable and (not self._may_relay or self._relay_timer is not None)

    async def _send(self, batch: Sequence[StoredEntry]) -> None:
        if self._session.accepts_entry_nonces:
            await self._write(batch)
            return
        # One entry to a message: a stock server stores one nonce for all entries of a message.
        for stored in batch:
            await self._write((stored,))

    async def _sealed(self, batch: Sequence[StoredEntry]) -> list[EncryptedEntry]:
        private_key, seal = self._log.private_key, self._encryption.seal
        sealed = []
        for stored in batch:
            entry = stored.entry
            sealed.append(EncryptedEntry(entry.id, *seal(private_key, encode_entry(*entry))))
        return sealed

    async def _write(self, batch: Sequence[StoredEntry]) -> None:
        # A key that cannot be used is this store's trouble alone.
        sealed = await self._registration.persisted("seal", lambda: self._sealed(batch))
        # Others write too, to learn where the server stands: what was room before the journal was read may be taken.
        await self._room()
        message_id = self._session.write_entries(self._log.public_key, sealed)
        self._in_flight[message_id] = [stored.position for stored in batch]
        self._unacknowledged += len(batch)
        self._flush()

    async def _room(self) -> None:
        """Wait until the window has room for one more message."""
        window = 1 if self._session.has_to_take_turns else limits.PUSH_WINDOW_MESSAGES
        public_key, has_room = self._log.public_key, self._session.has_room
        await self.progress.until(lambda: len(self._in_flight) < window and has_room(public_key))
