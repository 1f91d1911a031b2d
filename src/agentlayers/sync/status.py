"""
What a replica knows of its connection, as evidence and not as hope.

``connected`` is said only while the socket is open and the server's ``Hello`` was received on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from agentlayers.errors import ErrorCode

__all__ = [
    "QuarantinedEntry",
    "RemoteReport",
    "StoreStatus",
    "SyncReport",
    "SyncState",
    "SyncStatus",
    "combined_status",
    "report_since",
]


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
        is_kept: It is on the disk. If not, there was no room for it, and it is read again from the server once the
            store has another key.
    """

    store: str
    entry_id: bytes
    sequence: int
    reason: str
    is_kept: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """
    One registered store. Of several servers, the numbers are sums, and the times those of the one that is worst off.

    Attributes:
        enabled: Whether its sync flag is on. If not, nothing of it is sent or asked for.
        pending: Entries to be sent that the server is not known to have, as last counted, those that
            came from other servers included; :obj:`None` before the first connection of this process,
            when nobody knows yet. ``SyncService.refresh`` counts again.
        next_sequence: First sequence of the server not held here, as last seen.
        behind: Entries the server has that are not here, as of its last answer to a heartbeat; :obj:`None`
            while it has not said.
        last_acknowledged: When the server last acknowledged an entry of ours.
        last_verified: When the server last proved to hold exactly the entries we believe it holds.
        is_diverged: It proved the opposite, and everything is being exchanged again.
        sent: Entries acknowledged since this process started.
        received: New entries taken over since this process started.
        quarantined: Received entries that were kept out of the journal.
        last_error: Why this store's journal or key cannot be used, so that the store is not synced for now;
            :obj:`None` while it can.
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
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncStatus:
    """
    The whole service at one moment, or one of its servers.

    Attributes:
        state: Where the connection stands. With several (one for each store, to a stock server, or
            several servers) the least advanced of them.
        url: Where to, without credentials.
        since: When this state began.
        stores: Each registered store.
        attempt: Failed attempts since a connection last was of use.
        retry_in_seconds: Pause before the next attempt, counted from ``since``; only while waiting.
        last_error: Why the last attempt or connection ended; :obj:`None` while connected.
        last_error_code: Its stable name.
        remote_id: The server's id in hexadecimal, once known.
        is_stock: Whether the server is an unmodified Effect server.
        remotes: Of a whole service: each server, by its address. What is said above of state, error and
            server is said of the least advanced of them.
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
    remotes: Mapping[str, SyncStatus] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReport:
    """
    What one ``sync_now`` did with one server.

    Attributes:
        url: The server, without credentials.
        sent: Entries it acknowledged meanwhile, per enabled store.
        received: New entries taken over from it meanwhile, per enabled store.
        error: Why not everything was exchanged; :obj:`None` if it was.
    """

    url: str
    sent: Mapping[str, int]
    received: Mapping[str, int]
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class SyncReport:
    """
    What one ``sync_now`` did.

    Attributes:
        sent: Entries acknowledged meanwhile, per enabled store; one that went to two servers counts twice.
        received: New entries taken over meanwhile, per enabled store.
        seconds: How long it took.
        remotes: The same for each server.
    """

    sent: Mapping[str, int]
    received: Mapping[str, int]
    seconds: float
    remotes: tuple[RemoteReport, ...] = ()


def report_since(now: Sequence[RemoteReport], before: Mapping[str, RemoteReport], seconds: float) -> SyncReport:
    """Return what was exchanged since some counts were taken, by address, from those of now."""
    remotes = tuple(
        replace(
            one,
            sent={store: count - before[one.url].sent.get(store, 0) for store, count in one.sent.items()},
            received={store: count - before[one.url].received.get(store, 0) for store, count in one.received.items()},
        )
        for one in now
    )
    sent, received = Counter[str](), Counter[str]()
    for one in remotes:
        sent.update(one.sent)
        received.update(one.received)
    return SyncReport(dict(sent), dict(received), seconds, remotes)


_ADVANCEMENT: Final = (
    SyncState.OFFLINE,
    SyncState.STOPPED,
    SyncState.WAITING,
    SyncState.CONNECTING,
    SyncState.CONNECTED,
)


def combined_status(statuses: Sequence[SyncStatus]) -> SyncStatus:
    """Return the status of a service from those of its servers, of which there is at least one."""
    foremost = min(statuses, key=lambda status: _ADVANCEMENT.index(status.state))
    remotes = {status.url: status for status in statuses}
    if len(statuses) == 1:
        return replace(foremost, remotes=remotes)
    names = dict.fromkeys(name for status in statuses for name in status.stores)
    stores = {
        name: _combined_store([status.stores[name] for status in statuses if name in status.stores]) for name in names
    }
    return replace(foremost, stores=stores, remotes=remotes)


def _combined_store(stores: Sequence[StoreStatus]) -> StoreStatus:
    return StoreStatus(
        enabled=any(store.enabled for store in stores),
        pending=_sum([store.pending for store in stores]),
        next_sequence=stores[0].next_sequence,
        behind=_sum([store.behind for store in stores]),
        last_acknowledged=_earliest([store.last_acknowledged for store in stores]),
        last_verified=_earliest([store.last_verified for store in stores]),
        is_diverged=any(store.is_diverged for store in stores),
        sent=sum(store.sent for store in stores),
        received=sum(store.received for store in stores),
        quarantined=sum(store.quarantined for store in stores),
        last_error=next((store.last_error for store in stores if store.last_error is not None), None),
    )


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count or 0 for count in counts)


def _earliest(times: Sequence[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None) if None not in times else None
