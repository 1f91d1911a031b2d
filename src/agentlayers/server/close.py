"""Why the server ends a connection: the codes and texts a peer may see, a closed list."""

from __future__ import annotations

from enum import Enum

__all__ = ["CloseReason"]


class CloseReason(Enum):
    """
    WebSocket close code (RFC 6455, section 7.4.1) and a fixed text; nothing of the cause crosses the wire.

    Attributes:
        code: The close code.
        text: The close reason, at most 123 bytes.
    """

    NORMAL = (1000, "")
    GOING_AWAY = (1001, "the server is stopping; connect again")
    PROTOCOL = (1002, "protocol error: a message that EventLogRemote does not allow")
    NO_BINARY_FRAME = (1003, "only binary frames, one MessagePack message each, are understood")
    TOO_LARGE = (1009, "limit exceeded: a message or a count is larger than this server accepts")
    STORAGE = (
        1011,
        "the server could not store or read; nothing unacknowledged was promised; try again",
    )
    TOO_MANY = (1013, "the server has as many connections as it may; try again later")
    STALLED = (
        1008,
        "the peer read nothing for too long; connect again and resume from your cursor",
    )
    UNAUTHENTICATED = (1008, "authentication failed: send a valid token")

    @property
    def code(self) -> int:
        """The close code."""
        return self.value[0]

    @property
    def text(self) -> str:
        """The close reason."""
        return self.value[1]
