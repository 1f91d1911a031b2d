"""
A stock replica whose journal may be kept in SQL: it is sent no more than it can take over with one statement.

How much that is, :mod:`agentlayers.server.intake` estimates. The sequences of an Ack go the same way as Changes, and
while a stock SQL journal waits for an Ack it stores nothing at all. So its Acks are never held back: each lists the
sequences that are in their place already, and none while Changes are on their way, which it would overtake in the
client. The client pairs them with its entries by their position, and the other entries of the write are sent back to
it in their turn, like everybody's; that marks them as sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentlayers.protocol.messages import RemoteEncryptedEntry
from agentlayers.server.intake import RESUME_ENTRIES, Intake
from agentlayers.server.subscription import Peer, Subscription

__all__ = ["StockSubscription"]


class StockSubscription(Subscription):
    """
    One connection of a stock replica that has a history, following one key.

    Args:
        peer: The connection.
        start: First sequence that it does not have.
        intake: What it has been sent on this connection.

    Attributes:
        intake: As given.
    """

    __slots__ = ("_is_asked", "intake")

    def __init__(self, peer: Peer, start: int, intake: Intake) -> None:
        super().__init__(peer, start)
        self.intake = intake
        self.is_bounded = True
        self._is_asked = False

    @property
    def lags(self) -> bool:
        """Whether it is to be read for now: it is behind, and has room for some more."""
        return not self.is_live and self.intake.room(self.next) >= RESUME_ENTRIES

    @property
    def is_behind(self) -> bool:
        """Whether it is to be read for, now or later."""
        return not self.is_live

    @property
    def pause_seconds(self) -> float | None:
        """When it is to be read for again, if that is only a matter of time."""
        return None if self.is_live else self.intake.seconds_until_resuming(self.next)

    def claim(self, cost: int, count: int) -> bool:
        """Count Changes that are encoded for everybody; :obj:`False` if they are too many."""
        del cost
        if count > self.intake.room(self.next):
            return False
        self._take(count, in_changes=True)
        return True

    def next_batch_max(self) -> tuple[int, int]:
        """Return how many entries, and how many ciphertext bytes, are worth reading for the peer at once."""
        entries_max, bytes_max = super().next_batch_max()
        return max(min(entries_max, self.intake.room(self.next)), 1), bytes_max

    def _within_credit(self, entries: Sequence[RemoteEncryptedEntry]) -> Sequence[RemoteEncryptedEntry]:
        some = entries[: max(self.intake.room(self.next), 0)]
        self._take(len(some), in_changes=True)
        return some

    def _release_acks(self) -> None:
        """Answer every write at once, with the sequences that the peer may note already."""
        while self.acks:
            self.intake.open()
            ack = self.acks.popleft()
            listed = () if self.intake.has_changes(self.next) else self._in_place(ack.sequences)
            self._take(len(listed), in_changes=False)
            self.peer.send_ack(ack.message_id, listed, self.next)

    def _in_place(self, sequences: Sequence[int]) -> Sequence[int]:
        """Return the first of the sequences, as far as nothing below them is missing, and as many as it can take."""
        count_max = max(min(self.intake.room_at_once(self.next), self.peer.ack_sequences_max), 0)
        for count, sequence in enumerate(sequences[:count_max]):
            if sequence > self.next:
                return sequences[:count]
            if sequence == self.next:
                self.next += 1
        return sequences[:count_max]

    def _take(self, count: int, *, in_changes: bool) -> None:
        """Count what goes to the peer, and have it say when it has read it."""
        self.intake.take(count, in_changes=in_changes)
        self._ask()

    def _ask(self) -> None:
        if not self._is_asked and self.intake.unread:
            self._is_asked = True
            sent = self.intake.sent
            self.peer.when_read(lambda: self._has_read(sent))

    def _has_read(self, sent: int) -> None:
        self._is_asked = False
        self.intake.received(sent, self.next)
        self._ask()
