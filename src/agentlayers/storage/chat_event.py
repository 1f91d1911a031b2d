"""
One message of a conversation, as the chat history keeps it.

The event ``chat_event`` is append-only: entries never conflict, whatever their sequence numbers
say.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.storage.pagination import format_cursor
from agentlayers.storage.payload_field import INTEGER_MAX, PayloadFields

__all__ = ["CHAT_EVENT", "SEQUENCE_MAX", "ChatEvent", "ChatEventSource", "check_source"]

CHAT_EVENT: Final = "chat_event"
"""Tag of the only event of the chat history."""

ChatEventSource = Literal["sdk", "replay", "external"]
"""Who said it: the agent's SDK, a replayed conversation, or somebody outside (the user's input)."""

SEQUENCE_MAX: Final = INTEGER_MAX
"""Where sequence numbers stop growing; from there on entry ids alone keep the order."""

_SOURCES: Final = get_args(ChatEventSource)
_SEQUENCE: Final = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """
    One message of a session.

    Attributes:
        session_id: The conversation.
        sequence: Place in the session: one more than the highest its writer had seen. Two replicas
            that append at once give the same number to different messages; :attr:`entry_id` orders
            those.
        timestamp_ms: When it was said, in milliseconds since 1970.
        source: Who said it.
        message: The message, unknown fields included.
        entry_id: Id of the journal entry, the same on all replicas; empty when nothing was stored
            because chat history is switched off.
        position: Local arrival order on this replica, for ``follow(after=...)``; not part of
            equality.
    """

    session_id: str
    sequence: int
    timestamp_ms: int
    source: ChatEventSource
    message: Mapping[str, Any]
    entry_id: bytes
    position: int = field(default=0, compare=False)

    @property
    def cursor(self) -> str:
        """Names this message's place in its session, for ``list(cursor=...)``."""
        return format_cursor(_SEQUENCE.pack(self.sequence) + self.entry_id)

    @property
    def primary_key(self) -> str:
        """Key of the entry on the wire; not unique, as :attr:`sequence` is not."""
        return f"{self.session_id}:{self.sequence}"

    def to_payload(self) -> dict[str, Any]:
        """Return the fields that go on the wire."""
        return {
            "sessionId": self.session_id,
            "sequence": self.sequence,
            "timestamp": self.timestamp_ms,
            "source": self.source,
            "message": self.message,
        }

    @classmethod
    def from_payload(cls, entry_id: bytes, payload: Mapping[str, Any], *, position: int = 0) -> ChatEvent:
        """
        Read the fields of an entry, whoever wrote it.

        Raises:
            MalformedMessageError: A field is missing or of the wrong type.
        """
        fields = PayloadFields(CHAT_EVENT, payload)
        source = fields.text("source")
        if source not in _SOURCES:
            raise MalformedMessageError(f"{CHAT_EVENT}: source is {source[:40]!r}; expected {' or '.join(_SOURCES)}")
        return cls(
            session_id=fields.text("sessionId"),
            sequence=fields.integer("sequence"),
            timestamp_ms=fields.integer("timestamp"),
            source=source,  # type: ignore[arg-type]  # checked above
            message=fields.mapping("message"),
            entry_id=entry_id,
            position=position,
        )


def check_source(source: str) -> ChatEventSource:
    """
    Return ``source`` if it is one.

    Raises:
        UsageError: It is none.
    """
    if source not in _SOURCES:
        raise UsageError(f"source: {source!r} cannot be used; expected {' or '.join(_SOURCES)}")
    return source  # type: ignore[return-value]  # checked above
