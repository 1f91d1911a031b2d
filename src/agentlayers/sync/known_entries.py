"""
What a replica believes the server holds: a cursor, and the digest of all entry ids below it.

The digest is kept with the journal, in the transaction that moves the cursor. The server is asked for its own at each
heartbeat; where they differ, the two hold different entries, and everything is exchanged again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.sequence_digest import DIGEST_BYTES, EMPTY_DIGEST, extend_digest

__all__ = ["SETTING", "KnownEntries", "contact_ms"]

SETTING: Final = "remote_known:"
"""Name of the journal's settings that hold it, before store and remote id."""


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
        count = len(sequences)
        if (
            self.digest is not None
            and count == len(entry_ids)
            and list(sequences) == [*range(self.cursor, self.cursor + count)]
        ):
            # In order and with nothing missing, as nearly always.
            if count:
                self.digest = extend_digest(self.digest, self.cursor, entry_ids)[-1]
                self.cursor += count
            return
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
        """Keep it with the journal, and when that was: the last contact with the server."""
        now = max(0, tx.now_ms())
        tx.put_setting(
            _name(store, remote_id), self.cursor.to_bytes(8, "big") + now.to_bytes(8, "big") + (self.digest or b"")
        )

    @classmethod
    def load(cls, tx: JournalTransaction, store: str, remote_id: bytes, cursor: int) -> Self:
        """Return what is known of the entries below the journal's cursor."""
        if cursor == 0:
            return cls()
        value = tx.get_setting(_name(store, remote_id)) or b""
        kept, digest = int.from_bytes(value[:8], "big"), value[16:]
        return cls(cursor, digest if kept == cursor and len(digest) == DIGEST_BYTES else None)


def contact_ms(value: bytes | None) -> int | None:
    """Return when a server was last in contact, from the setting of this name."""
    return None if value is None or len(value) < 16 else int.from_bytes(value[8:16], "big")


def _name(store: str, remote_id: bytes) -> str:
    return f"{SETTING}{store}:{remote_id.hex()}"
