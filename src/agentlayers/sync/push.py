"""
Send one store's pending entries over one connection, as soon as they are committed.

What is pending is read from the journal, in local order, behind the last position sent on this
connection. Whatever is committed while a full window is on its way goes into the next batch, so
batches grow with the load and a single write leaves at once. Nothing here ever holds up a local
write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class Push:
    """
    The sending half of a replication.

    Attributes:
        progress: Notified whenever something was read, sent or acknowledged.
    """

    def __init__(
        self,
        registration: Registration,
        session: ClientSession,
        encryption: Encryption,
        flush: Callable[[], None],
    ) -> None:
        self.progress = Signal()
        self._registration, self._log = registration, registration.log
        self._session, self._encryption, self._flush = session, encryption, flush
        self._in_flight: dict[int, list[int]] = {}
        self._unacknowledged = 0
        self._pushed_position = 0
        self._last_position: int | None = None
        self._reads_started = 0
        self._read_until_dry = 0
        self._is_woken = True
        self._wake = Signal()

    def on_commit(self, commit: Commit) -> None:
        """Look for pending entries again, if the commit touched this store."""
        if self._log.store in commit.stores:
            self.wake()
            self._last_position = commit.last_position

    def wake(self) -> None:
        """Look for pending entries again, until there are none."""
        self._last_position = None
        self._is_woken = True
        self._wake.notify()

    def acknowledge(self, message_id: int) -> list[int]:
        """Take a message out of the window and return the positions it carried."""
        positions = self._in_flight.pop(message_id, [])
        self._unacknowledged -= len(positions)
        self.progress.notify()
        return positions

    async def settled(self) -> None:
        """Return once everything committed before the call was acknowledged by the server."""
        target = self._reads_started + 1
        self.wake()
        await self.progress.until(lambda: self._read_until_dry >= target and not self._in_flight)

    async def run(self, remote_id: bytes) -> None:
        """Send what is pending, and go on whenever something is committed."""
        while True:
            await self._wake.until(lambda: self._is_woken)
            self._is_woken = False
            while await self._push_batch(remote_id):
                pass

    async def _push_batch(self, remote_id: bytes) -> bool:
        """Send one batch; whether there may be more."""
        await self._room()
        self._reads_started += 1
        read = self._reads_started
        batch = await self._log.journal.uncommitted(
            self._log.store,
            remote_id,
            after=self._pushed_position,
            entries_max=limits.PUSH_BATCH_ENTRIES_MAX,
            bytes_max=limits.PUSH_BATCH_BYTES_MAX,
        )
        if batch:
            self._pushed_position = batch[-1].position
            await self._send(batch)
        is_dry = not batch or self._is_last(batch[-1])
        if is_dry:
            self._registration.pending = self._unacknowledged
            self._registration.is_stale = False
            self._read_until_dry = read
            self.progress.notify()
        return not is_dry

    def _is_last(self, stored: StoredEntry) -> bool:
        """Tell whether the journal holds nothing behind an entry, so that it need not be asked once more."""
        # The size of a batch does not tell: one that is small was cut short if a large entry comes next.
        return self._last_position is not None and stored.position >= self._last_position

    async def _send(self, batch: Sequence[StoredEntry]) -> None:
        if self._session.accepts_entry_nonces:
            self._write(batch)
            return
        # One entry to a message: a stock server stores one nonce for all entries of a message.
        for stored in batch:
            await self._room()
            self._write((stored,))

    def _write(self, batch: Sequence[StoredEntry]) -> None:
        private_key, seal = self._log.private_key, self._encryption.seal
        sealed = []
        for stored in batch:
            entry = stored.entry
            sealed.append(EncryptedEntry(entry.id, *seal(private_key, encode_entry(*entry))))
        message_id = self._session.write_entries(self._log.public_key, sealed)
        self._in_flight[message_id] = [stored.position for stored in batch]
        self._unacknowledged += len(batch)
        self._flush()

    async def _room(self) -> None:
        """Wait until the window has room for one more message."""
        window = 1 if self._session.has_to_take_turns else limits.PUSH_WINDOW_MESSAGES
        public_key, has_room = self._log.public_key, self._session.has_room
        await self.progress.until(lambda: len(self._in_flight) < window and has_room(public_key))
