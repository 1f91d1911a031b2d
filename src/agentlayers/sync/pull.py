"""
Take over what the server says about one store: its Changes and its Acks, in the order received.

The order matters: an Ack's ``through`` covers the Changes sent before it, so committing it first
would move the cursor past entries that a crash then loses. Consecutive messages share a
transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from agentlayers import limits
from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import CryptoError, ProtocolError
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement, QuarantinedEntry, RemoteWriteResult
from agentlayers.journal.quarantine import QuarantineResult, UnreadableEntry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.logs import get_logger
from agentlayers.protocol.entry_codec import decode_entry
from agentlayers.protocol.messages import RemoteEncryptedEntry
from agentlayers.sync.inbox import Acknowledged, Inbox, Received
from agentlayers.sync.key_check import key_check
from agentlayers.sync.known_entries import KnownEntries
from agentlayers.sync.registration import Registration
from agentlayers.sync.sequence_runs import SequenceRuns
from agentlayers.sync.signal import Signal

__all__ = ["Pull"]

logger = get_logger(__name__)

_ENTRIES_PER_TRANSACTION_MAX: Final = 2048
"""Enough to share the cost of a commit, and soon enough opened not to hold up the loop."""

_BYTES_PER_TRANSACTION_MAX: Final = 4 * limits.MIB
"""Ciphertext opened for one transaction (one larger message still goes alone)."""


_REOPENED_ENTRIES_MAX: Final = 16
"""Of what was kept aside, looked at together: each may be as large as a message."""


@dataclass(slots=True)
class _Step:
    """What one transaction is to do."""

    entries: list[RemoteEntry] = field(default_factory=list)
    unreadable: list[UnreadableEntry] = field(default_factory=list)
    aside: QuarantineResult = field(default_factory=QuarantineResult)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    barriers: list[asyncio.Future[None]] = field(default_factory=list)
    size: int = 0
    since: int | None = None
    cursor: int = 0
    moves_cursor: bool = False
    known: KnownEntries = field(default_factory=KnownEntries)

    @property
    def is_large(self) -> bool:
        """Whether the transaction is worth its commit as it is."""
        return len(self.entries) >= _ENTRIES_PER_TRANSACTION_MAX or self.size >= _BYTES_PER_TRANSACTION_MAX

    def move_cursor(self, through: int) -> None:
        if through > self.cursor:
            self.cursor, self.moves_cursor = through, True


class Pull:
    """
    The receiving half of a replication.

    Args:
        registration: The store.
        encryption: Opens entries.
        remote_id: The server's id.
        counts_entries: Whether the cursor moves by the entries seen: the server sends no ``through``.
        clock: Wall-clock time.
        changed: Notified when the status may have changed.
        grant: Lets the server send so much more; :obj:`None` where it takes no credit.

    Attributes:
        cursor: First sequence of the server not yet taken over.
        known: What the server is believed to have below the cursor (not kept towards a stock server).
        was_useful: Something new came in, or something was acknowledged.
        arrived_at: Loop time at which Changes last arrived.
    """

    def __init__(
        self,
        registration: Registration,
        encryption: Encryption,
        *,
        remote_id: bytes,
        counts_entries: bool,
        clock: Callable[[], float],
        changed: Signal,
        grant: Callable[[int], None] | None = None,
    ) -> None:
        self.cursor = 0
        self.known = KnownEntries()
        self.was_useful = False
        self.arrived_at = 0.0
        self._registration, self._log = registration, registration.log
        self._encryption, self._remote_id, self._counts_entries = encryption, remote_id, counts_entries
        self._clock, self._changed = clock, changed
        self._grant, self._owed_credit = grant, 0
        self._inbox = Inbox(has_credit=grant is not None)
        self._runs = SequenceRuns()
        self._is_applying = False

    @cached_property
    def key_check(self) -> bytes:
        """Tells the key that entries are opened with from others."""
        return key_check(self._encryption, self._log.private_key)

    @property
    def is_idle(self) -> bool:
        """Whether everything received is in the journal."""
        return not self._inbox and not self._is_applying

    @property
    def has_gap(self) -> bool:
        """Whether a stock server may be hiding entries from this connection."""
        return self._runs.has_gap

    @property
    def queued(self) -> int:
        """Messages received and not yet in the journal; never more than the bound, or than the credit covers."""
        return len(self._inbox)

    async def put(self, message: Received | Acknowledged) -> None:
        """Queue a message; while there is no room the socket is not read, unless the server keeps to a credit."""
        if isinstance(message, Received):
            self.arrived_at = asyncio.get_running_loop().time()
        await self._inbox.put(message)

    def close(self) -> None:
        """Let go of what was not taken over: the server has it."""
        self._inbox.close()

    async def take(self, sealed: Sequence[RemoteEncryptedEntry]) -> None:
        """Take over entries that were asked for by id; the cursor stays where it is."""
        step = _Step(known=self.known.copy())
        self._open(sealed, step)
        if sealed:
            self._note_taken(step, await self._log.journal.transact(lambda tx: self._apply(tx, step)))

    async def reopen(self) -> None:
        """
        Try once more to open what was kept aside: the key may be another one by now.

        Also what another server sent, which may be gone: this one does not send it again. Cursors stay where they are;
        what still cannot be opened stays aside.
        """
        store, after = self._log.store, b""
        while kept := await self._log.journal.read(
            lambda tx, after=after: tx.quarantined(store, after=after, entries_max=_REOPENED_ENTRIES_MAX)  # type: ignore[misc]
        ):
            after = kept[-1].id
            # What could be read, and is too old to be told from what was compacted, has an event.
            sealed = [one for one in kept if not one.event]
            for remote_id in {one.remote_id for one in sealed}:
                await self._reopen(remote_id, [one for one in sealed if one.remote_id == remote_id])

    async def _reopen(self, remote_id: bytes, kept: Sequence[QuarantinedEntry]) -> None:
        store, step = self._log.store, _Step(known=self.known.copy())
        self._open([_sealed_again(one) for one in kept], step)
        if not step.entries:
            return

        def take(tx: JournalTransaction) -> RemoteWriteResult:
            is_retired = any(one.is_retired for one in tx.remotes(store) if one.remote_id == remote_id)
            tx.release_quarantined(store, [entry.id for _, entry in step.entries])
            result = tx.write_from_remote(store, remote_id, step.entries, through=0)
            if is_retired:  # This was no contact with it.
                tx.retire_remote(store, remote_id)
            return result

        self._note_taken(step, await self._log.journal.transact(take))
        logger.info("quarantine_reopened", store=store, entries=len(step.entries))

    async def run(self) -> None:
        """Bring what arrives into the journal, for as long as the connection lasts."""
        committing: asyncio.Task[None] | None = None
        base = _Step(cursor=self.cursor, known=self.known)
        try:
            while True:
                if committing is not None:
                    await self._inbox.filled_or(committing)
                if committing is None or committing.done():
                    if committing is not None:
                        await committing
                        committing = None
                    self._is_applying = False
                    base = _Step(cursor=self.cursor, known=self.known)
                # While one transaction is on its way to the disk, the next one's entries are opened.
                base = await self._next_step(base, committing)
                if committing is not None:
                    await committing
                committing = asyncio.create_task(self._commit(base), name=f"commit {self._log.store}")
        finally:
            if committing is not None:
                committing.cancel()
                await asyncio.wait({committing})

    async def _next_step(self, base: _Step, committing: asyncio.Task[None] | None) -> _Step:
        """
        Collect what one transaction is to do, on top of what the one before did.

        Args:
            base: The one before.
            committing: That one, if it is still on its way to the disk: what comes meanwhile joins this step.
        """
        message = await self._inbox.get()
        self._is_applying = True
        step = _Step(since=base.cursor, cursor=base.cursor, known=base.known.copy())
        self._add(step, message)
        while not step.is_large:
            # The reader gets a turn, so that Pongs and Acks are not held up by decryption.
            await asyncio.sleep(0)
            if committing is not None:
                await self._inbox.filled_or(committing)
            if not self._inbox:
                break
            self._add(step, await self._inbox.get())
        return step

    def _add(self, step: _Step, message: Received | Acknowledged) -> None:
        step.size += message.size
        if isinstance(message, Received):
            self._open(message.entries, step)
            sequences: Sequence[int] = [entry.sequence for entry in message.entries]
            entry_ids: Sequence[bytes] = [entry.entry_id for entry in message.entries]
        else:
            step.positions += message.positions
            if len(message.sequences) == len(message.positions):
                step.sequences += message.sequences
            if message.barrier is not None:
                step.barriers.append(message.barrier)
            sequences, entry_ids = message.sequences, message.entry_ids
        if message.through is not None:
            step.move_cursor(message.through)
            step.known.add(sequences, entry_ids)
            step.known.move(step.cursor)
        elif self._counts_entries:
            self._runs.add(sequences)
        if self._counts_entries:
            step.move_cursor(self._runs.advance(step.cursor))
            step.known.move(step.cursor)

    def _open(self, sealed: Sequence[RemoteEncryptedEntry], step: _Step) -> None:
        """Decrypt and decode; what is neither is kept aside and stops nothing else."""
        private_key, open_sealed = self._log.private_key, self._encryption.open_sealed
        for envelope in sealed:
            sequence, iv, entry_id, ciphertext = envelope
            try:
                entry = Entry(*decode_entry(open_sealed(private_key, iv, ciphertext)))
            except (CryptoError, ProtocolError) as error:
                step.unreadable.append(UnreadableEntry(entry_id, sequence, iv + ciphertext, str(error)))
                continue
            if entry.id != entry_id:
                reason = f"the sealed entry calls itself {entry.id.hex()}"
                step.unreadable.append(UnreadableEntry(entry_id, sequence, iv + ciphertext, reason))
                continue
            step.entries.append(RemoteEntry(sequence, entry))

    async def _commit(self, step: _Step) -> None:
        if step.entries or step.unreadable or step.positions or step.moves_cursor:
            journal = self._log.journal
            result = await self._registration.persisted(
                "take over", lambda: journal.transact(lambda tx: self._apply(tx, step))
            )
            self._note(step, result)
        self._return_credit(step.size)
        for barrier in step.barriers:
            if not barrier.done():
                barrier.set_result(None)

    def _return_credit(self, size: int) -> None:
        """Let the server send as much again as the journal has taken over."""
        self._owed_credit += size
        # By halves: few messages, and the server has the other half to send from meanwhile.
        if self._grant is not None and self._owed_credit >= limits.PULL_CREDIT_BYTES // 2:
            amount, self._owed_credit = self._owed_credit, 0
            self._grant(amount)

    def _apply(self, tx: JournalTransaction, step: _Step) -> RemoteWriteResult | None:
        """Runs in the journal's writer thread: touches nothing but ``tx`` and ``step``."""
        store, remote_id, result = self._log.store, self._remote_id, None
        through = step.cursor if step.moves_cursor else None
        if step.unreadable:
            step.aside = tx.quarantine(store, remote_id, step.unreadable, key_check=self.key_check)
        if step.entries:
            result = tx.write_from_remote(store, remote_id, step.entries, through=step.cursor, since=step.since)
            through = None
        if step.positions or through is not None:
            # A stock server may leave numbers out of an Ack; which ones cannot be told.
            are_aligned = len(step.sequences) == len(step.positions)
            acknowledgement = Acknowledgement(step.positions, step.sequences if are_aligned else ())
            tx.acknowledge(store, remote_id, acknowledgement, through=through, since=step.since)
        if step.moves_cursor:
            step.known.save(tx, store, remote_id)
        return result

    def _note(self, step: _Step, result: RemoteWriteResult | None) -> None:
        self.cursor = self._registration.next_sequence = step.cursor
        self.known = step.known
        self._note_taken(step, result)

    def _note_taken(self, step: _Step, result: RemoteWriteResult | None) -> None:
        registration = self._registration
        self._note_unreadable(step)
        if step.positions:
            registration.acknowledged(len(step.positions), self._clock())
            self.was_useful = True
        if result is not None:
            registration.received += len(result.written)
            # What the server turned out to have is no longer pending.
            registration.is_relayed_stale = registration.is_relayed_stale or result.duplicates > 0
            self.was_useful = self.was_useful or bool(result.written)
            self._note_unusable(step, result)
        self._changed.notify()

    def _note_unreadable(self, step: _Step) -> None:
        """Count what could not be opened, and log what is kept of it: of the rest the journal logs how many it is."""
        kept, not_kept = frozenset(step.aside.kept), frozenset(step.aside.not_kept)
        if not kept and not not_kept:
            return
        store = self._registration.store
        for entry_id, sequence, _, reason in step.unreadable:
            if entry_id in kept:
                shown = entry_id.hex()
                logger.warning("entry_quarantined", store=store, entry_id=shown, sequence=sequence, reason=reason)
            if entry_id in kept or entry_id in not_kept:
                self._registration.keep_out(entry_id, sequence, reason, is_kept=entry_id in kept)

    def _note_unusable(self, step: _Step, result: RemoteWriteResult) -> None:
        """Count what the journal itself could not take over; it has logged why."""
        if not result.quarantined and not result.not_kept:
            return
        sequences = {entry.id: sequence for sequence, entry in step.entries}
        reason = "the journal cannot use it: see the journal's own quarantine"
        for ids, is_kept in ((result.quarantined, True), (result.not_kept, False)):
            for entry_id in ids:
                self._registration.keep_out(entry_id, sequences.get(entry_id, -1), reason, is_kept=is_kept)


def _sealed_again(kept: QuarantinedEntry) -> RemoteEncryptedEntry:
    """Undo how :meth:`Pull._apply` puts what it cannot open into one value."""
    iv, ciphertext = kept.data[: limits.IV_BYTES], kept.data[limits.IV_BYTES :]
    return RemoteEncryptedEntry(kept.sequence, iv, kept.id, ciphertext)
