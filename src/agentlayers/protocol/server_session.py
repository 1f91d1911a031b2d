"""
The server's side of a connection, as a pure state machine.

=======================  ===============================  ============================================  =======================
state                    event                            action                                        next state
=======================  ===============================  ============================================  =======================
(start)                  created with a Hello             queue Hello                                   OPEN
(start)                  created without                  nothing                                       AWAITING_AUTHENTICATION
AWAITING_AUTHENTICATION  Authenticate                     AuthenticateReceived                          AUTHENTICATING
AWAITING_AUTHENTICATION  accept(hello)                    queue Hello                                   OPEN
AWAITING_AUTHENTICATION  any other message                SessionFailed(UnexpectedMessageError)         FAILED
AUTHENTICATING           accept(hello)                    queue Hello, then act on what was held        OPEN
AUTHENTICATING           any message                      held, up to FRAME_BYTES_MAX                   AUTHENTICATING
OPEN                     Authenticate, first message of   AuthenticateReceived                          AUTHENTICATING
                         a stream
OPEN                     Authenticate later               SessionFailed(UnexpectedMessageError)         FAILED
OPEN                     WriteEntries                     WriteReceived                                 OPEN
OPEN                     RequestChanges                   ChangesRequested (a repeated one: again)      OPEN
OPEN                     StopChanges of a followed key    ChangesStopped                                OPEN
OPEN                     StopChanges of another key       ignored, counted                              OPEN
OPEN                     Ping                             queue Pong                                    OPEN
OPEN                     ChunkedMessage                   kept; the last one missing acts as a message  as that message
OPEN                     a server's message               SessionFailed(UnexpectedMessageError)         FAILED
any of these             reject(error)                    queue Rejected, if Authenticate was received  FAILED
any of these             malformed, or past a bound       SessionFailed; Rejected as above              FAILED
any of these             end of the connection            nothing is emitted                            CLOSED
FAILED, CLOSED           anything                         ignored                                       unchanged
=======================  ===============================  ============================================  =======================

A stock client stops for good on Changes for a key it does not follow, and dies of an unknown message: so
Changes are only sent while a key is followed, and Rejected only to a client that sent Authenticate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, final

from agentlayers.errors import AgentLayersError, LimitExceededError, LocalProtocolError, UnexpectedMessageError
from agentlayers.limits import FRAME_BYTES_MAX, SUBSCRIPTIONS_PER_CONNECTION_MAX
from agentlayers.protocol.chunking import split_message
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.events import (
    AuthenticateReceived,
    ChangesRequested,
    ChangesStopped,
    ServerEvent,
    WriteReceived,
)
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    RemoteEncryptedEntry,
    RequestChanges,
    StopChanges,
    WriteEntries,
)
from agentlayers.protocol.session import Session, SessionState

__all__ = ["ServerSession", "encode_changes_frames"]


def encode_changes_frames(
    public_key: str,
    entries: Sequence[RemoteEncryptedEntry],
    through: int | None,
    chunk_id: Callable[[], int],
) -> list[bytes]:
    """
    Encode Changes once for all subscribers of a key.

    Args:
        public_key: The key they follow.
        entries: In sequence order.
        through: First sequence that the subscriber does not have after these; None writes the stock form.
        chunk_id: Next id of the server's counter; called only if the message has to be cut.

    Raises:
        LocalProtocolError: An entry cannot be expressed, or together they are longer than a receiver accepts.
    """
    data = encode_message(Changes(public_key, entries, through))
    return split_message(data, chunk_id()) if len(data) > FRAME_BYTES_SINGLE else [data]
