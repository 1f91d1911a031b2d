"""
The port every journal implements: the local set of entries, and what each remote has of it.

A journal holds the entries of several *stores* (``chat_history``, ``artifacts``, ``audit_log``...), each
declared by a :class:`StoreSchema`. Entries, per-remote bookkeeping and the stores' read models change in
one transaction, which is one synchronous function: it can hold no lock across the network. What happens
to an entry inside that transaction (dedup, heads, projection) is written once, in
:mod:`agentlayers.journal.transaction`, and shared by every implementation.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agentlayers.journal.conflict_policy import ConflictPolicy, LastWriteWins, Version
from agentlayers.journal.entry import Entry, RemoteEntry, StoredEntry

if TYPE_CHECKING:
    from agentlayers.journal.compaction import CompactionReport, CompactionStrategy
    from agentlayers.journal.transaction import JournalTransaction
    from agentlayers.layer import Layer

__all__ = [
    "Acknowledgement",
    "Commit",
    "EventJournal",
    "Observation",
    "QuarantinedEntry",
    "RelayMode",
    "Remote",
    "RemoteState",
    "RemoteWriteResult",
    "StoreSchema",
    "UnappliedEntry",
]

T = TypeVar("T")

Projection = Callable[["JournalTransaction", Entry, Sequence[Version]], None]


def _no_projection(tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
    """Keep no read model."""


def _one_scope(entry: Entry) -> str:  # noqa: ARG001  # the signature of scope_of
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSchema:
    """
    What a journal must know of one store's entries.

    Attributes:
        name: The store, as in YAML, the command line and on the wire's key derivation.
        keyed_events: Events whose entries of one primary key are versions of one thing. All other
            events are append-only: every entry is kept and nothing conflicts.
        deletions: Those of the keyed events that mark their key as deleted.
        unsynced_events: Local observations: never sent to a remote, not part of a digest.
        events: All events of the store that are known here; :obj:`None` if any may come. An entry of another event
            is kept and handed on, *not understood*, until a release knows it.
        project: Brings the read model up to date; synchronous, I/O only through the transaction,
            independent of arrival order. For keyed events it is given the heads of the key, sorted by
            entry id; for others an empty sequence.
        retract: Takes an entry that compaction drops out of the read model again.
        scope_of: Retention scope of an entry, such as its session; counts and sizes apply per scope.
        is_needed: Tells whether other entries refer to an append-only one, so that compaction leaves it.
        bytes_elsewhere: Bytes of other entries that retention by size counts with this one, because they
            go when it goes.
        content_of: What of a version counts when heads are compared, such as all but when it was made; the whole value
            if not given. Heads that are equal in it are no open conflict. Pure, and it must take any value.
        policy: Decides the visible value among several heads.
    """

    name: str
    keyed_events: frozenset[str] = frozenset()
    deletions: frozenset[str] = frozenset()
    unsynced_events: frozenset[str] = frozenset()
    events: frozenset[str] | None = None
    project: Projection = _no_projection
    retract: Callable[[JournalTransaction, Entry], None] | None = None
    scope_of: Callable[[Entry], str] = _one_scope
    is_needed: Callable[[JournalTransaction, Entry], bool] | None = None
    bytes_elsewhere: Callable[[Entry], int] | None = None
    content_of: Callable[[Version], Mapping[str, Any]] | None = None
    policy: ConflictPolicy = field(default_factory=LastWriteWins)


@dataclass(frozen=True, slots=True)
class Observation:
    """
    Something the journal noticed while it applied entries; observers may write it to an audit log.

    Attributes:
        kind: ``sync_conflict`` or ``sync_compaction``.
        store: The store it is about.
        fields: Payload of the audit event, in the wire's spelling.
    """

    kind: str
    store: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RemoteWriteResult:
    """
    What became of a batch that a remote sent.

    Attributes:
        written: Entries that were new here, in the order given.
        duplicates: How many were held (or compacted) already.
        quarantined: Ids kept aside: older than the compaction horizon, or of no use here.
        next_sequence: First unused sequence of the remote, as stored now.
        not_kept: Ids that had to be kept aside and there was no room for.
    """

    written: tuple[Entry, ...]
    duplicates: int
    quarantined: tuple[bytes, ...]
    next_sequence: int
    not_kept: tuple[bytes, ...] = ()


class RelayMode(IntEnum):
    """Whether a remote is sent what came from other remotes; the numbers are kept in journals."""

    NEVER = 0
    """Only what was written here."""
    ALWAYS = 1
    """Everything it is not known to have."""
    WHEN_SEVERAL = 2
    """Everything, once the store was synced with another remote too, or this one has lost data."""


@dataclass(frozen=True, slots=True)
class RemoteState:
    """
    What is known of one remote's copy of one store.

    Attributes:
        next_sequence: First unused sequence: where to resume reading. 0 for a remote never seen.
        incarnation: The remote's incarnation when that was stored; empty for a stock server.
        pending: Entries to be sent that the remote is not known to have, relayed ones included.
        relayed: How many of them came from other remotes; 0 where nothing is relayed.
    """

    next_sequence: int
    incarnation: bytes
    pending: int
    relayed: int = 0


@dataclass(frozen=True, slots=True)
class Remote:
    """
    One remote of one store.

    Attributes:
        remote_id: 16 bytes.
        url: Where it was last reached; :obj:`None` when never told.
        is_retired: It no longer holds compaction back.
        state: Cursor, incarnation and what is pending.
        relays: It is sent what came from other remotes.
    """

    remote_id: bytes
    url: str | None
    is_retired: bool
    state: RemoteState
    relays: bool = False


@dataclass(frozen=True, slots=True)
class UnappliedEntry:
    """
    An entry whose projection failed; it is retried when its store is registered.

    Attributes:
        stored: The entry.
        error: Type and text of the last failure.
        attempts: How often it was tried.
    """

    stored: StoredEntry
    error: str
    attempts: int


@dataclass(frozen=True, slots=True)
class QuarantinedEntry:
    """
    Something from a remote that was kept aside: no usable entry, or older than the horizon.

    Attributes:
        id: The id it was announced with.
        remote_id: Where it came from.
        sequence: Its sequence there.
        event: Event tag; empty when it could not be read.
        primary_key: What it is about; empty when it could not be read.
        data: Its payload, or the bytes that could not be read.
        reason: Why it was kept aside.
    """

    id: bytes
    remote_id: bytes
    sequence: int
    event: str
    primary_key: str
    data: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """
    A remote durably holds these positions of our journal.

    Attributes:
        positions: Local positions, in any order.
        sequences: The remote's numbers for them, where it told them.
    """

    positions: Sequence[int]
    sequences: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """
    Published after a commit, in commit order, on the event loop.

    Attributes:
        stores: Names of the stores that got entries.
        last_position: Highest position now visible.
        sources: Where those that can be pending came from: ``(store, b"")`` was written here, ``(store, remote id)``
            received. :obj:`None` when that is not known.
    """

    stores: frozenset[str]
    last_position: int
    sources: frozenset[tuple[str, bytes]] | None = None

    def has_own(self, store: str) -> bool:
        """Whether a store may have got entries to be sent that were written here."""
        return store in self.stores and (self.sources is None or (store, b"") in self.sources)

    def has_received(self, store: str, *, other_than: bytes) -> bool:
        """Whether a store may have got entries from another remote than this one."""
        if self.sources is None:
            return store in self.stores
        return any(name == store and source not in (b"", other_than) for name, source in self.sources)


class EventJournal(abc.ABC):
    """
    The local set of entries of a replica.

    Open it with ``async with``; register every store before the first use of that store. All methods
    raise :class:`~agentlayers.errors.StateError` when the journal is not open,
    :class:`~agentlayers.errors.StorageUnavailableError` when the medium refuses (full, locked, gone) and
    :class:`~agentlayers.errors.StorageCorruptionError` when it holds something never written.
    """

    @property
    @abc.abstractmethod
    def replica_id(self) -> str:
        """Name of this replica in causal summaries: random, kept with the journal."""

    @abc.abstractmethod
    async def __aenter__(self) -> Self: ...

    @abc.abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @abc.abstractmethod
    async def register(self, schema: StoreSchema) -> None:
        """
        Declare a store and retry its unapplied entries.

        Raises:
            StateError: A store of this name is registered already.
        """

    @abc.abstractmethod
    def observe(self, observer: Callable[[JournalTransaction, Observation], None]) -> None:
        """Call ``observer`` inside the transaction for each observation, so that it can be recorded with it."""

    @abc.abstractmethod
    async def transact(self, work: Callable[[JournalTransaction], T]) -> T:
        """
        Run ``work`` in a transaction and return its result once it is durable.

        Concurrent calls share a commit. ``work`` runs in the writer's thread: it must not block, await, or
        touch anything but ``tx``. If it raises, what it did is undone and the error is raised here.
        """

    @abc.abstractmethod
    async def read(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` on a consistent snapshot of what is committed; it must not write."""

    @abc.abstractmethod
    def on_commit(self, listener: Callable[[Commit], None]) -> Callable[[], None]:
        """Call ``listener`` on the event loop after each commit that added entries; returns how to stop."""

    @abc.abstractmethod
    def expect_remote(self, store: str, url: str) -> Callable[[], None]:
        """
        Let compaction spare what was written here until the remote of this address was met; returns how to end that.

        Once met, it is known by its id, and what it lacks is spared in any case.
        """

    async def write(self, store: str, event: str, primary_key: str, payload: Mapping[str, Any]) -> Entry:
        """Write one local entry; it is durable, projected and pending for every remote when this returns."""
        return await self.transact(lambda tx: tx.write(store, event, primary_key, payload))

    async def write_from_remote(
        self,
        store: str,
        remote_id: bytes,
        entries: Sequence[RemoteEntry],
        *,
        through: int | None = None,
    ) -> RemoteWriteResult:
        """
        Take over what a remote sent: dedup, heads, projection and the cursor, in one transaction.

        Args:
            store: The store the remote's public key belongs to.
            remote_id: The remote, 16 bytes.
            entries: In the remote's order. May hold entries already here.
            through: First sequence not covered yet. :obj:`None` (stock servers): last sequence + 1.
        """
        return await self.transact(lambda tx: tx.write_from_remote(store, remote_id, entries, through=through))

    async def uncommitted(
        self,
        store: str,
        remote_id: bytes,
        *,
        after: int = 0,
        entries_max: int,
        bytes_max: int,
        relayed: bool | None = None,
    ) -> list[StoredEntry]:
        """
        List what is to be sent to the remote and it is not known to have, in local order, after ``after``.

        Found by an index: the cost does not grow with what was acknowledged before. Always returns at
        least one entry if there is one, however large.

        Args:
            store: The store.
            remote_id: The remote, 16 bytes.
            after: Only what is behind this position.
            entries_max: At most so many.
            bytes_max: At most so many bytes of payloads, unless the first entry has more.
            relayed: Only what came from other remotes, if the remote is sent that; or, with :obj:`False`, only
                what was written here.
        """
        return await self.read(
            lambda tx: tx.uncommitted(
                store, remote_id, after=after, entries_max=entries_max, bytes_max=bytes_max, relayed=relayed
            )
        )

    async def acknowledge(
        self,
        store: str,
        remote_id: bytes,
        acknowledgement: Acknowledgement,
        *,
        through: int | None = None,
    ) -> None:
        """
        Note that the remote durably holds these positions, and move the cursor to ``through``.

        ``through`` is :obj:`None` when the Ack says nothing about the entries of others.
        """
        await self.transact(lambda tx: tx.acknowledge(store, remote_id, acknowledgement, through=through))

    async def with_remote_uncommitted(
        self,
        store: str,
        remote_id: bytes,
        send: Callable[[list[StoredEntry]], Awaitable[Acknowledgement]],
        *,
        entries_max: int,
        bytes_max: int,
    ) -> int:
        """
        Hand what is pending to ``send`` and note what it acknowledges; returns how many that were.

        No transaction is open while ``send`` runs.
        """
        pending = await self.uncommitted(store, remote_id, entries_max=entries_max, bytes_max=bytes_max)
        if not pending:
            return 0
        acknowledgement = await send(pending)
        await self.acknowledge(store, remote_id, acknowledgement)
        return len(acknowledgement.positions)

    async def remote_state(self, store: str, remote_id: bytes) -> RemoteState:
        """Report the cursor and the number of pending entries for one remote and store."""
        return await self.read(lambda tx: tx.remote_state(store, remote_id))

    async def next_remote_sequence(self, store: str, remote_id: bytes) -> int:
        """Return the first sequence of the remote not yet seen here."""
        return (await self.remote_state(store, remote_id)).next_sequence

    async def reset_remote(self, store: str, remote_id: bytes, *, incarnation: bytes) -> None:
        """
        Start over with a remote whose data was replaced: cursor 0, everything pending again.

        Where entries are relayed to it, that includes what it once sent: it may have lost that.

        Called when the incarnation differs from the stored one; the first call for a remote stores it.
        """
        await self.transact(lambda tx: tx.reset_remote(store, remote_id, incarnation=incarnation))

    async def entries(self, store: str | None = None, *, after: int = 0, entries_max: int = 1000) -> list[StoredEntry]:
        """List entries in local arrival order after position ``after``; of all stores if none is named."""
        return await self.read(lambda tx: tx.entries(store, after=after, entries_max=entries_max))

    @abc.abstractmethod
    def changes(self, store: str | None = None, *, after: int | None = None) -> AsyncIterator[StoredEntry]:
        """
        Follow entries as they are committed, local and received ones, in local arrival order.

        Args:
            store: Only this store.
            after: Start behind this position, so nothing in between is missed; :obj:`None`: from now on.
        """

    @abc.abstractmethod
    def commits(self, store: str | None = None) -> AsyncGenerator[int]:
        """
        Yield at once, and again whenever entries were committed since; ends when the journal is closed.

        Who stops earlier closes it (``contextlib.aclosing``).

        What is committed while the caller is busy counts as one, so a slow caller costs no memory and still looks
        again after the newest commit.

        Args:
            store: Only commits with entries of this store.

        Yields:
            Highest position published so far.
        """

    @abc.abstractmethod
    async def compact(self, store: str, strategy: CompactionStrategy) -> CompactionReport:
        """
        Drop what ``strategy`` selects, in bounded steps, never what a current remote has not acknowledged.

        The ids of dropped entries are remembered for the horizon window, so none of them comes back.
        """

    @abc.abstractmethod
    async def destroy(self) -> None:
        """Close the journal and delete everything it holds, for good."""

    @staticmethod
    def layer_sqlite(directory: str | Path, *, durability: str = "full") -> Layer:
        """Keep the journal in ``journal.sqlite`` in a replica's directory; survives any crash."""
        from agentlayers.journal.sqlite import SQLiteJournal
        from agentlayers.layer import Layer

        return Layer.scoped(EventJournal, SQLiteJournal, directory=directory, durability=durability)

    @staticmethod
    def layer_key_value(name: str | None = None) -> Layer:
        """
        Keep the journal in the graph's key-value store, under keys of its own; one writer at a time.

        Needs :class:`~agentlayers.key_value.KeyValueStore`; one without ordered scans, or without batches that are
        atomic and conditional, is refused before anything is read or written.

        Args:
            name: Journals of different names share a store without meeting; ``journal`` if not given.
        """
        from agentlayers.journal.key_value import KeyValueJournal
        from agentlayers.layer import Layer

        return Layer.scoped(EventJournal, KeyValueJournal, **({} if name is None else {"name": name}))

    @staticmethod
    def layer_memory() -> Layer:
        """Keep the journal in memory, for tests; it is gone when the program ends."""
        from agentlayers.journal.memory import MemoryJournal
        from agentlayers.layer import Layer

        return Layer.scoped(EventJournal, MemoryJournal)
