"""
One store of a journal, with the keys its entries are sealed with.

The stores write and read through it, and the sync service replicates it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, TypeVar, cast

from agentlayers.errors import MalformedMessageError
from agentlayers.eventlog.event import Event
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.typed_event import TypedEntry, TypedEvent
from agentlayers.journal.entry import Entry, StoredEntry
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.logs import get_logger

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
        keys = identity.for_store(schema.name)
        self.journal, self.schema, self.store = journal, schema, schema.name
        self.public_key = keys.public_key
        self._private_key = keys.private_key

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
        """Write one entry; it is durable, projected and pending for every remote on return."""
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
        return await self.journal.transact(work)

    async def read(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` on a consistent snapshot; it must not write."""
        return await self.journal.read(work)

    def changes(self, after: int | None = None) -> AsyncIterator[StoredEntry]:
        """
        Follow this store's entries in local arrival order, from position ``after`` or from now on.
        """
        return self.journal.changes(self.store, after=after)

    def __repr__(self) -> str:
        return f"EventLog(store={self.store!r}, public_key={self.public_key!r})"
