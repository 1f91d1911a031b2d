"""
What a replica knows of its connection, as evidence and not as hope.

``connected`` is said only while the socket is open and the server's ``Hello`` was received on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from agentlayers.errors import ErrorCode

__all__ = ["QuarantinedEntry", "StoreStatus", "SyncReport", "SyncState", "SyncStatus"]


class SyncState(StrEnum):
    """Where a connection stands."""

    OFFLINE = "offline"
    """There is no server to connect to."""
    CONNECTING = "connecting"
    """An attempt is under way; no ``Hello`` yet."""
    CONNECTED = "connected"
    """The socket is open and the server has introduced itself."""
    WAITING = "waiting"
    """The last attempt or connection failed; the next one comes by the schedule."""
    STOPPED = "stopped"
    """Nobody asked for a connection, it was given up, or ``disconnect`` ended it."""


@dataclass(frozen=True, slots=True)
class QuarantinedEntry:
    """
    A received entry that was kept out of the journal.

    Attributes:
        store: The store whose public key it came under.
        entry_id: As the envelope names it.
        sequence: The server's number of it.
        reason: Why it could not be taken over.
    """

    store: str
    entry_id: bytes
    sequence: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """
    One registered store.

    Attributes:
        enabled: Whether its sync flag is on. If not, nothing of it is sent or asked for.
        pending: Local entries the server has not acknowledged, as last counted; :obj:`None` before
            the first connection of this process, when nobody knows yet. ``SyncService.refresh``
            counts again.
        next_sequence: First sequence of the server not held here, as last seen.
        behind: Entries the server has that are not here, as of its last answer to a heartbeat; :obj:`None`
            while it has not said.
        last_acknowledged: When the server last acknowledged an entry of ours.
        last_verified: When the server last proved to hold exactly the entries we believe it holds.
        is_diverged: It proved the opposite, and everything is being exchanged again.
        sent: Entries acknowledged since this process started.
        received: New entries taken over since this process started.
        quarantined: Received entries that were kept out of the journal.
    """

    enabled: bool
    pending: int | None = None
    next_sequence: int = 0
    behind: int | None = None
    last_acknowledged: datetime | None = None
    last_verified: datetime | None = None
    is_diverged: bool = False
    sent: int = 0
    received: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncStatus:
    """
    The whole service at one moment.

    Attributes:
        state: Where the connection stands. With several (one for each store, to a stock server) the
            least advanced of them.
        url: Where to, without credentials.
        since: When this state began.
        stores: Each registered store.
        attempt: Failed attempts since a connection last was of use.
        retry_in_seconds: Pause before the next attempt, counted from ``since``; only while waiting.
        last_error: Why the last attempt or connection ended; :obj:`None` while connected.
        last_error_code: Its stable name.
        remote_id: The server's id in hexadecimal, once known.
        is_stock: Whether the server is an unmodified Effect server.
    """

    state: SyncState
    url: str
    since: datetime
    stores: Mapping[str, StoreStatus] = field(default_factory=dict)
    attempt: int = 0
    retry_in_seconds: float | None = None
    last_error: str | None = None
    last_error_code: ErrorCode | None = None
    remote_id: str | None = None
    is_stock: bool = False

    @property
    def is_connected(self) -> bool:
        """Whether the socket is open and ``Hello`` was received."""
        return self.state is SyncState.CONNECTED

    @property
    def pending(self) -> int:
        """Entries of all enabled stores known to wait for the server."""
        return sum(store.pending or 0 for store in self.stores.values() if store.enabled)

    @property
    def behind(self) -> int:
        """Entries of all enabled stores that the server is known to have and that are not here."""
        return sum(store.behind or 0 for store in self.stores.values() if store.enabled)


@dataclass(frozen=True, slots=True)
class SyncReport:
    """
    What one ``sync_now`` did.

    Attributes:
        sent: Entries the server acknowledged meanwhile, per enabled store.
        received: New entries taken over meanwhile, per enabled store.
        seconds: How long it took.
    """

    sent: Mapping[str, int]
    received: Mapping[str, int]
    seconds: float
