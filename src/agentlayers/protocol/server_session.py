"""
The server's side of a connection, as a pure state machine.

==============  ================================  ==============================  ===============
state           event                             action                          next state
==============  ================================  ==============================  ===============
(start)         created with a Hello              queue Hello                     OPEN
(start)         created without                   nothing                         AWAITING
AWAITING        Authenticate                      AuthenticateReceived            AUTHENTICATING
AWAITING        accept(hello)                     queue Hello                     OPEN
AWAITING        any other message                 SessionFailed                   FAILED
AUTHENTICATING  accept(hello)                     queue Hello, then act on what   OPEN
                                                  was held
AUTHENTICATING  any message                       held, up to FRAME_BYTES_MAX     AUTHENTICATING
OPEN            Authenticate as the first         AuthenticateReceived            AUTHENTICATING
                message of a stream
OPEN            Authenticate otherwise            SessionFailed                   FAILED
OPEN            WriteEntries                      WriteReceived                   OPEN
OPEN            WriteEntries past the window,     SessionFailed                   FAILED
                from a client that gave credit
OPEN            RequestChanges (again, too)       ChangesRequested, with an       OPEN
                                                  account if it gave a credit
OPEN            Credit of a key with an account   the account grows;              OPEN
                                                  CreditGranted
OPEN            Credit of a key without one       SessionFailed                   FAILED
OPEN            Credit of a key not followed      ignored, counted                OPEN
OPEN            StopChanges of a followed key     ChangesStopped                  OPEN
OPEN            StopChanges of another key        ignored, counted                OPEN
OPEN            Ping                              queue Pong                      OPEN
OPEN            Ping with cursors                 PingReceived                    OPEN
OPEN            FetchEntries                      FetchRequested                  OPEN
OPEN            FetchEntries past the bound of    SessionFailed                   FAILED
                those without an answer
OPEN            ChunkedMessage                    kept; the last one missing      as that message
                                                  acts as the message it
                                                  completes
OPEN            a server's message                SessionFailed                   FAILED
any of these    reject(error)                     queue Rejected, if              FAILED
                                                  Authenticate was received
any of these    malformed, or past a bound        as reject, and SessionFailed    FAILED
any of these    end of the connection             no event                        CLOSED
FAILED, CLOSED  anything                          ignored                         unchanged
==============  ================================  ==============================  ===============

AWAITING is short for AWAITING_AUTHENTICATION.

A stock client stops for good on Changes for a key it does not follow, and dies of an unknown
message: so Changes are only sent while a key is followed, and Rejected only to a client that sent
Authenticate.

The Acks of a followed key wait behind its Changes, and those for credit. So a client that gives credit has to keep to
the write window: a server that stopped reading because too many Acks are owed would never read the credit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from agentlayers.errors import (
    AgentLayersError,
    LimitExceededError,
    LocalProtocolError,
    UnexpectedMessageError,
)
from agentlayers.limits import (
    AUTHENTICATE_BYTES_MAX,
    CHUNK_BYTES,
    FETCHES_IN_FLIGHT_MAX,
    FRAME_BYTES_MAX,
    SUBSCRIPTIONS_PER_CONNECTION_MAX,
    WRITE_WINDOW_BYTES,
    WRITE_WINDOW_MESSAGES,
)
from agentlayers.protocol.chunking import split_message
from agentlayers.protocol.credit import CreditAccount, cost_of
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.events import (
    AuthenticateReceived,
    ChangesRequested,
    ChangesStopped,
    CreditGranted,
    FetchRequested,
    PingReceived,
    ServerEvent,
    WriteReceived,
)
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    Credit,
    FetchedEntries,
    FetchEntries,
    HeadDigest,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    RemoteEncryptedEntry,
    RequestChanges,
    StopChanges,
    WriteEntries,
    WriteWindow,
)
from agentlayers.protocol.session import Session, SessionState
from agentlayers.protocol.write_ledger import WriteLedger

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
        through: First sequence that the subscriber does not have after these; None writes the stock
            form.
        chunk_id: Next id of the server's counter; called only if the message has to be cut.

    Raises:
        LocalProtocolError: An entry cannot be expressed, or together they are longer than a
            receiver accepts.
    """
    data = encode_message(Changes(public_key, entries, through))
    return split_message(data, chunk_id()) if len(data) > CHUNK_BYTES else [data]


