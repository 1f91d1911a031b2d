"""How entries, states and counts are kept as values."""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import msgpack

from agentlayers.journal.causality import KeyState
from agentlayers.journal.primitives import EntryRow, HeldEntry, QuarantinedRow, RemoteRow
from agentlayers.journal.state_codec import encode_state

__all__ = [
    "NOTHING_COUNTED",
    "Place",
    "Tally",
    "Unencoded",
    "decode_place",
    "decode_quarantined",
    "decode_remote",
    "decode_row",
    "decode_tally",
    "encode",
    "encode_place",
    "encode_quarantined",
    "encode_remote",
    "size_of",
]

_OUTBOUND: Final = 1
_KEYED: Final = 2
_APPLIED: Final = 4
_PLACE: Final = struct.Struct(">QIIB")
_TALLY: Final = struct.Struct(">6Q")
_ROUGHLY: Final = 120
"""Bytes of a row beside its payload, and of one replica or head of a state."""


class Tally(NamedTuple):
    """
    What is counted of a store as it changes, so that nothing is counted by looking.

    Attributes:
        rows: Entries.
        outbound: Those written here and to be synced.
        received: Those that came from remotes.
        last_outbound: Highest position an outbound entry ever had.
        last_received: Highest position a received entry ever had.
        compacted: Ids that are remembered.
    """

    rows: int
    outbound: int
    received: int
    last_outbound: int
    last_received: int
    compacted: int


NOTHING_COUNTED: Final = Tally(0, 0, 0, 0, 0, 0)


class Place(NamedTuple):
    """
    What is known of an entry by its id alone.

    Attributes:
        position: Where it is.
        payload_bytes: Size of its payload.
        held: What deduplication needs.
    """

    position: int
    payload_bytes: int
    held: HeldEntry


Unencoded = EntryRow | KeyState | Tally
"""Kept as it is until the commit, because it is often read or replaced before."""


def encode(value: bytes | Unencoded) -> bytes:
    """Return the bytes of what a transaction kept."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, EntryRow):
        flags = value.outbound * _OUTBOUND | value.keyed * _KEYED | bool(value.applied) * _APPLIED
        return bytes(msgpack.packb((value.id, value.event, value.primary_key, value.payload, flags, value.origin)))
    return _TALLY.pack(*value) if isinstance(value, Tally) else encode_state(value)


def size_of(value: bytes | Unencoded | None) -> int:
    """Return about how many bytes a value takes."""
    if value is None:
        return 0
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, EntryRow):
        return len(value.payload) + len(value.primary_key) + _ROUGHLY
    if isinstance(value, Tally):
        return _TALLY.size
    return _ROUGHLY * (1 + len(value.heads) + len(value.seen) + len(value.applied))


def decode_row(store: int, position: int, data: bytes) -> EntryRow:
    """Read an entry; where it is comes from its key."""
    entry_id, event, primary_key, payload, flags, origin = msgpack.unpackb(data)
    return EntryRow(
        position, store, entry_id, event, primary_key, payload,
        bool(flags & _OUTBOUND), origin, bool(flags & _KEYED), bool(flags & _APPLIED),
    )  # fmt: skip


def encode_place(row: EntryRow) -> bytes:
    """Return where an entry is, how large it is and whence it came."""
    return _PLACE.pack(row.position, len(row.payload), row.origin, row.outbound)


def decode_place(data: bytes) -> Place:
    """Read what :func:`encode_place` wrote."""
    position, size, origin, outbound = _PLACE.unpack(data)
    return Place(position, size, HeldEntry(position, bool(outbound), origin))


def decode_tally(data: bytes) -> Tally:
    """Read what is counted of a store."""
    return Tally._make(_TALLY.unpack(data))


def encode_remote(remote: RemoteRow) -> bytes:
    """Return a remote's row."""
    return bytes(msgpack.packb(tuple(remote)))


def decode_remote(data: bytes) -> RemoteRow:
    """Read a remote's row; fields it was written without have their defaults."""
    return RemoteRow(*_unpacked(data))


def encode_quarantined(row: QuarantinedRow) -> bytes:
    """Return what was kept aside."""
    return bytes(msgpack.packb(tuple(row)))


def decode_quarantined(data: bytes) -> QuarantinedRow:
    """Read what was kept aside."""
    return QuarantinedRow(*_unpacked(data))


def _unpacked(data: bytes) -> list[Any]:
    fields: list[Any] = msgpack.unpackb(data)
    return fields
