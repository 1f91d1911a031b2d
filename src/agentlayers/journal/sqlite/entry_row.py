"""
How an entry is kept in a row, and whether it is still the one that was written.

SQLite notices damage of its own structures, not of what they hold. So each row has a checksum over what never changes
about an entry; rows that were written before there was one are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from agentlayers.journal.primitives import EntryRow

__all__ = ["COLUMNS", "TEXT", "entry_checksum", "row_from_text", "row_from_values", "row_values"]

COLUMNS: Final = "position, store, id, event, primary_key, payload, outbound, origin, keyed, applied, checksum"
TEXT: Final = (
    "position || ',' || store || ',' || hex(id) || ',' || hex(event) || ',' || hex(primary_key) || ',' || "
    "hex(payload) || ',' || outbound || ',' || origin || ',' || keyed || ',' || applied || ',' || ifnull(checksum, '')"
)
"""The columns as one text, see :meth:`Statements.gather`."""


def entry_checksum(entry_id: bytes, event: str, primary_key: str, payload: bytes) -> int:
    r"""
    Return the checksum of an entry: CRC-32, which finds any single damaged byte.

    >>> entry_checksum(bytes(16), "line", "k", b"\x80")
    4038936340

    """
    return crc32(payload, crc32(f"{event}\0{primary_key}\0".encode(), crc32(entry_id)))


def row_values(row: EntryRow) -> tuple[Any, ...]:
    """Return what is kept of a row."""
    return (*row, entry_checksum(row.id, row.event, row.primary_key, row.payload))


def row_from_values(found: Sequence[Any]) -> EntryRow:
    """
    Return the row of a result.

    Raises:
        ValueError: It is not what was written.
    """
    row = EntryRow._make(found[:-1])
    return _checked(row, found[-1])


def row_from_text(found: Sequence[str]) -> EntryRow:
    """
    Return the row of a :data:`TEXT`, cut at its commas.

    Raises:
        ValueError: It is not what was written.
    """
    position, store, entry_id, event, primary_key, payload, outbound, origin, keyed, applied, checksum = found
    unhex = bytes.fromhex
    row = EntryRow(
        int(position), int(store), unhex(entry_id), unhex(event).decode(), unhex(primary_key).decode(),
        unhex(payload), outbound == "1", int(origin), keyed == "1", applied == "1",
    )  # fmt: skip
    return _checked(row, int(checksum) if checksum else None)


def _checked(row: EntryRow, checksum: int | None) -> EntryRow:
    if checksum is not None and checksum != entry_checksum(row.id, row.event, row.primary_key, row.payload):
        reason = f"entry {row.id.hex()} at position {row.position} is not what was written"
        raise ValueError(reason)
    return row
