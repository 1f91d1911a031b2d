"""
How much of one public key a subscriber will still take.

A subscriber gives a credit with its RequestChanges and adds to it with Credit; the server sends Changes of
that key only within it. So what a slow store leaves unread is bounded by that store's credit, the subscriber
always reads its socket, and neither another store on the same connection nor a heartbeat ever waits behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from agentlayers.errors import LimitExceededError
from agentlayers.limits import CREDIT_BYTES_MAX, CREDIT_ENTRY_BYTES
from agentlayers.protocol.messages import RemoteEncryptedEntry

__all__ = ["CreditAccount", "cost_of"]


def cost_of(entries: Sequence[RemoteEncryptedEntry]) -> int:
    """
    Return what Changes with these entries cost: their ciphertext, and ``CREDIT_ENTRY_BYTES`` for each.

    It does not depend on how the message is encoded or cut, so both sides count the same.

    >>> cost_of([RemoteEncryptedEntry(0, bytes(12), bytes(16), b"12345")])
    261

    """
    return sum([len(entry[3]) for entry in entries]) + CREDIT_ENTRY_BYTES * len(entries)


@final
class CreditAccount:
    """
    What may still be sent of one followed key.

    While anything is left, one entry may be sent alone whatever it costs: a credit smaller than an entry would
    otherwise stop the key for ever. So an account may be below zero, by less than one entry.

    Attributes:
        available: Cost that may be sent.

    Args:
        available: The credit it begins with.

    Raises:
        LimitExceededError: More than ``CREDIT_BYTES_MAX``.
    """

    __slots__ = ("available",)

    def __init__(self, available: int) -> None:
        self.available = 0
        self.grant(available)

    def __repr__(self) -> str:
        return f"CreditAccount({self.available})"

    @property
    def is_spent(self) -> bool:
        """Whether nothing may be sent until more is granted."""
        return self.available <= 0

    def grant(self, amount: int) -> None:
        """
        Add to the account.

        Raises:
            LimitExceededError: It would hold more than ``CREDIT_BYTES_MAX``.
        """
        available = self.available + amount
        if available > CREDIT_BYTES_MAX:
            raise LimitExceededError(limit="CREDIT_BYTES_MAX", allowed=CREDIT_BYTES_MAX, declared=available)
        self.available = available

    def covers(self, cost: int, count: int) -> bool:
        """Tell whether Changes of ``count`` entries that cost so much may be sent."""
        return cost <= self.available or (count == 1 and self.available > 0)

    def affordable(self, entries: Sequence[RemoteEncryptedEntry]) -> int:
        """Return how many of the first entries one Changes may hold."""
        left = self.available
        for count, entry in enumerate(entries):
            left -= len(entry[3]) + CREDIT_ENTRY_BYTES
            if left < 0:
                return count or int(not self.is_spent)
        return len(entries)

    def spend(self, cost: int) -> None:
        """Take what was sent off the account."""
        self.available -= cost
