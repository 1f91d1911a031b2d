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
from agentlayers.limits import ENTRY_ID_BYTES

__all__ = ["BYTES", "COLUMNS", "NUMBERS", "entry_checksum", "row_from_values", "row_values", "rows_from_joined"]

COLUMNS: Final = "position, store, id, event, primary_key, payload, outbound, origin, keyed, applied, checksum"
NUMBERS: Final = (
    "position || ',' || (store * 8 + outbound * 4 + keyed * 2 + applied) || ',' || length(CAST(event AS BLOB)) || "
    "',' || length(CAST(primary_key AS BLOB)) || ',' || length(payload) || ',' || origin || ',' || ifnull(checksum, '')"
)
"""
What is not bytes of a row, and how many bytes there are of what is, as one text. Each number costs a tenth of a
microsecond, so there are few.
"""

BYTES: Final = ("id", "event", "primary_key", "payload")
"""The columns whose bytes are joined beside it."""


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


def rows_from_joined(numbers: str, data: bytes) -> dict[int, EntryRow]:
    """
    Return many rows by position, from the :data:`NUMBERS` of each with semicolons between, and their joined bytes.

    Raises:
        ValueError: They are not what was written.
    """
    rows = {}
    end = 0
    for text in numbers.split(";"):
        at, flags, event_size, key_size, size, origin, checksum = text.split(",")
        start, position, whose = end, int(at), int(flags)
        event_at = start + ENTRY_ID_BYTES
        key_at = event_at + int(event_size)
        payload_at = key_at + int(key_size)
        end = payload_at + int(size)
        row = EntryRow(
            position, whose >> 3, data[start:event_at], data[event_at:key_at].decode(),
            data[key_at:payload_at].decode(), data[payload_at:end],
            whose & 4 != 0, int(origin), whose & 2 != 0, whose & 1 != 0,
        )  # fmt: skip
        rows[position] = _checked(row, int(checksum) if checksum else None)
    if end != len(data):
        reason = f"{len(rows)} entries hold {len(data)} bytes where {end} were written"
        raise ValueError(reason)
    return rows


def _checked(row: EntryRow, checksum: int | None) -> EntryRow:
    if checksum is not None and checksum != entry_checksum(row.id, row.event, row.primary_key, row.payload):
        reason = f"entry {row.id.hex()} at position {row.position} is not what was written"
        raise ValueError(reason)
    return row
