"""
The read model of chat history: the order of each session's messages, and its highest sequence number.

Rows hold no message: they name the entry that does. They are a function of the set of entries, never of the
order in which those came.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from agentlayers.errors import UsageError
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.limits import ENTRY_ID_BYTES
from agentlayers.storage.chat_event import SEQUENCE_MAX, ChatEvent
from agentlayers.storage.pagination import parse_cursor

__all__ = [
    "STORE",
    "SessionState",
    "add_event",
    "carry_over",
    "entry_ids",
    "hidden_entries",
    "hide_session",
    "is_shown",
    "listed_sessions",
    "place_range",
    "remove_event",
    "session_state",
    "show_entry",
]

STORE: Final = "chat_history"
_STATE: Final = struct.Struct(">QQ")
_PLACE_BYTES: Final = 8 + ENTRY_ID_BYTES


class SessionState(NamedTuple):
    """
    What is known of one session.

    Attributes:
        highest: Highest sequence ever seen; it outlives the messages, so that no number is given twice.
        events: How many messages are held and shown.
    """

    highest: int
    events: int


def session_state(tx: JournalTransaction, session_id: str) -> SessionState:
    """Return what is known of a session; zeros for one never seen."""
    value = tx.get(pack_key(STORE, "s", session_id))
    return SessionState(0, 0) if value is None else SessionState(*_STATE.unpack_from(value))


def listed_sessions(tx: JournalTransaction) -> list[str]:
    """List the sessions that have messages, sorted."""
    prefix = pack_key(STORE, "s")
    rows = (value for _key, value in tx.scan(prefix, prefix_end(prefix)))
    return [value[_STATE.size :].decode() for value in rows if SessionState(*_STATE.unpack_from(value)).events]


def add_event(tx: JournalTransaction, event: ChatEvent) -> bool:
    """Give a message its place; :obj:`False` if it has one, or was purged before a remote had it."""
    key = _event_key(event)
    if tx.get(key) is not None or tx.get(_hidden_key(event.entry_id)) is not None:
        return False
    tx.put(key, b"")
    state = session_state(tx, event.session_id)
    _put_state(tx, event.session_id, SessionState(max(state.highest, event.sequence), state.events + 1))
    return True


def is_shown(tx: JournalTransaction, event: ChatEvent) -> bool:
    """Tell whether a message has its place."""
    return tx.get(_event_key(event)) is not None


def remove_event(tx: JournalTransaction, event: ChatEvent) -> bool:
    """Take a message out; tells whether it was the last one of its session."""
    key = _event_key(event)
    if tx.get(key) is None:
        return False
    tx.delete(key)
    state = session_state(tx, event.session_id)
    _put_state(tx, event.session_id, state._replace(events=state.events - 1))
    return state.events == 1


def hide_session(tx: JournalTransaction, session_id: str) -> list[bytes]:
    """Take all messages of a session out and remember them as purged; returns their entry ids."""
    prefix = pack_key(STORE, "e", session_id)
    keys = [key for key, _value in tx.scan(prefix, prefix_end(prefix))]
    for key in keys:
        tx.delete(key)
        tx.put(_hidden_key(key[-ENTRY_ID_BYTES:]), b"")
        tx.unindex_text(STORE, key[-ENTRY_ID_BYTES:])
    if keys:
        _put_state(tx, session_id, session_state(tx, session_id)._replace(events=0))
    return [key[-ENTRY_ID_BYTES:] for key in keys]


def hidden_entries(tx: JournalTransaction) -> list[bytes]:
    """List the ids of purged entries that could not be dropped yet."""
    prefix = pack_key(STORE, "x")
    return [key[-ENTRY_ID_BYTES:] for key, _value in tx.scan(prefix, prefix_end(prefix))]


def carry_over(source: JournalTransaction, target: JournalTransaction) -> None:
    """Copy what no entry tells: the highest sequence of each session, and which messages were purged."""
    prefix = pack_key(STORE, "s")
    for key, value in source.scan(prefix, prefix_end(prefix)):
        if len(value) >= _STATE.size:
            highest, _events = _STATE.unpack_from(value)
            target.put(key, _STATE.pack(highest, 0) + value[_STATE.size :])
    prefix = pack_key(STORE, "x")
    for key, value in source.scan(prefix, prefix_end(prefix)):
        target.put(key, value)


def show_entry(tx: JournalTransaction, entry_id: bytes) -> None:
    """Forget that an entry was purged, as its entry is dropped now."""
    tx.delete(_hidden_key(entry_id))


def entry_ids(
    tx: JournalTransaction, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None
) -> Iterator[bytes]:
    """Iterate over the ids of messages between two places."""
    return (key[-ENTRY_ID_BYTES:] for key, _value in tx.scan(start, end, reverse=reverse, limit=limit))


def place_range(
    session_id: str,
    start_sequence: int | None = None,
    end_sequence: int | None = None,
    cursor: str | None = None,
    *,
    reverse: bool = False,
) -> tuple[bytes, bytes]:
    """
    Return the places a read covers: the bounds, cut off where the cursor stands.

    Raises:
        UsageError: A cursor that is no place in a session.
    """
    prefix = pack_key(STORE, "e", session_id)
    lowest = min(max(start_sequence or 0, 0), SEQUENCE_MAX)
    highest = SEQUENCE_MAX if end_sequence is None else min(end_sequence, SEQUENCE_MAX)
    start = prefix + pack_key(lowest)
    end = prefix + pack_key(max(highest + 1, 0))
    if cursor is not None:
        place = parse_cursor(cursor)
        if len(place) != _PLACE_BYTES:
            raise UsageError(f"cursor: {cursor!r} is no place in a session; expected the cursor of a message")
        if reverse:
            end = min(end, prefix + place)
        else:
            start = max(start, prefix + place + b"\x00")
    return start, max(start, end)


def _event_key(event: ChatEvent) -> bytes:
    return pack_key(STORE, "e", event.session_id, event.sequence) + event.entry_id


def _hidden_key(entry_id: bytes) -> bytes:
    return pack_key(STORE, "x") + entry_id


def _put_state(tx: JournalTransaction, session_id: str, state: SessionState) -> None:
    tx.put(pack_key(STORE, "s", session_id), _STATE.pack(*state) + session_id.encode())
