"""
What one connection has been sent of one key, and which Acks wait for their place in that order.

The rule (DESIGN 7): on a connection that follows a key, the Ack of an entry is written only after every
lower sequence of the key was sent or acknowledged on that connection, because a client moves its cursor by Acks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentlayers.limits import (
    CHANGES_BATCH_BYTES_MAX,
    CHANGES_BATCH_ENTRIES_MAX,
    CREDIT_ENTRY_BYTES,
    FIRST_BATCH_ENTRIES,
)
from agentlayers.protocol.credit import CreditAccount, cost_of
from agentlayers.protocol.messages import RemoteEncryptedEntry
from agentlayers.server.broadcast import Broadcast

__all__ = ["Encode", "Peer", "PendingAck", "Subscription"]

Encode = Callable[[Sequence[RemoteEncryptedEntry], int], Broadcast]
"""Entries and their ``through`` to the messages that carry them."""


class Peer(Protocol):
    """What the hub needs of a connection. Its methods never call back into the hub."""

    @property
    def is_congested(self) -> bool:
        """Whether more waits to be sent than a live subscriber may have waiting."""

    @property
    def ack_sequences_max(self) -> int:
        """How many sequences an Ack may list that need not list all."""

    def send_ack(self, message_id: int, sequences: Sequence[int], through: int | None) -> None:
        """Queue an Ack."""

    def send_changes(self, broadcast: Broadcast) -> None:
        """Queue encoded Changes."""

    def write_settled(self, size: int) -> None:
        """One write of this peer, of so many ciphertext bytes, is committed or failed."""

    def write_failed(self, error: Exception) -> None:
        """One write of this peer was not stored, so it gets no Ack and the connection has to end."""

    def must_catch_up(self) -> None:
        """Begin (or go on) calling :meth:`Hub.catch_up` as fast as this peer reads."""

    def when_read(self, then: Callable[[], None]) -> None:
        """Call back when the peer has read all that is queued for it now."""


@dataclass(slots=True)
class PendingAck:
    """
    An Ack that is committed and waits for its place.

    Attributes:
        message_id: Of the WriteEntries.
        sequences: One for each of its entries.
        own_start: First sequence this write added; equal to ``own_end`` if all were duplicates, and
            the head of that moment if it had no entries.
        own_end: One past the last.
    """

    message_id: int
    sequences: Sequence[int]
    own_start: int
    own_end: int

    @property
    def has_own(self) -> bool:
        """Whether the write added entries, which are not sent back to their writer."""
        return self.own_start < self.own_end

    @property
    def due(self) -> int:
        """The Ack may be written once the connection has everything below this."""
        # A write without entries asks for this very thing: to be told once all that was there is sent.
        if self.has_own or not self.sequences:
            return self.own_start
        return max(self.sequences, default=-1) + 1


class Subscription:
    """
    One connection following one key.

    Attributes:
        peer: The connection.
        next: First sequence neither sent to it nor written by it; its ``through``.
        is_live: New entries are sent as they are committed; otherwise they are read from storage.
        is_closed: Replaced or ended; nothing may be sent through it any more.
        credit: What the peer still takes; :obj:`None` if it sets no bound.
        is_bounded: Changes have to be claimed before they are sent.
    """

    __slots__ = ("_batch_entries", "acks", "credit", "is_bounded", "is_closed", "is_live", "next", "peer")

    def __init__(self, peer: Peer, start: int, credit: CreditAccount | None = None) -> None:
        self.peer = peer
        self.credit = credit
        self.is_bounded = credit is not None
        self.next = start
        self.is_live = False
        self.is_closed = False
        self.acks: deque[PendingAck] = deque()
        self._batch_entries = FIRST_BATCH_ENTRIES

    @property
    def lags(self) -> bool:
        """Whether it is to be read for now: it is behind, and the peer has credit left."""
        return not self.is_live and (self.credit is None or self.credit.available > 0)

    @property
    def is_behind(self) -> bool:
        """Whether it is to be read for, now or when some time has passed."""
        return self.lags

    @property
    def pause_seconds(self) -> float | None:
        """When it is to be read for again, if that is only a matter of time."""
        return 0.0 if self.lags else None

    def claim(self, cost: int, count: int) -> bool:
        """Take Changes that are encoded for everybody off the credit; :obj:`False` if it does not cover them."""
        del count
        credit = self.credit
        if credit is not None:
            if cost > credit.available:
                return False
            credit.available -= cost
        return True

    def next_batch_max(self) -> tuple[int, int]:
        """Return how many entries, and how many ciphertext bytes, are worth reading for the peer at once."""
        # The first ones are small, so that the peer has something to do while the next are read.
        entries_max = self._batch_entries
        self._batch_entries = min(2 * entries_max, CHANGES_BATCH_ENTRIES_MAX)
        if self.credit is None:
            return entries_max, CHANGES_BATCH_BYTES_MAX
        left = max(self.credit.available, 1)
        return min(entries_max, left // CREDIT_ENTRY_BYTES + 1), min(CHANGES_BATCH_BYTES_MAX, left)

    def advance(self, entries: Sequence[RemoteEncryptedEntry], encode: Encode) -> None:
        """
        Send what is new of ``entries``, as far as the credit goes, and every Ack whose place is reached, in order.

        Args:
            entries: Contiguous and ascending; what lies below :attr:`next` is left out. May be empty.
            encode: Makes the messages.
        """
        if entries and entries[0].sequence > self.next:
            entries = ()  # the credit did not reach so far
        index = max(self.next - entries[0].sequence, 0) if entries else 0
        while True:
            before = self.next
            self._release_acks()
            index += self.next - before
            if index >= len(entries):
                return
            stop = len(entries)
            if self.acks:
                stop = min(stop, index + self.acks[0].due - self.next)
            some = self._within_credit(entries[index:stop])
            if not some:
                return
            self.next = some[-1].sequence + 1
            self.peer.send_changes(encode(some, self.next))
            index += len(some)

    def _within_credit(self, entries: Sequence[RemoteEncryptedEntry]) -> Sequence[RemoteEncryptedEntry]:
        """Return the first entries that the credit covers, taken off it."""
        if self.credit is None:
            return entries
        some = entries[: self.credit.affordable(entries)]
        self.credit.spend(cost_of(some))
        return some

    def own_start(self) -> int | None:
        """Return the first sequence ahead that this connection wrote itself, and so is not to be read for it."""
        for ack in self.acks:
            if ack.has_own:
                return ack.own_start
        return None

    def _release_acks(self) -> None:
        while self.acks and self.acks[0].due <= self.next:
            ack = self.acks.popleft()
            if ack.has_own:
                self.next = max(self.next, ack.own_end)
            self.peer.send_ack(ack.message_id, ack.sequences, self.next)

    def flush_acks(self) -> None:
        """Send every waiting Ack at once: its connection no longer follows the key."""
        while self.acks:
            ack = self.acks.popleft()
            self.peer.send_ack(ack.message_id, ack.sequences, None)
