"""What a session tells its shell: one value for each thing that happened on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentlayers.errors import AgentLayersError
from agentlayers.protocol.credit import CreditAccount
from agentlayers.protocol.messages import EncryptedEntry, Extensions, HeadDigest, RemoteEncryptedEntry

__all__ = [
    "AckReceived",
    "AuthenticateReceived",
    "ChangesReceived",
    "ChangesRequested",
    "ChangesStopped",
    "ClientEvent",
    "CreditGranted",
    "EntriesFetched",
    "FetchRequested",
    "HelloReceived",
    "PingReceived",
    "PongReceived",
    "ServerEvent",
    "SessionFailed",
    "WriteReceived",
]


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """
    The session is over; close the connection. Always the last event.

    Attributes:
        error: What was wrong; also :attr:`Session.error
            <agentlayers.protocol.session.Session.error>`.
    """

    error: AgentLayersError


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """Client: the server is ready; ask for changes and write."""

    remote_id: bytes
    extensions: Extensions | None


@dataclass(frozen=True, slots=True)
class ChangesReceived:
    """Client: entries of a public key that was asked for, in sequence order."""

    public_key: str
    entries: tuple[RemoteEncryptedEntry, ...]
    through: int | None


@dataclass(frozen=True, slots=True)
class AckReceived:
    """
    Client: a WriteEntries is durable.

    Attributes:
        message_id: What :meth:`~agentlayers.protocol.client_session.ClientSession.write_entries`
            returned.
        public_key: Where it was written to.
        entry_ids: The entries it had, in the order sent.
        sequence_numbers: One for each of them, in that order, from our server. A stock server may
            leave duplicates out or sort them by number: then nothing says which entry has which
            number.
        through: Everything of the key below it was sent to, or written by, this connection.
    """

    message_id: int
    public_key: str
    entry_ids: tuple[bytes, ...]
    sequence_numbers: tuple[int, ...]
    through: int | None


@dataclass(frozen=True, slots=True)
class PongReceived:
    """
    Client: the server answered the Ping with this id.

    Attributes:
        id: What :meth:`~agentlayers.protocol.client_session.ClientSession.ping` returned.
        digests: What the server has of the public keys that were asked about; empty if none were.
    """

    id: int
    digests: Mapping[str, HeadDigest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EntriesFetched:
    """
    Client: the server answered a FetchEntries.

    Attributes:
        id: What :meth:`~agentlayers.protocol.client_session.ClientSession.fetch_entries` returned.
        public_key: Theirs.
        entries: Those the server has of the ids that were answered.
        unanswered: The ids to ask for again, because the answer would have been too long.
    """

    id: int
    public_key: str
    entries: tuple[RemoteEncryptedEntry, ...]
    unanswered: tuple[bytes, ...]


ClientEvent = HelloReceived | ChangesReceived | AckReceived | EntriesFetched | PongReceived | SessionFailed


@dataclass(frozen=True, slots=True)
class AuthenticateReceived:
    """Server: check the token, then call ``accept`` with the tenant's Hello, or ``reject``."""

    tenant: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class WriteReceived:
    """Server: make these durable, then ``send_ack`` with a sequence for each, in this order."""

    message_id: int
    public_key: str
    entries: tuple[EncryptedEntry, ...]


@dataclass(frozen=True, slots=True)
class ChangesRequested:
    """
    Server: send everything of the key from ``start_sequence`` on, and go on doing so.

    Attributes:
        public_key: What is followed.
        start_sequence: Where to begin.
        credit: What may be sent; whoever sends takes it off. The session adds what the client grants, and says so by
            :class:`CreditGranted`. :obj:`None` sets no bound.
    """

    public_key: str
    start_sequence: int
    credit: CreditAccount | None = None


@dataclass(frozen=True, slots=True)
class CreditGranted:
    """Server: the account of a followed key holds more; go on sending."""

    public_key: str


@dataclass(frozen=True, slots=True)
class ChangesStopped:
    """Server: send nothing more of the key."""

    public_key: str


@dataclass(frozen=True, slots=True)
class PingReceived:
    """Server: a Ping that asks about followed keys; answer with ``send_pong``. Others are answered by the session."""

    id: int
    cursors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FetchRequested:
    """Server: answer with ``send_fetched``: those of these entries there are, in this order, as many as fit."""

    id: int
    public_key: str
    entry_ids: tuple[bytes, ...]


ServerEvent = (
    AuthenticateReceived
    | WriteReceived
    | ChangesRequested
    | CreditGranted
    | ChangesStopped
    | PingReceived
    | FetchRequested
    | SessionFailed
)
