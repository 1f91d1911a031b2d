"""
The messages of Effect's EventLogRemote, version 3, as values.

Names on the wire are in :mod:`agentlayers.protocol.codec`. Fields a stock peer does not know are
optional here and are only sent to a peer whose ``Hello`` announced them (or are ignored by it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

__all__ = [
    "CAPABILITY_ACK_THROUGH",
    "CAPABILITY_CREDIT",
    "CAPABILITY_DIGESTS",
    "CAPABILITY_ENTRY_NONCES",
    "CAPABILITY_FETCH",
    "EXTENSION_VERSION",
    "Ack",
    "Authenticate",
    "Changes",
    "ChunkedMessage",
    "Credit",
    "EncryptedEntry",
    "Extensions",
    "FetchEntries",
    "FetchedEntries",
    "HeadDigest",
    "Hello",
    "Message",
    "Ping",
    "Pong",
    "Rejected",
    "RemoteEncryptedEntry",
    "RequestChanges",
    "StopChanges",
    "WriteEntries",
    "WriteWindow",
]

EXTENSION_VERSION: Final = 1
CAPABILITY_ENTRY_NONCES: Final = "entry-nonces"
"""WriteEntries may carry a nonce with each entry, so a batch never reuses one."""
CAPABILITY_ACK_THROUGH: Final = "through"
"""Acks and Changes carry ``through``; the cursor moves only by it."""
CAPABILITY_DIGESTS: Final = "digests"
"""Ping may carry cursors; Pong then says where the server is, and what it has below each of them."""

CAPABILITY_CREDIT: Final = "credit"
"""RequestChanges may carry ``credit``, and Credit adds to it; the server sends Changes of that key only within it."""

CAPABILITY_FETCH: Final = "fetch"
"""FetchEntries asks for entries by id, followed or not; FetchedEntries answers it."""


class EncryptedEntry(NamedTuple):
    """
    An entry on its way to a server.

    Attributes:
        entry_id: UUIDv7, in clear so that the server can recognise a duplicate.
        iv: Nonce of this entry alone, 12 bytes.
        ciphertext: The sealed entry.
    """

    entry_id: bytes
    iv: bytes
    ciphertext: bytes


class RemoteEncryptedEntry(NamedTuple):
    """An entry as a server hands it out, with its sequence number."""

    sequence: int
    iv: bytes
    entry_id: bytes
    ciphertext: bytes


class WriteWindow(NamedTuple):
    """
    How much of one public key a client may have written without an Ack.

    Attributes:
        messages: WriteEntries, empty ones too.
        ciphertext_bytes: Of their entries; one larger message may go alone.
    """

    messages: int
    ciphertext_bytes: int


@dataclass(frozen=True, slots=True)
class Extensions:
    """
    What our peers add to ``Hello``; a stock peer ignores it.

    Attributes:
        version: Version of the extension fields.
        capabilities: Names of what the sender understands.
        incarnation: Changes when the server's data was replaced (restored, emptied); 16 bytes.
        tenant: The tenant this connection was let into.
        write_window: What may be unacknowledged; :obj:`None` from a server that does not say.
    """

    version: int
    capabilities: frozenset[str]
    incarnation: bytes
    tenant: str
    write_window: WriteWindow | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """Server: first message of a connection. ``extensions`` is absent from a stock server."""

    remote_id: bytes
    extensions: Extensions | None = None


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Client to our server, over TCP only, before anything else."""

    tenant: str
    token: str

    def __repr__(self) -> str:
        return f"Authenticate(tenant={self.tenant!r})"


@dataclass(frozen=True, slots=True)
class RequestChanges:
    """
    Client: follow a public key from ``start_sequence`` (the first sequence it does not have).

    Attributes:
        public_key: What to follow.
        start_sequence: Where to begin.
        credit: Cost of the Changes that may be sent until a :class:`Credit` adds to it; :obj:`None` sets no bound. Only
            to a server that announced ``credit``.
    """

    public_key: str
    start_sequence: int
    credit: int | None = None


