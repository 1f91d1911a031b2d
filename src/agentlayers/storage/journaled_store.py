"""
What the stores have in common: opening on a shared journal, registering with sync, retention.

A store owns neither its journal nor the sync service: it declares its events to the one and hands
its log to the other, and takes the log back when it closes.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, ClassVar, Self, TypeVar

from agentlayers.errors import AgentLayersError, StateError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.subscription import reread
from agentlayers.journal.compaction import CompactionReport, CompactionStrategy, Composite
from agentlayers.journal.conflict_policy import ConflictPolicy, LastWriteWins
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.layer import Layer
from agentlayers.logs import get_logger
from agentlayers.storage.own_journal import (
    key_value_journal_layer,
    memory_journal_layer,
    private_sync_layer,
    sqlite_journal_layer,
    unsynced_store_layer,
)
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import EnabledStores, Retention, StorageConfig
from agentlayers.sync.service import SyncService
from agentlayers.transport.address import normalize_websocket_url

if TYPE_CHECKING:
    from agentlayers.storage.rebuild import Rebuilt

__all__ = ["JournaledStore"]

T = TypeVar("T")

logger = get_logger(__name__)


class JournaledStore(abc.ABC):
    """
    One store of a journal; an async context manager.

    Args:
        journal: Open for as long as the store is.
        identity: Whose keys the store's entries are sealed with when they are synced.
        conflict_policy: Decides what is shown of concurrent versions; last write wins if not given.
        compaction: Applied at cleanup, after the retention of ``storage_config``.
        storage_config: Retention and page sizes. Without it the store is on, keeps all and pages
            nothing.
        sync: Replicates the store while it is open.
        session_index: Told of every session the store has something of.

    Attributes:
        name: The store's name in journals, YAML and key derivation.
    """

    name: ClassVar[str]

    def __init__(
        self,
        journal: EventJournal,
        identity: Identity,
        *,
        conflict_policy: ConflictPolicy | None = None,
        compaction: CompactionStrategy | None = None,
        storage_config: StorageConfig | None = None,
        sync: SyncService | None = None,
        session_index: SessionIndexStore | None = None,
    ) -> None:
        self.journal = journal
        self.conflict_policy = conflict_policy or LastWriteWins()
        self._identity = identity
        self._compaction = compaction
        self._config = storage_config
        self._sync = sync
        self._index = session_index
        self._logs: dict[str, EventLog] = {}
        self._unregister: list[Callable[[], Awaitable[None]]] = []

    # -- what a store says of itself ---------------------------------------------------------------
    @abc.abstractmethod
    def _schema(self) -> StoreSchema:
        """Return what the journal must know."""

    @property
    def schema(self) -> StoreSchema:
        """What a journal must know of this store; it need not be open."""
        return self._schema()

    def further_logs(self) -> Sequence[EventLog]:
        """Return logs of what this store keeps beside its own entries, in stores of their own; not open yet."""
        return ()

    @abc.abstractmethod
    def _enabled_in(self, enabled: EnabledStores) -> bool:
        """Tell whether the settings switch this store on."""

    @abc.abstractmethod
    def _retention(self, retention: Retention) -> list[CompactionStrategy]:
        """Return what the settings keep."""

    # -- life --------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        logs = [EventLog(self.journal, self._identity, self._schema()), *self.further_logs()]
        for log in logs:
            await log.open()
        self._logs = {log.store: log for log in logs}
        self._opened()
        if self._sync is not None and self.is_enabled:
            self._unregister = [self._sync.register(log) for log in logs]
        return self

    def _opened(self) -> None:  # noqa: B027  # most stores have nothing to do here
        """Do what has to be done once the journal knows the store."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unregister, self._unregister, self._logs = self._unregister, [], {}
        # Together, because each waits a while for what is still on its way to the server.
        await asyncio.gather(*(forget() for forget in unregister))

    @property
    def is_enabled(self) -> bool:
        """Whether the store records; one that is switched off takes nothing, and stays readable."""
        return self._config is None or self._enabled_in(self._config.enabled)

    @property
    def log(self) -> EventLog:
        """
        The store's log of entries.

        Raises:
            StateError: The store is not open.
        """
        return self._open_log(self.name)

    def _open_log(self, name: str) -> EventLog:
        if name not in self._logs:
            raise StateError(f"the {self.name} store is not open; enter it with 'async with' first")
        return self._logs[name]

    @property
    def _shared_index(self) -> SessionIndexStore | None:
        """The session index, if it can be touched inside this store's transactions."""
        return self._index if self._index is not None and self._index.journal is self.journal else None

    async def _touch_foreign_index(self, session_id: str, at_ms: int) -> None:
        # An index in another journal is a convenience: what it cannot take must not fail what is
        # durable.
        if self._index is None or self._shared_index is not None:
            return
        try:
            await self._index.touch(session_id, updated_at_ms=at_ms)
        except AgentLayersError as error:
            logger.warning("session_index_failed", store=self.name, session_id=session_id, reason=str(error))

    async def _leave_foreign_index(self, session_id: str) -> None:
        if self._index is None or self._shared_index is not None:
            return
        try:
            await self._index.remove(session_id)
        except AgentLayersError as error:
            logger.warning("session_index_failed", store=self.name, session_id=session_id, reason=str(error))

    # -- retention ---------------------------------------------------------------------------------
    async def cleanup(self) -> CompactionReport | None:
        """
        Drop what the settings and the compaction strategy do not keep, on this replica only.

        What a current remote has not acknowledged stays until it has. What was dropped does not
        come back from a remote. The time this takes grows with the store, but appends go on
        meanwhile.

        Returns:
            What was done; :obj:`None` if there is nothing to enforce.
        """
        strategies = [] if self._config is None else self._retention(self._config.retention)
        if self._compaction is not None:
            strategies.append(self._compaction)
        if not strategies:
            return None
        return await self.log.journal.compact(self.name, Composite(*strategies))

    # -- reactivity --------------------------------------------------------------------------------
    def watch(self, read: Callable[[], Awaitable[T]]) -> AsyncGenerator[T]:
        """
        Yield what ``read`` returns now, and again whenever entries that were written or received made it another.

        Any reading method will do: ``store.watch(lambda: store.get("plan"))``. What changes while the caller is busy
        may be left out, but never the newest, so it costs no memory to be slow. What retention or a purge drops shows
        with the next entry. Ends when the journal is closed; who stops earlier closes it (``contextlib.aclosing``).

        Args:
            read: Reads of this store; its results are compared with ``==``.

        Raises:
            StateError: The store is not open.
        """
        return reread(self.log.journal, read)

    # -- replay ------------------------------------------------------------------------------------
    async def rebuild(self) -> Rebuilt:
        """
        Replay the journal, and repair what differs in the read models of this and all other open stores.

        Stores go on meanwhile, and no reaction is started anew.

        Raises:
            StateError: The store is not open.
            StorageError: The journal cannot be read or written.
        """
        from agentlayers.storage.rebuild import rebuild_open

        return await rebuild_open(self.log.journal)

    # -- layers ------------------------------------------------------------------------------------
    @classmethod
    def layer_journaled(cls) -> Layer:
        """
        Keep the store in the graph's journal.

        Needs :class:`EventJournal` and :class:`Identity`; uses the graph's conflict policy,
        compaction, storage settings, sync service and session index where there are some.
        """
        return Layer.scoped(cls)

    @classmethod
    def layer_journaled_with_sync_websocket(
        cls,
        url: Annotated[str, normalize_websocket_url],
        token: str | None = None,
        tenant: str | None = None,
        *,
        ca: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
    ) -> Layer:
        """
        Keep the store in the graph's journal and sync it with a remote of its own, whatever the
        graph syncs.

        Args:
            url: The remote's ``ws://`` or ``wss://`` address.
            token: Secret the remote asks for.
            tenant: Whose journals the remote keeps it with.
            ca: PEM file of the authorities to trust with ``wss://``, instead of the system's.
            client_cert: PEM file with the certificate this replica shows, for a remote that asks for one.
            client_key: PEM file with its private key, if that does not stand in ``client_cert``.
        """
        given = {"ca": ca, "client_cert": client_cert, "client_key": client_key}
        tls = {name: path for name, path in given.items() if path}
        return Layer.scoped(cls, sync=private_sync_layer(cls.name, url, token=token, tenant=tenant, tls=tls))

    @classmethod
    def layer_memory(cls) -> Layer:
        """Keep the store in memory, for tests: gone when it is closed, and never synced."""
        return unsynced_store_layer(cls, memory_journal_layer())

    @classmethod
    def layer_sqlite(cls, directory: str | None = None) -> Layer:
        """
        Keep the store in a SQLite file of its own, ``<store>.sqlite``; it is never synced.

        Args:
            directory: Where; the storage directory of the settings if not given.
        """
        return unsynced_store_layer(cls, sqlite_journal_layer(cls.name, directory))

    @classmethod
    def layer_key_value(cls) -> Layer:
        """
        Keep the store in the graph's key-value store, under keys of its own; it is never synced.

        Needs :class:`~agentlayers.key_value.KeyValueStore`.
        """
        return unsynced_store_layer(cls, key_value_journal_layer(cls.name))

    @classmethod
    def layer_filesystem(cls, directory: str | None = None) -> Layer:
        """
        Keep the store in a file of its own; it is never synced.

        This is the SQLite file of :meth:`layer_sqlite`, which several processes may have open and the
        ``agentlayers journal`` commands read. In plain files, with one writer at a time and at a higher cost, a store
        is with :meth:`layer_key_value` over a key-value store in files.
        """
        return cls.layer_sqlite(directory)
