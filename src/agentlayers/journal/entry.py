"""The unit of everything that is kept: one immutable fact."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Entry", "RemoteEntry", "StoredEntry"]


class Entry(NamedTuple):
    """
    One immutable fact.

    Attributes:
        id: UUIDv7 used as a hybrid logical clock, 16 bytes (see :mod:`agentlayers.journal.entry_id`).
        event: Tag of the event, such as ``chat_event``.
        primary_key: What the entry is about, such as ``session:7``.
        payload: MessagePack of the event's encoded fields.
    """

    id: bytes
    event: str
    primary_key: str
    payload: bytes


class RemoteEntry(NamedTuple):
    """An entry as it came from a remote, already decrypted, with the remote's sequence number."""

    sequence: int
    entry: Entry


class StoredEntry(NamedTuple):
    """
    An entry as the journal holds it.

    Attributes:
        position: Local arrival order, ascending over all stores of the journal, never reused.
        store: Name of the store it belongs to, such as ``chat_history``.
        entry: The entry.
        is_local: Written by this replica (and so to be pushed), not received.
        is_applied: Its projection ran; ``False`` marks an *unapplied* entry, to be retried.
    """

    position: int
    store: str
    entry: Entry
    is_local: bool
    is_applied: bool
