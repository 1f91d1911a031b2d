"""
The client's side of a connection, as a pure state machine.

==============  ================================  ==============================  ===============
state           event                             action                          next state
==============  ================================  ==============================  ===============
(start)         created                           queue Authenticate, if given    AWAITING_HELLO
AWAITING_HELLO  Hello                             HelloReceived                   OPEN
AWAITING_HELLO  Hello of another tenant than      ignored: an open server greets  AWAITING_HELLO
                authenticated for, or of none     before it knows the tenant
AWAITING_HELLO  any other message                 SessionFailed                   FAILED
OPEN            Changes of a followed key         ChangesReceived                 OPEN
OPEN            Changes past the key's credit     SessionFailed                   FAILED
OPEN            Changes of another key            ignored, counted                OPEN
OPEN            Ack of a write in flight          AckReceived                     OPEN
OPEN            Ack with more sequences than it   SessionFailed                   FAILED
                had entries; from a server of
                ours, with fewer
OPEN            Ack of anything else              ignored, counted                OPEN
OPEN            FetchedEntries that were asked    EntriesFetched                  OPEN
                for
OPEN            FetchedEntries of anything else   ignored, counted                OPEN
OPEN            FetchedEntries with other ids     SessionFailed                   FAILED
OPEN            Pong of a Ping in flight          PongReceived                    OPEN
OPEN            Pong of anything else             ignored, counted                OPEN
OPEN            Hello, the same remote id         ignored, counted                OPEN
OPEN            Hello, another remote id          SessionFailed                   FAILED
OPEN            ChunkedMessage                    kept; the last one missing      as that message
                                                  acts as the message it
                                                  completes
OPEN            a client's message                SessionFailed                   FAILED
either          Rejected                          SessionFailed(what it names)    FAILED
either          malformed, or past a bound        SessionFailed                   FAILED
either          end of the connection             no event                        CLOSED
FAILED, CLOSED  anything                          ignored                         unchanged
==============  ================================  ==============================  ===============

Towards a stock server the session refuses to send what would break that server or its client: a
second public key (it keeps one position for all keys of a connection), several entries under one
nonce, an entry id that is no UUID (its memory storage closes the connection).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final

from agentlayers.errors import (
    AgentLayersError,
    AuthenticationError,
    AuthorizationError,
    ErrorCode,
    LimitExceededError,
    LocalProtocolError,
    MalformedMessageError,
    RemoteProtocolError,
    UnexpectedMessageError,
)
from agentlayers.limits import (
    CREDIT_BYTES_MAX,
    ENTRIES_PER_MESSAGE_MAX,
    ENTRY_ID_BYTES,
    FETCH_ENTRIES_MAX,
    FETCHES_IN_FLIGHT_MAX,
    MESSAGE_BYTES_MAX,
    PUBLIC_KEY_BYTES_MAX,
    SUBSCRIPTIONS_PER_CONNECTION_MAX,
)
from agentlayers.protocol.chunking import split_message
from agentlayers.protocol.credit import CreditAccount, cost_of
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.events import (
    AckReceived,
    ChangesReceived,
    ClientEvent,
    EntriesFetched,
    HelloReceived,
    PongReceived,
)
from agentlayers.protocol.messages import (
    CAPABILITY_ACK_THROUGH,
    CAPABILITY_CREDIT,
    CAPABILITY_DIGESTS,
    CAPABILITY_ENTRY_NONCES,
    CAPABILITY_FETCH,
    Ack,
    Authenticate,
    Changes,
    ChunkedMessage,
    Credit,
    EncryptedEntry,
    Extensions,
    FetchedEntries,
    FetchEntries,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    RequestChanges,
    StopChanges,
    WriteEntries,
)
from agentlayers.protocol.session import Session, SessionState
from agentlayers.protocol.write_ledger import WriteLedger

__all__ = ["ClientSession"]


@final
class ClientSession(Session[ClientEvent]):
    """
    Speaks to a server, stock or ours.

    Args:
        is_stream: Whether bytes arrive cut anywhere (TCP), not one message at a time (WebSocket).
        authenticate: Sent before anything else, where the medium has no header for it. The session
            then waits for the Hello of that tenant.
    """

    def __init__(self, *, is_stream: bool, authenticate: Authenticate | None = None) -> None:
        super().__init__(is_stream=is_stream, state=SessionState.AWAITING_HELLO)
        self._is_stream = is_stream
        self._authenticate = authenticate
        self._hello: Hello | None = None
        self._following: set[str] = set()
        self._stock_key: str | None = None
        self._unacknowledged: dict[int, tuple[str, tuple[bytes, ...]]] = {}
        self._unanswered_pings: set[int] = set()
        self._fetching: dict[int, FetchEntries] = {}
        self._next_message_id = 0
        self._next_ping_id = 1
        self._entry_nonces = self._sends_through = self._digests = self._takes_credit = self._fetches = False
        self._accounts: dict[str, CreditAccount] = {}
        self._ledger = WriteLedger(None)
        if authenticate is not None:
            self._outgoing.append(encode_message(authenticate))

    # -- what the server said of itself ------------------------------------------------------------

    @property
    def remote_id(self) -> bytes | None:
        """The server's id, once it greeted."""
        return None if self._hello is None else self._hello.remote_id

    @property
    def extensions(self) -> Extensions | None:
        """What the server announced; None from a stock server and before its Hello."""
        return None if self._hello is None else self._hello.extensions

    @property
    def is_stock(self) -> bool:
        """Whether the server greeted without our extension fields."""
        return self._hello is not None and self._hello.extensions is None

    @property
    def has_to_take_turns(self) -> bool:
        """Whether a message may only follow the answer to the last: a stock TCP server ends on two in one read."""
        return self.is_stock and self._is_stream

    @property
    def accepts_entry_nonces(self) -> bool:
        """Whether a WriteEntries may hold several entries, each with its nonce."""
        return self._entry_nonces

    @property
    def sends_through(self) -> bool:
        """Whether Changes and Acks say how far this connection has everything."""
        return self._sends_through

    @property
    def compares_digests(self) -> bool:
        """Whether a Ping may ask what the server has below a cursor."""
        return self._digests

    @property
    def takes_credit(self) -> bool:
        """Whether changes may be requested with a credit, within which the server then keeps."""
        return self._takes_credit

    @property
    def fetches(self) -> bool:
        """Whether entries may be asked for by id."""
        return self._fetches

    @property
    def can_fetch_now(self) -> bool:
        """Whether one more :meth:`fetch_entries` is allowed before the next answer."""
        return self._fetches and len(self._fetching) < FETCHES_IN_FLIGHT_MAX

    @property
    def unacknowledged(self) -> int:
        """How many WriteEntries wait for their Ack."""
        return len(self._unacknowledged)

    def has_room(self, public_key: str) -> bool:
        """Tell whether the server's window lets one more WriteEntries of a key be sent before an Ack."""
        return self._ledger.has_room(public_key)

    # -- commands ----------------------------------------------------------------------------------

    def request_changes(self, public_key: str, start_sequence: int, credit: int | None = None) -> None:
        """
        Follow a public key from the first sequence not held yet.

        Args:
            public_key: What to follow.
            start_sequence: Where to begin.
            credit: Cost of what may be sent before :meth:`grant_credit`; :obj:`None` sets no bound.

        Raises:
            LocalProtocolError: Not open, too many keys, a second key on a stock server's
                connection, a credit for a server that takes none, or something that cannot be expressed.
        """
        self._require_key(public_key, "request changes")
        if public_key not in self._following and len(self._following) >= SUBSCRIPTIONS_PER_CONNECTION_MAX:
            raise LocalProtocolError(f"cannot request changes: {len(self._following)} public keys are followed already")
        if credit is not None and not (self._takes_credit and 0 <= credit <= CREDIT_BYTES_MAX):
            raise LocalProtocolError(
                f"cannot request changes: a credit is 0 to {CREDIT_BYTES_MAX}, and only for a server that announced it"
            )
        self._outgoing.append(encode_message(RequestChanges(public_key, start_sequence, credit)))
        self._following.add(public_key)
        before = self._accounts.pop(public_key, None)
        if credit is not None:
            account = self._accounts[public_key] = CreditAccount(credit)
            if before is not None and before.available > 0:
                # What was sent for the earlier request may still be under way: up to its credit, and an entry.
                account.spend(-before.available - MESSAGE_BYTES_MAX)

    def grant_credit(self, public_key: str, amount: int) -> None:
        """
        Let the server send more of a key that is followed with a credit.

        Args:
            public_key: The key.
            amount: Cost, in the sense of :func:`~agentlayers.protocol.credit.cost_of`, of what was taken over.

        Raises:
            LocalProtocolError: Not open, not followed with a credit, or not from 1 to what keeps it in bounds.
        """
        self._require_open("grant credit")
        account = self._accounts.get(public_key)
        if account is None or public_key not in self._following:
            raise LocalProtocolError("cannot grant credit: the public key is not followed with one")
        if not 0 < amount <= CREDIT_BYTES_MAX - max(account.available, 0):
            raise LocalProtocolError(f"cannot grant credit: {amount}, where {account.available} is granted already")
        account.grant(amount)
        self._outgoing.append(encode_message(Credit(public_key, amount)))

    def stop_changes(self, public_key: str) -> None:
        """
        Stop following a public key; what is on its way is ignored.

        Raises:
            LocalProtocolError: Not open, or the key is not followed.
        """
        self._require_open("stop changes")
        if public_key not in self._following:
            raise LocalProtocolError("cannot stop changes: the public key is not followed")
        self._outgoing.append(encode_message(StopChanges(public_key)))
        self._following.discard(public_key)

    def write_entries(self, public_key: str, entries: Sequence[EncryptedEntry]) -> int:
        """
        Append sealed entries, and return the message id that their Ack will have.

        Raises:
            LocalProtocolError: Not open; several entries to a server that reads one nonce per
                message (send one in each); too many; no room in the server's window; or an entry that cannot be
                expressed.
        """
        self._require_key(public_key, "write entries")
        if not self._ledger.has_room(public_key):
            raise LocalProtocolError("cannot write entries: as much as the server allows has no Ack; see has_room()")
        if len(entries) > ENTRIES_PER_MESSAGE_MAX:
            raise LocalProtocolError(f"cannot write {len(entries)} entries at once; at most {ENTRIES_PER_MESSAGE_MAX}")
        if not self._entry_nonces:
            _check_for_stock(entries)
        message_id = self._next_message_id
        data = encode_message(WriteEntries(public_key, message_id, entries), entry_nonces=self._entry_nonces)
        self._outgoing += split_message(data, message_id)
        self._unacknowledged[message_id] = (public_key, tuple([entry[0] for entry in entries]))
        self._ledger.add(message_id, public_key, sum([len(entry[2]) for entry in entries]))
        self._next_message_id += 1
        return message_id

    def fetch_entries(self, public_key: str, entry_ids: Sequence[bytes]) -> int:
        """
        Ask for entries by id, and return the id that the answer will have.

        Args:
            public_key: Theirs; it need not be followed.
            entry_ids: From 1 to ``FETCH_ENTRIES_MAX`` of them.

        Raises:
            LocalProtocolError: Not open, a server that does not announce it, none or too many ids, or too many
                questions without an answer.
        """
        self._require_key(public_key, "fetch entries")
        if not self.can_fetch_now:
            raise LocalProtocolError("cannot fetch entries: this server does not offer it, or too many are under way")
        if not 1 <= len(entry_ids) <= FETCH_ENTRIES_MAX:
            raise LocalProtocolError(f"cannot fetch {len(entry_ids)} entries at once; 1 to {FETCH_ENTRIES_MAX}")
        message = FetchEntries(self._next_message_id, public_key, tuple(entry_ids))
        self._next_message_id += 1
        self._outgoing.append(encode_message(message))
        self._fetching[message.id] = message
        return message.id

    def ping(self, cursors: Mapping[str, int] | None = None) -> int:
        """
        Ask whether the server is there, and return the id that its Pong will have.

        Args:
            cursors: For followed public keys the first sequence not held yet; the Pong tells the server's digest of
                what is below.

        Raises:
            LocalProtocolError: Not open, or cursors for a server that does not compare digests.
        """
        self._require_open("ping")
        if cursors and not self._digests:
            raise LocalProtocolError("cannot ping with cursors: this server does not compare digests")
        ping_id = self._next_ping_id
        self._next_ping_id += 1
        self._unanswered_pings.add(ping_id)
        self._outgoing.append(encode_message(Ping(ping_id, cursors or None)))
        return ping_id

    # -- what arrives ------------------------------------------------------------------------------

    def _handle(self, message: Message) -> None:
        if type(message) is ChunkedMessage and self._state is SessionState.OPEN:
            whole = self._assemble(message)
            if whole is None:
                return
            message = whole
        handler = _HANDLERS.get(type(message))
        if handler is None or (self._state is not SessionState.OPEN and type(message) not in _BEFORE_HELLO):
            raise UnexpectedMessageError(f"{type(message).__name__} from a server while {self._state.value}")
        handler(self, message)

    def _on_hello(self, hello: Hello) -> None:
        if self._hello is not None:
            if hello.remote_id != self._hello.remote_id:
                raise UnexpectedMessageError("Hello: a second one with another remote id on the same connection")
            self._ignored += 1
            return
        if self._authenticate is not None:
            tenant = None if hello.extensions is None else hello.extensions.tenant
            if tenant != self._authenticate.tenant:
                self._ignored += 1
                return
        self._hello = hello
        capabilities = hello.extensions.capabilities if hello.extensions is not None else frozenset()
        self._entry_nonces = CAPABILITY_ENTRY_NONCES in capabilities
        self._sends_through = CAPABILITY_ACK_THROUGH in capabilities
        self._digests = CAPABILITY_DIGESTS in capabilities
        self._takes_credit = CAPABILITY_CREDIT in capabilities
        self._fetches = CAPABILITY_FETCH in capabilities
        self._ledger = WriteLedger(hello.extensions.write_window if hello.extensions is not None else None)
        self._state = SessionState.OPEN
        self._events.append(HelloReceived(hello.remote_id, hello.extensions))

    def _on_changes(self, changes: Changes) -> None:
        account = self._accounts.get(changes.public_key)
        if account is not None and changes.entries:
            cost = cost_of(changes.entries)
            if not account.covers(cost, len(changes.entries)):
                raise LimitExceededError(limit="credit", allowed=max(account.available, 0), declared=cost)
            account.spend(cost)
        if changes.public_key not in self._following:
            self._ignored += 1
            return
        self._events.append(ChangesReceived(changes.public_key, tuple(changes.entries), changes.through))

    def _on_ack(self, ack: Ack) -> None:
        written = self._unacknowledged.get(ack.id)
        if written is None:
            self._ignored += 1
            return
        public_key, entry_ids = written
        numbers = tuple(ack.sequence_numbers)
        if len(numbers) > len(entry_ids) or (not self.is_stock and len(numbers) != len(entry_ids)):
            raise MalformedMessageError(f"Ack.sequenceNumbers: {len(numbers)} for a write of {len(entry_ids)} entries")
        del self._unacknowledged[ack.id]
        self._ledger.settle(ack.id)
        self._events.append(AckReceived(ack.id, public_key, entry_ids, numbers, ack.through))

    def _on_fetched(self, fetched: FetchedEntries) -> None:
        asked = self._fetching.pop(fetched.id, None)
        if asked is None:
            self._ignored += 1
            return
        answered = set(asked.entry_ids[: fetched.answered])
        if not answered.issuperset(entry.entry_id for entry in fetched.entries):
            raise UnexpectedMessageError("FetchedEntries: an entry that was not asked for")
        unanswered = tuple(asked.entry_ids[fetched.answered :])
        self._events.append(EntriesFetched(fetched.id, asked.public_key, tuple(fetched.entries), unanswered))

    def _on_pong(self, pong: Pong) -> None:
        if pong.id not in self._unanswered_pings:
            self._ignored += 1
            return
        self._unanswered_pings.discard(pong.id)
        self._events.append(PongReceived(pong.id, pong.digests or {}))

    def _on_rejected(self, rejected: Rejected) -> None:
        raise _rejection(rejected.code)

    # -- checks ------------------------------------------------------------------------------------

    def _require_key(self, public_key: str, command: str) -> None:
        self._require_open(command)
        size = len(public_key.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= PUBLIC_KEY_BYTES_MAX:
            raise LocalProtocolError(
                f"cannot {command}: a public key has 1 to {PUBLIC_KEY_BYTES_MAX} bytes, not {size}"
            )
        if not self.is_stock:
            return
        if self._stock_key is None:
            self._stock_key = public_key
        elif self._stock_key != public_key:
            raise LocalProtocolError(
                f"cannot {command}: a stock server keeps one position for all public keys of a"
                " connection, so each key needs a connection of its own"
            )

    def _release(self) -> None:
        super()._release()
        self._unacknowledged.clear()
        self._ledger.clear()
        self._accounts.clear()
        self._unanswered_pings.clear()
        self._fetching.clear()


def _check_for_stock(entries: Sequence[EncryptedEntry]) -> None:
    if len(entries) > 1:
        raise LocalProtocolError(
            "cannot write entries: this server reads one nonce per message; send one entry in each"
        )
    for entry in entries:
        entry_id = entry.entry_id
        if len(entry_id) == ENTRY_ID_BYTES and not (1 <= entry_id[6] >> 4 <= 8 and entry_id[8] >> 6 == 2):
            raise LocalProtocolError("cannot write entries: a stock server hangs up on an id that is no UUID")


def _rejection(code: str) -> AgentLayersError:
    """Turn the code of a Rejected into the error of ours that it names."""
    if code == ErrorCode.AUTHENTICATION:
        return AuthenticationError(
            "the server refused the token, or misses one or a client certificate; give what it asks for"
        )
    if code == ErrorCode.AUTHORIZATION:
        return AuthorizationError("the server does not let this token into this tenant")
    return RemoteProtocolError(f"the server ended the session: {code!r}")


_HANDLERS: Final[dict[type, Callable[[ClientSession, Any], None]]] = {
    Hello: ClientSession._on_hello,
    Changes: ClientSession._on_changes,
    Ack: ClientSession._on_ack,
    FetchedEntries: ClientSession._on_fetched,
    Pong: ClientSession._on_pong,
    Rejected: ClientSession._on_rejected,
}
_BEFORE_HELLO: Final = frozenset({Hello, Rejected})
