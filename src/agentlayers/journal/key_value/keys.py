r"""
Where a journal keeps what, in a key-value store.

Every key is the journal's root, one letter for its kind, and fixed or self-delimiting parts, so that each look-up
of :class:`~agentlayers.journal.primitives.JournalPrimitives` is one key or one contiguous range. What others choose
and may be long (primary keys, quarantined ids) stands as a digest; the value holds it whole.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

__all__ = [
    "COUNTER",
    "HEAD",
    "OWNER",
    "PIECE",
    "UNAPPLIED",
    "VALUE",
    "compacted_key",
    "compacted_on_key",
    "conflict_key",
    "conflict_prefix",
    "entry_key",
    "entry_prefix",
    "id_key",
    "id_prefix",
    "note_count_key",
    "note_key",
    "note_prefix",
    "outbound_key",
    "outbound_prefix",
    "piece_prefix",
    "position_of",
    "posting_prefix",
    "quarantine_key",
    "quarantine_prefix",
    "received_key",
    "received_prefix",
    "remote_key",
    "remote_prefix",
    "segment_count_key",
    "segment_key",
    "setting_key",
    "state_key",
    "store_key",
    "tally_key",
    "text_key",
    "unapplied_key",
    "version_key",
    "version_prefix",
    "waiting_key",
    "waiting_prefix",
]

OWNER: Final = b"!"
"""Who may write; never in a transaction's changes."""

HEAD: Final = b"#"
"""Number of the last commit and of the last position."""

COUNTER: Final = b"n"
"""Last number given, by what it numbers."""

STORE: Final = b"s"
"""Numbers of stores by name."""

PIECE: Final = b"p"
"""Pieces of values that are longer than the medium takes."""

UNAPPLIED: Final = b"u"
"""Entries whose projection failed, by position."""

VALUE: Final = b"v"
"""Read models; whatever follows is a key of theirs."""

_DIGEST_BYTES: Final = 20
_store = struct.Struct(">cI").pack
_store_position = struct.Struct(">cIQ").pack


def _digest(part: bytes) -> bytes:
    return hashlib.blake2b(part, digest_size=_DIGEST_BYTES).digest()


def position_of(key: bytes) -> int:
    """Return the position a key ends with."""
    return int.from_bytes(key[-8:])


# -- stores and settings ----------------------------------------------------------------------------------------
def setting_key(name: str) -> bytes:
    """One of the journal's own settings."""
    return b"m" + name.encode()


def store_key(name: str) -> bytes:
    """The number of a store."""
    return STORE + name.encode()


def tally_key(store: int) -> bytes:
    """What is counted of a store."""
    return _store(b"c", store)


# -- entries ------------------------------------------------------------------------------------------------------
def entry_prefix(store: int) -> bytes:
    """Entries of a store, by position."""
    return _store(b"e", store)


def entry_key(store: int, position: int) -> bytes:
    """One entry."""
    return _store_position(b"e", store, position)


def id_prefix(store: int) -> bytes:
    """Places of a store's entries, by id."""
    return _store(b"i", store)


def id_key(store: int, entry_id: bytes) -> bytes:
    """The place of one entry."""
    return _store(b"i", store) + entry_id


def outbound_prefix(store: int) -> bytes:
    """Entries written here and to be synced, by position."""
    return _store(b"o", store)


def outbound_key(store: int, position: int) -> bytes:
    """One of them."""
    return _store_position(b"o", store, position)


def received_prefix(store: int) -> bytes:
    """Entries that came from remotes, by position."""
    return _store(b"f", store)


def received_key(store: int, position: int) -> bytes:
    """One of them."""
    return _store_position(b"f", store, position)


def version_prefix(store: int, primary_key: str) -> bytes:
    """Versions of a key, by id."""
    return _store(b"k", store) + _digest(primary_key.encode())


def version_key(store: int, primary_key: str, entry_id: bytes) -> bytes:
    """One version."""
    return version_prefix(store, primary_key) + entry_id


def state_key(store: int, primary_key: str) -> bytes:
    """What is known of a key."""
    return _store(b"h", store) + _digest(primary_key.encode())


def conflict_prefix(store: int) -> bytes:
    """Keys with several heads."""
    return _store(b"x", store)


def conflict_key(store: int, primary_key: str) -> bytes:
    """One of them."""
    return _store(b"x", store) + _digest(primary_key.encode())


# -- remotes ------------------------------------------------------------------------------------------------------
def remote_prefix(store: int) -> bytes:
    """Remotes of a store."""
    return _store(b"r", store)


def remote_key(store: int, remote_id: bytes) -> bytes:
    """One remote."""
    return _store(b"r", store) + _digest(remote_id)


def note_prefix(remote: int, *, received: bool) -> bytes:
    """What a remote is noted to have, by position."""
    return _store(b"b" if received else b"a", remote)


def note_key(remote: int, position: int, *, received: bool) -> bytes:
    """One note."""
    return _store_position(b"b" if received else b"a", remote, position)


def note_count_key(remote: int, *, received: bool) -> bytes:
    """How many notes there are."""
    return _store(b"B" if received else b"A", remote)


# -- exceptions ---------------------------------------------------------------------------------------------------
def unapplied_key(position: int) -> bytes:
    """An entry whose projection failed."""
    return UNAPPLIED + position.to_bytes(8)


def quarantine_prefix(store: int) -> bytes:
    """What was kept aside of a store."""
    return _store(b"q", store)


def quarantine_key(store: int, entry_id: bytes) -> bytes:
    """One thing that was kept aside."""
    return _store(b"q", store) + _digest(entry_id)


def compacted_key(store: int, entry_id: bytes) -> bytes:
    """A compacted id that is remembered."""
    return _store(b"g", store) + entry_id


def compacted_on_key(store: int, day: int, entry_id: bytes) -> bytes:
    """The same, by the day it was dropped on."""
    return _store_position(b"d", store, day) + entry_id


# -- texts --------------------------------------------------------------------------------------------------------
def text_key(store: int, position: int) -> bytes:
    """The text an entry is found by."""
    return _store_position(b"t", store, position)


def waiting_prefix(store: int) -> bytes:
    """Texts that are in no segment of the index yet."""
    return _store(b"w", store)


def waiting_key(store: int, position: int) -> bytes:
    """One of them."""
    return _store_position(b"w", store, position)


def posting_prefix(store: int, beginning: str) -> bytes:
    """Where the words are that begin so."""
    return _store(b"y", store) + beginning.encode()


def segment_key(segment: int) -> bytes:
    """The keys of a segment's postings."""
    return b"z" + segment.to_bytes(8)


def segment_count_key(segment: int) -> bytes:
    """How many texts a segment still stands for."""
    return b"Z" + segment.to_bytes(8)


# -- pieces -------------------------------------------------------------------------------------------------------
def piece_prefix(key: bytes) -> bytes:
    """Pieces of the value of a key."""
    return PIECE + _digest(key)