@final
class ServerSession(Session[ServerEvent]):
    """
    Speaks to a client, stock or ours.

    Args:
        is_stream: Whether bytes arrive cut anywhere (TCP), not one message at a time (WebSocket).
        hello: Sent at once. Without it the client has to authenticate first.
        chunk_id: Counter for the chunks of long Changes; needs to be unique on this connection
            only.
    """

    def __init__(self, *, is_stream: bool, hello: Hello | None, chunk_id: Callable[[], int] | None = None) -> None:
        state = SessionState.AWAITING_AUTHENTICATION if hello is None else SessionState.OPEN
        super().__init__(is_stream=is_stream, state=state)
        self._chunk_id = chunk_id or itertools.count().__next__
        self._following: set[str] = set()
        self._accounts: dict[str, CreditAccount] = {}
        self._owed = WriteLedger(WriteWindow(WRITE_WINDOW_MESSAGES, WRITE_WINDOW_BYTES))
        self._gives_credit = self._is_ours = False
        self._fetching: set[int] = set()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._may_authenticate = is_stream or hello is None
        self._authenticated = False
        if hello is not None:
            self._outgoing.append(encode_message(hello))
        elif self._reader is not None:
            # Strangers are many, and each could have a whole frame kept for it.
            self._reader.accept_up_to(AUTHENTICATE_BYTES_MAX, "AUTHENTICATE_BYTES_MAX")

    @property
    def following(self) -> frozenset[str]:
        """Public keys this client follows now."""
        return frozenset(self._following)

    @property
    def is_ours(self) -> bool:
        """Whether the client has used anything that a stock one does not know."""
        return self._is_ours

    # -- commands ----------------------------------------------------------------------------------

    def accept(self, hello: Hello) -> None:
        """
        Let the client in as the tenant that ``hello`` names.

        Raises:
            LocalProtocolError: Nobody asked, or the session is over.
        """
        if self._state not in (SessionState.AWAITING_AUTHENTICATION, SessionState.AUTHENTICATING):
            raise LocalProtocolError(f"cannot accept: the session is {self._state.value}")
        self._outgoing.append(encode_message(hello))
        self._state = SessionState.OPEN
        self._accept_whole_frames()
        held, self._held, self._held_bytes = self._held, [], 0
        self._guard(lambda: self._receive_held(held))

    def reject(self, error: AgentLayersError) -> None:
        """
        End the session; a client that authenticates in-band is told the error's code, nothing else.

        Send what :meth:`data_to_send` returns, then close. No event is emitted: the caller knows.
        """
        if self._is_over():
            return
        self._end(error)

    def send_ack(self, message_id: int, sequence_numbers: Sequence[int], through: int | None) -> None:
        """
        Acknowledge a WriteEntries whose entries are durable.

        Args:
            message_id: Of the WriteEntries.
            sequence_numbers: One for each entry sent, in that order.
            through: Everything of the key below it was sent to, or written by, this connection;
                None if the key is not followed.
        """
        if not self._is_over():
            self._owed.settle(message_id)
            self._outgoing.append(encode_message(Ack(message_id, sequence_numbers, through)))

    def send_changes(self, public_key: str, entries: Sequence[RemoteEncryptedEntry], through: int | None) -> None:
        """
        Send entries of a key, if the client (still) follows it.

        Raises:
            LocalProtocolError: They cost more than the client's credit, or cannot be expressed.
        """
        if self._is_over() or public_key not in self._following:
            return
        account = self._accounts.get(public_key)
        if account is not None and entries:
            cost = cost_of(entries)
            if not account.covers(cost, len(entries)):
                raise LocalProtocolError(f"cannot send changes that cost {cost}: the credit is {account.available}")
            account.spend(cost)
        self._outgoing += encode_changes_frames(public_key, entries, through, self._chunk_id)

    def send_pong(self, ping_id: int, digests: Mapping[str, HeadDigest]) -> None:
        """Answer a Ping that asked about followed keys."""
        if not self._is_over():
            self._outgoing.append(encode_message(Pong(ping_id, digests)))

    def send_fetched(self, message_id: int, entries: Sequence[RemoteEncryptedEntry], answered: int) -> None:
        """
        Answer a FetchEntries.

        Args:
            message_id: Of the FetchEntries.
            entries: Those there are of its first ``answered`` ids.
            answered: At least one.

        Raises:
            LocalProtocolError: They cannot be expressed, or are longer together than a receiver accepts.
        """
        self._fetching.discard(message_id)
        if not self._is_over():
            data = encode_message(FetchedEntries(message_id, entries, answered))
            self._outgoing += split_message(data, self._chunk_id()) if len(data) > CHUNK_BYTES else [data]

    def send_encoded(self, frames: Sequence[bytes], *, public_key: str | None = None) -> None:
        """
        Send frames that :func:`encode_changes_frames` made; whoever made them took them off the credit.

        Args:
            frames: All frames of one message.
            public_key: Their key; if given, they are dropped when the client no longer follows it.
        """
        if not self._is_over() and (public_key is None or public_key in self._following):
            self._outgoing += frames

    # -- what arrives ------------------------------------------------------------------------------

    def _receive_value(self, value: bytes) -> None:
        if self._state is not SessionState.AUTHENTICATING:
            super()._receive_value(value)
            return
        self._held_bytes += len(value)
        if self._held_bytes > FRAME_BYTES_MAX:
            raise LimitExceededError(limit="FRAME_BYTES_MAX", allowed=FRAME_BYTES_MAX, declared=self._held_bytes)
        self._held.append(value)

    def _receive_held(self, held: list[bytes]) -> None:
        for value in held:
            if self._is_over():
                return
            self._receive_value(value)

    def _handle(self, message: Message) -> None:
        if type(message) is ChunkedMessage and self._state is SessionState.OPEN:
            self._may_authenticate = False
            whole = self._assemble(message)
            if whole is None:
                return
            message = whole
        handler = _HANDLERS.get(type(message))
        if handler is None or (self._state is not SessionState.OPEN and type(message) is not Authenticate):
            raise UnexpectedMessageError(f"{type(message).__name__} from a client while {self._state.value}")
        handler(self, message)
        self._may_authenticate = False

    def _on_authenticate(self, message: Authenticate) -> None:
        if not self._may_authenticate:
            raise UnexpectedMessageError("Authenticate: only as the first message, and only over a stream")
        self._authenticated = self._is_ours = True
        self._state = SessionState.AUTHENTICATING
        self._accept_whole_frames()
        self._events.append(AuthenticateReceived(message.tenant, message.token))

    def _accept_whole_frames(self) -> None:
        if self._reader is not None:
            self._reader.accept_up_to(FRAME_BYTES_MAX, "FRAME_BYTES_MAX")

    def _on_request_changes(self, message: RequestChanges) -> None:
        if message.public_key not in self._following:
            if len(self._following) >= SUBSCRIPTIONS_PER_CONNECTION_MAX:
                raise LimitExceededError(
                    limit="SUBSCRIPTIONS_PER_CONNECTION_MAX",
                    allowed=SUBSCRIPTIONS_PER_CONNECTION_MAX,
                    declared=len(self._following) + 1,
                )
            self._following.add(message.public_key)
        account = None if message.credit is None else CreditAccount(message.credit)
        if account is None:
            self._accounts.pop(message.public_key, None)
        else:
            self._accounts[message.public_key] = account
            self._gives_credit = self._is_ours = True
        self._events.append(ChangesRequested(message.public_key, message.start_sequence, account))

    def _on_credit(self, message: Credit) -> None:
        self._is_ours = True
        if message.public_key not in self._following:
            self._ignored += 1
            return
        account = self._accounts.get(message.public_key)
        if account is None:
            raise UnexpectedMessageError("Credit: this public key was requested without a credit to add to")
        account.grant(message.amount)
        self._events.append(CreditGranted(message.public_key))

    def _on_stop_changes(self, message: StopChanges) -> None:
        if message.public_key not in self._following:
            self._ignored += 1
            return
        self._following.discard(message.public_key)
        self._accounts.pop(message.public_key, None)
        self._events.append(ChangesStopped(message.public_key))

    def _on_write_entries(self, message: WriteEntries) -> None:
        # A stock client knows no window; who gives credit knows it, and could block itself without it.
        if self._gives_credit and not self._owed.has_room(message.public_key):
            raise LimitExceededError(
                limit="WRITE_WINDOW_MESSAGES", allowed=WRITE_WINDOW_MESSAGES, declared=WRITE_WINDOW_MESSAGES + 1
            )
        self._owed.add(message.id, message.public_key)
        entries = message.entries
        self._is_ours = self._is_ours or (len(entries) > 1 and entries[1].iv != entries[0].iv)
        self._events.append(WriteReceived(message.id, message.public_key, tuple(message.entries)))

    def _on_ping(self, message: Ping) -> None:
        if message.cursors is None:
            self._outgoing.append(encode_message(Pong(message.id)))
            return
        # What this client does not follow is nothing to it, here too.
        self._is_ours = True
        cursors = {key: cursor for key, cursor in message.cursors.items() if key in self._following}
        self._events.append(PingReceived(message.id, cursors))

    def _on_fetch_entries(self, message: FetchEntries) -> None:
        self._is_ours = True
        if len(self._fetching) >= FETCHES_IN_FLIGHT_MAX:
            raise LimitExceededError(
                limit="FETCHES_IN_FLIGHT_MAX", allowed=FETCHES_IN_FLIGHT_MAX, declared=len(self._fetching) + 1
            )
        self._fetching.add(message.id)
        self._events.append(FetchRequested(message.id, message.public_key, tuple(message.entry_ids)))

    # -- the end -----------------------------------------------------------------------------------

    def _end(self, error: AgentLayersError) -> None:
        super()._end(error)
        if self._authenticated:
            self._outgoing.append(encode_message(Rejected(error.code.value)))

    def _release(self) -> None:
        super()._release()
        self._following.clear()
        self._accounts.clear()
        self._fetching.clear()
        self._owed.clear()
        self._held.clear()
        self._held_bytes = 0


_HANDLERS: Final[dict[type, Callable[[ServerSession, Any], None]]] = {
    Authenticate: ServerSession._on_authenticate,
    RequestChanges: ServerSession._on_request_changes,
    Credit: ServerSession._on_credit,
    StopChanges: ServerSession._on_stop_changes,
    WriteEntries: ServerSession._on_write_entries,
    Ping: ServerSession._on_ping,
    FetchEntries: ServerSession._on_fetch_entries,
}