@dataclass(frozen=True, slots=True)
class Credit:
    """
    Client: so much more may be sent of a followed key; only to a server that announced ``credit``.

    Attributes:
        public_key: Requested with a credit.
        amount: Cost in the sense of :func:`agentlayers.protocol.credit.cost_of`; at least 1.
    """

    public_key: str
    amount: int


@dataclass(frozen=True, slots=True)
class StopChanges:
    """Client: stop following a public key."""

    public_key: str


@dataclass(frozen=True, slots=True)
class WriteEntries:
    """
    Client: append entries. Answered by the Ack with the same ``id``.

    Attributes:
        public_key: The journal to append to.
        id: Chosen by the client, from 0 up on each connection.
        entries: In the order in which the server is to number them.
        iv: The nonce beside the entries, which the wire demands even where each entry has its own.
            Left empty, it is the first entry's.
    """

    public_key: str
    id: int
    entries: Sequence[EncryptedEntry]
    iv: bytes = b""


@dataclass(frozen=True, slots=True)
class Ack:
    """
    Server: the entries of the WriteEntries ``id`` are durable.

    Attributes:
        id: The WriteEntries that is acknowledged.
        sequence_numbers: One for each entry sent, in that order (our server; a stock one may leave
            some out).
        through: Everything below it was sent to, or written by, this connection; :obj:`None` if not
            subscribed or stock.
    """

    id: int
    sequence_numbers: Sequence[int]
    through: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """Server: entries of a followed public key, in sequence order."""

    public_key: str
    entries: Sequence[RemoteEncryptedEntry]
    through: int | None = None


@dataclass(frozen=True, slots=True)
class FetchEntries:
    """
    Client: send these entries, wherever they stand; only to a server that announced ``fetch``.

    Attributes:
        id: Chosen by the client; the :class:`FetchedEntries` has the same.
        public_key: Theirs. It need not be followed.
        entry_ids: At least one.
    """

    id: int
    public_key: str
    entry_ids: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class FetchedEntries:
    """
    Server: answer to the FetchEntries with the same ``id``.

    Attributes:
        id: That of the FetchEntries.
        entries: Those of its first ids that the server has, as many as it sends at once.
        answered: How many of its first ids this is the answer to; at least one. The rest is to be asked for again.
    """

    id: int
    entries: Sequence[RemoteEncryptedEntry]
    answered: int


class HeadDigest(NamedTuple):
    """
    What a server says of one public key at a heartbeat.

    Attributes:
        head: First sequence it has not given out.
        digest: Of its entry ids below the cursor that was asked about (see
            :mod:`agentlayers.protocol.sequence_digest`); :obj:`None` if it has not that many, or has not computed it.
    """

    head: int
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """
    Client: are you there?

    Attributes:
        id: Chosen by the client.
        cursors: For followed public keys the first sequence the client does not have; only to a server that
            announced ``digests``.
    """

    id: int
    cursors: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """
    Server: answer to the Ping with the same ``id``.

    Attributes:
        id: That of the Ping.
        digests: For each followed public key of the Ping's cursors.
    """

    id: int
    digests: Mapping[str, HeadDigest] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """
    Our server, only to a client that sent Authenticate: the session is over.

    Over TCP there is no close code, and a wrong token must not look like a lost connection.

    Attributes:
        code: An :class:`~agentlayers.errors.ErrorCode`, or a later release's.
    """

    code: str


@dataclass(frozen=True, slots=True)
class ChunkedMessage:
    """Either side: piece ``index`` of ``total`` of a message too long for one frame."""

    id: int
    index: int
    total: int
    data: bytes


Message = (
    Hello
    | Authenticate
    | Rejected
    | RequestChanges
    | Credit
    | StopChanges
    | WriteEntries
    | Ack
    | Changes
    | FetchEntries
    | FetchedEntries
    | Ping
    | Pong
    | ChunkedMessage
)
Fields = Mapping[str, object]
