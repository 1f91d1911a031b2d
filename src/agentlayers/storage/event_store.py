"""
A store of an application's own events: durable, synced and wired as the built-in stores are.

The application declares its events and groups in a subclass; reading what is shown of a key, listing, subscribing,
projections, reactions, retention and layers come from here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from agentlayers.errors import MalformedMessageError, StateError, UsageError
from agentlayers.eventlog.event import Event, EventGroup
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.reaction import Reaction
from agentlayers.eventlog.running_reaction import RunningReaction
from agentlayers.eventlog.subscription import KeyView, key_view
from agentlayers.eventlog.typed_event import TypedEntry, TypedEvent, entry_value
from agentlayers.journal.causality import Conflict
from agentlayers.journal.compaction import CompactionStrategy
from agentlayers.journal.conflict_policy import ConflictPolicy, Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import EventJournal, StoreSchema, UnappliedEntry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end, unpack_text
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.declared_handler import DeclaredReaction, marked_methods
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.storage_config import EnabledStores, Retention, StorageConfig
from agentlayers.sync.service import SyncService

__all__ = ["EventStore"]

V = TypeVar("V")

_BUILT_IN = frozenset({"chat_history", "artifacts", "artifact_content", "audit_log", "agent_sessions", "session_index"})


class EventStore(JournaledStore):
    """
    Base of a store whose events an application declares; an async context manager.

    Usage::

        @dataclass(frozen=True)
        class Task:
            id: str
            title: str

        task_saved = TypedEvent("task_saved", Task, key=lambda task: task.id)

        class Tasks(EventStore):
            name = "tasks"
            groups = (EventGroup.keyed(task_saved),)

            @reacts(task_saved)
            async def announce(self, entry): ...

        app = Tasks.layer_journaled().provide(...)

    Args:
        journal: Open for as long as the store is.
        identity: Whose keys the store's entries are sealed with when they are synced.
        conflict_policy: Decides what is shown of concurrent versions; last write wins if not given.
        compaction: Applied at cleanup; everything is kept if not given.
        storage_config: Only for the parts it shares with the other stores.
        sync: Replicates the store while it is open, if its flag, which is the store's name, is on.
        storage_cleanup: Cleans the store on its schedule while it is open.

    Attributes:
        name: The store's name in journals, sync flags and key derivation. Never change it: entries and keys are
            under it.
        groups: The events; no tag may occur in two groups.
    """

    name: ClassVar[str]
    groups: ClassVar[tuple[EventGroup, ...]] = ()

    def __init__(
        self,
        journal: EventJournal,
        identity: Identity,
        *,
        conflict_policy: ConflictPolicy | None = None,
        compaction: CompactionStrategy | None = None,
        storage_config: StorageConfig | None = None,
        sync: SyncService | None = None,
        storage_cleanup: StorageCleanup | None = None,
    ) -> None:
        super().__init__(
            journal,
            identity,
            conflict_policy=conflict_policy,
            compaction=compaction,
            storage_config=storage_config,
            sync=sync,
        )
        self._cleanup = storage_cleanup
        self._running: dict[str, RunningReaction] = {}
        self._parts: AsyncExitStack | None = None
        self._marked = marked_methods(type(self))
        self._keyed = {event.tag for group in self.groups if group.is_keyed for event in group.events}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not hasattr(cls, "name"):
            return  # a base for several stores
        if not isinstance(cls.name, str) or not cls.name or cls.name.startswith("@") or cls.name in _BUILT_IN:
            taken = ", ".join(sorted(_BUILT_IN))
            raise UsageError(
                f"{cls.__name__}.name is {cls.name!r}; expected a name of its own, not {taken}, nor with @"
            )
        if not cls.groups:
            raise UsageError(f"{cls.__name__} declares no events; set groups = (EventGroup.keyed(...),)")
        declared = {event.tag for group in cls.groups for event in group.events}
        for method, _kind, of in marked_methods(cls):
            for event in of.events if isinstance(of, DeclaredReaction) else of:
                if event.tag not in declared:
                    raise UsageError(f"{cls.__name__}.{method} is for {event.tag!r}, which no group of it declares")

    # -- what it says of itself -----------------------------------------------------------------------------
    def _schema(self) -> StoreSchema:
        return EventGroup.schema(
            self.name,
            *self.groups,
            project=self._project,
            retract=self._retract,
            scope_of=self.scope_of,
            policy=self.conflict_policy,
        )

    def _enabled_in(self, enabled: EnabledStores) -> bool:  # noqa: ARG002
        return True

    def _retention(self, retention: Retention) -> list[CompactionStrategy]:  # noqa: ARG002
        return []

    def scope_of(self, entry: Entry) -> str:  # noqa: ARG002  # for subclasses
        """Return what counts and sizes of retention apply to; one scope for the whole store if not overridden."""
        return ""

    def event(self, tag: str) -> Event | None:
        """Return the declared event with this tag; :obj:`None` for one this release does not know."""
        return next((event for group in self.groups for event in group.events if event.tag == tag), None)

    # -- life -----------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as parts:
            await super().__aenter__()
            parts.push_async_exit(super().__aexit__)
            if self._cleanup is not None:
                parts.callback(await self._cleanup.register(self))
            for reaction in self._reactions():
                self._running[reaction.name] = await parts.enter_async_context(RunningReaction(self.log, reaction))
            self._parts = parts.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.__aexit__(kind, error, traceback)
        self._running.clear()

    def _reactions(self) -> list[Reaction]:
        return [
            Reaction(of.name or method, getattr(self, method), of.events, of.start, of.retry, of.when_exhausted)
            for method, kind, of in self._marked
            if kind == "react"
        ]

    # -- writing --------------------------------------------------------------------------------------------
    async def write(self, event: Event, value: Any) -> Entry:
        """
        Write one entry; it is durable, projected and pending for every remote when this returns.

        Args:
            event: One the store declares.
            value: Of its type; for an event without a type, the payload as a map.

        Raises:
            UsageError: No value of the event's type, or one that no payload can hold.
            UnknownEventError: The store does not declare the event.
            StateError: The store is not open.
        """
        if isinstance(event, TypedEvent):
            return await self.log.write_value(event, value)
        return await self.log.write_event(event, value)

    # -- reading keyed events -------------------------------------------------------------------------------
    async def get(self, primary_key: str) -> Any:
        """
        Return the value shown of a key; :obj:`None` if it is deleted or was never written.

        Raises:
            MalformedMessageError: A release wrote it that this one does not understand, or the policy failed.
        """
        return self.value_of(await self.view(primary_key))

    async def view(self, primary_key: str) -> KeyView:
        """Return what is shown of a key, and the versions it is chosen from."""
        return await self.log.view(primary_key)

    async def items(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """
        Return keys and their values in key order.

        Args:
            prefix: Only keys that begin so.
            after: Only keys behind this one: the last of a page, for the next.
            limit: At most so many.

        Raises:
            MalformedMessageError: As :meth:`get`.
        """

        def work(tx: JournalTransaction) -> list[KeyView]:
            return [key_view(tx, self.name, key) for key in self._keys(tx, prefix, after, limit)]

        return {view.primary_key: self.value_of(view) for view in await self.log.read(work)}

    async def keys(self, prefix: str = "", *, after: str | None = None, limit: int | None = None) -> list[str]:
        """Return the keys that have a value, in order; arguments as for :meth:`items`."""
        return await self.log.read(lambda tx: self._keys(tx, prefix, after, limit))

    def _keys(self, tx: JournalTransaction, prefix: str, after: str | None, limit: int | None) -> list[str]:
        family = pack_key(self.name, "k")
        start = family + pack_key(prefix)[:-1]
        end = prefix_end(start)
        if after is not None:
            start = max(start, family + pack_key(after) + b"\x00")
        return [unpack_text(key[len(family) :]) for key, _value in tx.scan(start, end, limit=limit)]

    def subscribe(self, *primary_keys: str) -> AsyncGenerator[KeyView]:
        """
        Yield what is shown of each key now and after every change, written here or received.

        See :meth:`EventLog.subscribe`; :meth:`value_of` makes a typed value of what is yielded.
        """
        return self.log.subscribe(*primary_keys)

    def value_of(self, view: KeyView) -> Any:
        """
        Return the typed value of a view; :obj:`None` if nothing is shown.

        Raises:
            MalformedMessageError: It is no value of its event, or the policy failed.
        """
        if view.outcome == "failed":
            raise MalformedMessageError(f"key {view.primary_key!r} of {self.name}: its conflict policy: {view.reason}")
        if view.value is None:
            return None
        head = view.winner or next(head for head in view.heads if not head.is_deletion)
        event = self.event(head.event)
        return event.decode(view.value) if isinstance(event, TypedEvent) else dict(view.value)

    async def conflicts(self) -> list[Conflict]:
        """List the keys with versions written without knowledge of each other."""
        return await self.log.read(lambda tx: tx.conflicts(self.name))

    async def versions(self, primary_key: str) -> list[Version]:
        """List all versions of a key that are held, superseded ones included, by entry id."""
        return await self.log.read(lambda tx: tx.versions(self.name, primary_key))

    # -- reading any event ----------------------------------------------------------------------------------
    async def entries(self, *events: Event, after: int = 0, limit: int = 1000) -> list[TypedEntry[Any]]:
        """
        Return entries in local arrival order, as values.

        Args:
            events: Only of these; all that are understood if none is given.
            after: Only those behind this position: that of the last one of a page, for the next.
            limit: At most so many.
        """
        wanted = {event.tag for event in events or self._declared()}

        def work(tx: JournalTransaction) -> list[TypedEntry[Any]]:
            found: list[TypedEntry[Any]] = []
            position = after
            while len(found) < limit and (page := tx.entries(self.name, after=position, entries_max=512)):
                position = page[-1].position
                found += [
                    TypedEntry(value, one.entry, one.position, is_local=one.is_local)
                    for one in page
                    if one.entry.event in wanted and one.is_applied
                    for value in [entry_value(self.event(one.entry.event), one.entry)]
                ]
            return found[:limit]

        return await self.log.read(work)

    def follow(self, event: TypedEvent[V], after: int | None = None) -> AsyncGenerator[TypedEntry[V]]:
        """Follow the entries of one event, from a position or from now on; see :meth:`EventLog.values`."""
        return self.log.values(event, after)

    async def not_understood(self) -> list[UnappliedEntry]:
        """List the entries that a newer release wrote, or whose projection failed: kept and synced, but not shown."""
        return await self.log.unapplied()

    def _declared(self) -> Iterable[Event]:
        return (event for group in self.groups for event in group.events)

    # -- reactions ------------------------------------------------------------------------------------------
    def reaction(self, name: str) -> RunningReaction:
        """
        Return a reaction of the open store, to see its status or resume it.

        Raises:
            UsageError: There is none of this name.
            StateError: The store is not open.
        """
        if self._parts is None:
            raise StateError(f"the {self.name} store is not open; enter it with 'async with' first")
        if name not in self._running:
            known = ", ".join(sorted(self._running)) or "none"
            raise UsageError(f"store {self.name!r} has no reaction {name!r}; it has {known}")
        return self._running[name]

    # -- read model -----------------------------------------------------------------------------------------
    def row_key(self, *parts: str | int | bytes) -> bytes:
        """Return the key of a row of the store's own read model, for ``tx.put``, ``tx.get`` and ``tx.scan``."""
        return pack_key(self.name, "u", *parts)

    def _project(self, tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
        value = entry_value(self.event(entry.event), entry)
        if heads:
            key = pack_key(self.name, "k", entry.primary_key)
            if self.conflict_policy.resolve(heads).value is None:
                tx.delete(key)
            else:
                tx.put(key, b"")
        self._call("project", tx, TypedEntry(value, entry, heads=heads))

    def _retract(self, tx: JournalTransaction, entry: Entry) -> None:
        event = self.event(entry.event)
        if event is None:
            return
        if entry.event in self._keyed:
            tx.delete(pack_key(self.name, "k", entry.primary_key))
        self._call("retract", tx, TypedEntry(entry_value(event, entry), entry))

    def _call(self, kind: str, tx: JournalTransaction, typed: TypedEntry[Any]) -> None:
        for method, of_kind, events in self._marked:
            if of_kind == kind and any(event.tag == typed.entry.event for event in events):
                getattr(self, method)(tx, typed)
