"""
How far a transcript was imported, kept in the journal together with what was imported of it.

A file that was replaced or cut off is noticed by the bytes at its beginning and before the place reached, whatever its
name, inode and times say; it is read from its beginning then.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self, final

from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key
from agentlayers.runtime.claude_transcript_entries import EntryMaker
from agentlayers.runtime.claude_transcript_files import TranscriptFile
from agentlayers.runtime.session_transcript import Transcript

__all__ = ["TranscriptCursor"]

_SPACE: Final = "claude_transcripts"
"""Of the journal's keys; not that of a store, because no entry tells what stands there."""

_LOOKED_AT_BYTES: Final = 4096


@final
@dataclass(slots=True)
class TranscriptCursor:
    """
    A place in one transcript, and what the next line's entries depend on.

    Attributes:
        offset: Bytes read.
        number: Lines read.
        last: Of :class:`EntryMaker`, in hexadecimal.
        began_ms: Time of the first line.
        calls: Of :class:`EntryMaker`.
        digest: Of the bytes at the beginning of the file and before ``offset``.
    """

    offset: int = 0
    number: int = 0
    last: str = ""
    began_ms: int = 0
    calls: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def load(cls, tx: JournalTransaction, file: TranscriptFile) -> Self:
        """Read where the import of a file ended; the beginning for one that was never imported."""
        value = tx.get(_key(file.path))
        if value is None:
            return cls()
        try:
            return cls(**json.loads(value))
        except (ValueError, TypeError):
            return cls()  # an earlier or later release's; reading again is only slower

    def store(self, tx: JournalTransaction, path: Path) -> None:
        """Keep this place, in the transaction that writes what was read before it."""
        tx.put(_key(path), json.dumps(asdict(self)).encode())

    def maker(self, transcript: Transcript, parent_tool_use_id: str | None) -> EntryMaker:
        """Go on making entries from here."""
        return EntryMaker(transcript, parent_tool_use_id, bytes.fromhex(self.last), dict(self.calls))

    def mark(self, path: Path, maker: EntryMaker) -> None:
        """
        Note what makes this place recognisable, and what the entries behind it depend on.

        Raises:
            OSError: The file cannot be read.
        """
        self.last, self.calls, self.digest = maker.last.hex(), dict(maker.calls), _digest(path, self.offset)
        self.began_ms = self.began_ms or (entry_id_millis(maker.last) if maker.last else 0)

    def is_of(self, path: Path) -> bool:
        """Tell whether the file still begins with what was read of it."""
        try:
            return self.offset <= path.stat().st_size and self.digest == _digest(path, self.offset)
        except OSError:
            return False


def _key(path: Path) -> bytes:
    return pack_key(_SPACE, "cursor", str(path).encode(errors="surrogateescape"))


def _digest(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        head = file.read(min(offset, _LOOKED_AT_BYTES))
        file.seek(max(0, offset - _LOOKED_AT_BYTES))
        tail = file.read(min(offset, _LOOKED_AT_BYTES))
    return hashlib.sha256(head + b"\x00" + tail).hexdigest()
