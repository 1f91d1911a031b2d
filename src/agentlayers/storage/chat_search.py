"""
What of a message a search finds, and bringing the index up for messages that are older than it.

A message may be any map, so every text in it counts, except what is meant for machines: types, ids, signatures, the
bytes of images.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.journal.text_search import Snippet, TextHit
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key
from agentlayers.limits import COMPACTION_STEP_ROWS_MAX, ENTRY_ID_BYTES, JOURNAL_PAGE_BYTES_MAX
from agentlayers.limits import SEARCH_TEXT_CHARACTERS_MAX as CHARACTERS_MAX
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.chat_event import CHAT_EVENT, ChatEvent
from agentlayers.storage.chat_index import STORE, is_shown
from agentlayers.storage.pagination import format_cursor, parse_cursor

__all__ = [
    "ChatMatch",
    "format_hit",
    "has_backlog",
    "index_backlog",
    "index_message",
    "parse_hit",
    "searchable_text",
]

_BACKLOG_KEY: Final = pack_key("chat_search", "backlog")
_HIT: Final = struct.Struct(f">dQ{ENTRY_ID_BYTES}s")
_FOR_MACHINES: Final = frozenset(
    {
        "type", "subtype", "role", "id", "uuid", "session_id", "sessionId", "parent_tool_use_id", "parentToolUseId",
        "tool_use_id", "toolUseId", "parentUuid", "request_id", "requestId", "signature", "data", "media_type", "model",
        "stop_reason", "timestamp", "usage",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChatMatch:
    """
    A message that a search found.

    Attributes:
        event: The message.
        snippet: The part of its text with the match; ``snippet.marked()`` shows it.
    """

    event: ChatEvent
    snippet: Snippet


def searchable_text(message: Mapping[str, Any]) -> str:
    """
    Return the text a message is found by.

    >>> searchable_text({"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": "Hello"}]}})
    'Hello'

    """
    parts, left = [], CHARACTERS_MAX
    for text in _texts(message):
        parts.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return "\n".join(parts)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value and not value.isspace():
            yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name not in _FOR_MACHINES:
                yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def index_message(tx: JournalTransaction, event: ChatEvent) -> None:
    """Let a message be found."""
    text = searchable_text(event.message)
    if text:
        tx.index_text(STORE, event.entry_id, text, scope=event.session_id)


def has_backlog(tx: JournalTransaction) -> bool:
    """Tell whether there are messages that are older than the index, and not in it yet."""
    backlog = tx.text_backlog()
    return backlog > 0 and _done(tx) < backlog


def index_backlog(tx: JournalTransaction) -> None:
    """Bring the next ones in; a step that appends do not have to wait long for."""
    backlog = tx.text_backlog()
    number = tx.store_number(STORE)
    rows = tx.rows_after(number, _done(tx), COMPACTION_STEP_ROWS_MAX, bytes_max=JOURNAL_PAGE_BYTES_MAX)
    for row in rows:
        if row.position <= backlog and row.event == CHAT_EVENT:
            try:
                event = ChatEvent.from_payload(row.id, decode_payload(row.payload))
            except MalformedMessageError:
                continue
            if is_shown(tx, event):
                index_message(tx, event)
    done = rows[-1].position if rows else backlog
    tx.put(_BACKLOG_KEY, min(done, backlog).to_bytes(8))


def _done(tx: JournalTransaction) -> int:
    return int.from_bytes(tx.get(_BACKLOG_KEY) or b"")


def format_hit(hit: TextHit) -> str:
    """Return a cursor for what follows a match."""
    return format_cursor(_HIT.pack(hit.rank, hit.position, hit.entry_id))


def parse_hit(cursor: str) -> TextHit:
    """
    Return the match a cursor stands for.

    Raises:
        UsageError: A cursor that is none of a search.
    """
    place = parse_cursor(cursor)
    if len(place) != _HIT.size:
        raise UsageError(f"cursor: {cursor!r} is no place among matches; expected the next_cursor of a search")
    rank, position, entry_id = _HIT.unpack(place)
    return TextHit(entry_id, position, rank)
