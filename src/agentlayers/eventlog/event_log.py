"""
One store of a journal, with the keys its entries are sealed with.

The stores write and read through it, and the sync service replicates it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from agentlayers.errors import MalformedMessageError, StateError, UnknownEventError, UsageError
from agentlayers.eventlog.event import Event
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.reaction import DEFAULT_RETRY, Reaction, ReactionHandler
from agentlayers.eventlog.read_model import telling_damage
from agentlayers.eventlog.running_reaction import RunningReaction
from agentlayers.eventlog.subscription import KeyView, key_view, key_views, watched
from agentlayers.eventlog.typed_event import TypedEntry, TypedEvent
from agentlayers.journal.consumer import Consumer, consumers_of, forget_consumer
from agentlayers.journal.entry import Entry, StoredEntry
from agentlayers.journal.event_journal import EventJournal, StoreSchema, UnappliedEntry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.logs import get_logger
from agentlayers.schedule import Schedule

__all__ = ["EventLog"]

T = TypeVar("T")
V = TypeVar("V")

logger = get_logger(__name__)


class EventLog:
    """
    Writes to and reads from one store of a journal.

    Call :meth:`open` once the journal is open and before anything else.

    Attributes:
        journal: Where the entries are.
        schema: What the journal was told of the store.
        store: The store's name.
        public_key: Under which a server keeps this store; the only thing a server learns of it.
    """

    def __init__(self, journal: EventJournal, identity: Identity, schema: StoreSchema) -> None:
        if schema.name.startswith("@"):
            raise UsageError(f"a store cannot be named {schema.name!r}: names with @ are the journal's own")
        keys = identity.for_store(schema.name)
        self.journal, self.schema, self.store = journal, schema, schema.name
        self.public_key = keys.public_key
        self._private_key = keys.private_key
        self._running: set[str] = set()

    @property
    def private_key(self) -> bytes:
        """The 32 bytes the store's entries are sealed with."""
        return self._private_key

    async def open(self) -> None:
        """
        Declare the store to the journal, which retries its unapplied entries.

        Raises:
            StateError: The journal is not open, or has a store of this name already.
        """
        await self.journal.register(self.schema)

    async def write(self, event: str, primary_key: str, payload: Mapping[str, Any]) -> Entry:
        """
        Write one entry; it is durable, projected and pending for every remote on return.

        Raises:
            UnknownEventError: The store does not declare the event.
        """
        known = self.schema.events
        if known is not None and event not in known:
            raise UnknownEventError(event=event, store=self.store, known=tuple(sorted(known)))
        return await self.journal.write(self.store, event, primary_key, payload)

    async def write_event(self, event: Event, payload: Mapping[str, Any]) -> Entry:
        """Write one entry of a declared event, whose primary key comes from the payload."""
        return await self.write(event.tag, event.primary_key(payload), payload)

    async def write_value(self, event: TypedEvent[V], value: V) -> Entry:
        """
        Write one entry of a typed event, whose primary key comes from the value.

        Raises:
            UsageError: No value of the event's type, or one that no payload can hold.
        """
        payload = event.encode(value)
        return await self.write(event.tag, event.primary_key(payload), payload)

    async def values(self, event: TypedEvent[V], after: int | None = None) -> AsyncGenerator[TypedEntry[V]]:
        """
        Follow the entries of one event as values, from position ``after`` or from now on.

        What is no value of its type is reported in the log and passed over.
        """
        changes = self.changes(after)
        try:
            async for stored in changes:
                if stored.entry.event != event.tag:
                    continue
                try:
                    value = event.read(stored.entry, position=stored.position)
                except MalformedMessageError as error:
                    entry_id = stored.entry.id.hex()
                    logger.warning("entry_unreadable", store=self.store, entry_id=entry_id, reason=str(error))
                    continue
                yield value
        finally:
            # An iterator that is not closed would keep listening to the journal.
            await cast("AsyncGenerator[StoredEntry]", changes).aclose()

    async def transact(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` in one transaction; see :meth:`EventJournal.transact`."""
        with telling_damage(self.store):
            return await self.journal.transact(work)

    async def read(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` on a consistent snapshot; it must not write."""
        with telling_damage(self.store):
            return await self.journal.read(work)

    def changes(self, after: int | None = None) -> AsyncIterator[StoredEntry]:
        """
        Follow this store's entries in local arrival order, from position ``after`` or from now on.
        """
        return self.journal.changes(self.store, after=after)

    async def unapplied(self) -> list[UnappliedEntry]:
        """
        List the entries that are in no read model: of an event or version not known here, or whose projection failed.

        They are kept and handed on all the same, and tried again whenever the store is opened.
        """
        return await self.read(lambda tx: tx.unapplied(self.store))

    # -- what is shown of a key -----------------------------------------------------------------------------
    async def view(self, primary_key: str) -> KeyView:
        """Return what is shown of a key of the store's keyed events."""
        return await self.read(lambda tx: key_view(tx, self.store, primary_key))

    def subscribe(self, *primary_keys: str) -> AsyncGenerator[KeyView]:
        """
        Yield what is shown of each key now, and again after every change, written here or received.

        What changes while the caller is busy may be left out, but never the newest. Ends when the journal is closed;
        who stops earlier closes it (``contextlib.aclosing``).

        Args:
            primary_keys: Keys of the store's keyed events.

        Raises:
            UsageError: No key, or the store has no keyed events: follow those with :meth:`changes`.
        """
        if not primary_keys:
            raise UsageError("subscribe() needs a key at least")
        if not self.schema.keyed_events:
            raise UsageError(f"store {self.store!r} is append-only and keys have no value; follow it with changes()")
        return key_views(self.journal, self.store, tuple(dict.fromkeys(primary_keys)))

    def watch(self, read: Callable[[JournalTransaction], T]) -> AsyncGenerator[T]:
        """
        Yield what ``read`` returns now, and again whenever a commit of this store made it another.

        What changes while the caller is busy may be left out, but never the newest.

        Args:
            read: Runs on a consistent snapshot and must not write; its results are compared with ``==``.
        """
        return watched(self.journal, read, store=self.store)

    # -- reactions ------------------------------------------------------------------------------------------
    def react(
        self,
        name: str,
        handler: ReactionHandler,
        *,
        events: Sequence[Event] = (),
        start: Literal["now", "beginning"] = "now",
        retry: Schedule = DEFAULT_RETRY,
        when_exhausted: Literal["stop", "set_aside"] = "stop",
    ) -> RunningReaction:
        """
        Handle entries after they are committed, at least once; the reaction works inside the ``async with`` block.

        Args: see :class:`~agentlayers.eventlog.reaction.Reaction`.

        Raises:
            UsageError: No name, or an event named twice.
        """
        return RunningReaction(self, Reaction(name, handler, tuple(events), start, retry, when_exhausted))

    async def reactions(self) -> list[Consumer]:
        """List the reactions the journal knows, running or not, with the place each has reached."""
        return await self.read(lambda tx: consumers_of(tx, self.store))

    async def forget_reaction(self, name: str) -> bool:
        """
        Forget a reaction that will not come back, so that compaction waits for it no longer; tell if it was known.

        Raises:
            StateError: It is running.
        """
        if name in self._running:
            raise StateError(f"reaction {name!r} of store {self.store!r} is running; leave it first")
        return await self.transact(lambda tx: forget_consumer(tx, self.store, name))

    def claim_reaction(self, name: str) -> None:
        """
        Note that a reaction runs; for :class:`~agentlayers.eventlog.running_reaction.RunningReaction`.

        Raises:
            StateError: One of this name runs already.
        """
        if name in self._running:
            raise StateError(f"a reaction named {name!r} runs on store {self.store!r} already")
        self._running.add(name)

    def release_reaction(self, name: str) -> None:
        """Note that a reaction runs no more."""
        self._running.discard(name)

    def __repr__(self) -> str:
        return f"EventLog(store={self.store!r}, public_key={self.public_key!r})"
