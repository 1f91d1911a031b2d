"""
What a replica believes the server holds: a cursor, and the digest of all entry ids below it.

The digest is kept with the journal, in the transaction that moves the cursor. The server is asked for its own at each
heartbeat; where they differ, the two hold different entries, and everything is exchanged again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.sequence_digest import DIGEST_BYTES, EMPTY_DIGEST, extend_digest

__all__ = ["KnownEntries"]

_SEQUENCE_BYTES = 8


@dataclass(slots=True)
class KnownEntries:
    """
    Entry ids folded into one value, in sequence order.

    Attributes:
        cursor: First sequence that is not covered.
        digest: Of those below; :obj:`None` when it is not known, as after an upgrade or a missing number.
    """

    cursor: int = 0
    digest: bytes | None = EMPTY_DIGEST

    def copy(self) -> Self:
        """Return an equal one that can go on by itself."""
        return type(self)(self.cursor, self.digest)

    def add(self, sequences: Sequence[int], entry_ids: Sequence[bytes]) -> None:
        """Fold in what the server said of some entries; duplicates, and what is covered already, are left out."""
        fresh = {
            sequence: entry_id
            for sequence, entry_id in zip(sequences, entry_ids, strict=True)
            if sequence >= self.cursor
        }
        if not fresh:
            return
        first, last = min(fresh), max(fresh)
        if self.digest is None or first != self.cursor or last - first + 1 != len(fresh):
            self.cursor, self.digest = last + 1, None
            return
        entry_ids = [fresh[sequence] for sequence in range(first, last + 1)]
        self.digest = extend_digest(self.digest, first, entry_ids)[-1]
        self.cursor = last + 1

    def move(self, cursor: int) -> None:
        """Note where the cursor is now; whatever it skipped was not seen."""
        if cursor != self.cursor:
            self.cursor, self.digest = cursor, None

    def save(self, tx: JournalTransaction, store: str, remote_id: bytes) -> None:
        """Keep it with the journal."""
        tx.put_setting(_name(store, remote_id), self.cursor.to_bytes(_SEQUENCE_BYTES, "big") + (self.digest or b""))

    @classmethod
    def load(cls, tx: JournalTransaction, store: str, remote_id: bytes, cursor: int) -> Self:
        """Return what is known of the entries below the journal's cursor."""
        if cursor == 0:
            return cls()
        value = tx.get_setting(_name(store, remote_id)) or b""
        kept, digest = int.from_bytes(value[:_SEQUENCE_BYTES], "big"), value[_SEQUENCE_BYTES:]
        return cls(cursor, digest if kept == cursor and len(digest) == DIGEST_BYTES else None)


def _name(store: str, remote_id: bytes) -> str:
    return f"remote_digest:{store}:{remote_id.hex()}"
