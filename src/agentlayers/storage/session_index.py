"""
Which sessions there are, and when each was last touched.

The index is a read model: its rows live in a journal's ordered key-value space and are never
synced. When a store shares the index's journal it touches the index inside its own transactions,
received entries included, so the index can never disagree with the store after a crash. A store
with another journal touches it after its commit.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar

from agentlayers.errors import UsageError
from agentlayers.eventlog.read_model import telling_damage
from agentlayers.eventlog.subscription import reread
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.storage.pagination import Page, format_cursor, parse_cursor, range_behind
from agentlayers.storage.payload_field import INTEGER_MAX, required_text
from agentlayers.storage.session_facts import SessionFact, forget_facts, note_facts, session_facts
from agentlayers.storage.storage_config import StorageConfig

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = [
    "Direction",
    "SessionIndexStore",
    "SessionMeta",
    "SessionOrder",
    "is_listed",
    "session_meta",
    "session_metas",
]

SessionOrder = Literal["updated_at", "created_at"]
"""What a listing is sorted by."""

Direction = Literal["asc", "desc"]
"""Lowest or highest first; ties are broken by session id in the same direction."""

T = TypeVar("T")

_STORE: Final = "session_index"
_TIMES: Final = struct.Struct(">QQ")
_INSTANT_BYTES: Final = 8
_ORDERS: Final[Mapping[str, str]] = {"updated_at": "u", "created_at": "c"}


@dataclass(frozen=True, slots=True)
class SessionMeta:
    """
    What is known of a session.

    Attributes:
        session_id: Its id.
        created_at_ms: Earliest time anything of it is from, in milliseconds since 1970.
        updated_at_ms: Latest such time.
        title: What it is called, or how it began; empty if nothing says so.
        project: Directory it was held in; empty if nothing says so.
        branch: Git branch it was on last; empty if nothing says so.
    """

    session_id: str
    created_at_ms: int
    updated_at_ms: int
    title: str = ""
    project: str = ""
    branch: str = ""

    def cursor(self, order_by: SessionOrder = "updated_at") -> str:
        """Return this session's place in a listing sorted by ``order_by``."""
        instant = self.updated_at_ms if order_by == "updated_at" else self.created_at_ms
        return format_cursor(_ORDERS[order_by].encode() + pack_key(instant, self.session_id))


class SessionIndexStore:
    """
    The sessions of a replica, sorted by when they were created or last touched.

    Args:
        journal: Whose key-value space holds the index.
        storage_config: Page size; the defaults when there is none.
    """

    def __init__(self, journal: EventJournal, *, storage_config: StorageConfig | None = None) -> None:
        self.journal = journal
        self._page_size = (storage_config or StorageConfig()).pagination.index_page_size

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    # -- writing -----------------------------------------------------------------------------------
    async def touch(
        self, session_id: str, *, created_at_ms: int | None = None, updated_at_ms: int | None = None
    ) -> SessionMeta:
        """
        Note that something happened in a session.

        The creation time only ever moves back and the update time only forward, so touching in any
        order gives the same result.

        Args:
            session_id: The session; it is added if it is new.
            created_at_ms: Defaults to ``updated_at_ms``.
            updated_at_ms: Defaults to now.

        Raises:
            UsageError: An empty session id, or a time outside 0 to 2^53 - 1.
        """
        required_text("session_id", session_id)

        def work(tx: JournalTransaction) -> SessionMeta:
            updated = tx.now_ms() if updated_at_ms is None else updated_at_ms
            return self.touch_in(tx, session_id, created_at_ms=created_at_ms, updated_at_ms=updated)

        return await self.journal.transact(work)

    async def remove(self, session_id: str) -> bool:
        """Take a session out of the index, though not out of any store; tell if it was there."""
        return await self.journal.transact(lambda tx: _remove(tx, session_id))

    def touch_in(
        self,
        tx: JournalTransaction,
        session_id: str,
        *,
        updated_at_ms: int,
        created_at_ms: int | None = None,
        holder: str | None = None,
    ) -> SessionMeta:
        """
        Touch a session inside a transaction of the index's journal.

        Args:
            tx: The open transaction.
            session_id: The session.
            updated_at_ms: When it happened.
            created_at_ms: Defaults to ``updated_at_ms``.
            holder: Store that has something of the session; see :meth:`release_in`.
        """
        created = _checked_time("created_at_ms", updated_at_ms if created_at_ms is None else created_at_ms)
        updated = max(created, _checked_time("updated_at_ms", updated_at_ms))
        before = _get(tx, session_id)
        if holder is not None and (before is None or tx.get(_holder_key(session_id, holder)) is None):
            tx.put(_holder_key(session_id, holder), b"")
        if before is not None:
            created, updated = (
                min(created, before.created_at_ms),
                max(updated, before.updated_at_ms),
            )
        meta = SessionMeta(session_id, created, updated)
        if meta != before:
            _replace(tx, before, meta)
        return meta

    def restore_in(self, tx: JournalTransaction, meta: SessionMeta, *, holder: str) -> None:
        """
        Put a session back that a store has something of, whatever stands there of it now, damaged or not.

        Args:
            tx: The open transaction.
            meta: What the store knows of its times; earlier and later ones that stand there are kept.
            holder: The store.
        """
        found = session_meta(tx, meta.session_id)
        if found is None:
            _forget_rows(tx, meta.session_id)
        else:
            _replace(tx, None, found)
        self.touch_in(
            tx, meta.session_id, created_at_ms=meta.created_at_ms, updated_at_ms=meta.updated_at_ms, holder=holder
        )

    def describe_in(self, tx: JournalTransaction, session_id: str, facts: Mapping[str, SessionFact]) -> None:
        """
        Note what a session is about, inside a transaction of the index's journal.

        A session nobody touched is not listed for it.

        Args:
            tx: The open transaction.
            session_id: The session.
            facts: By name: ``title``, ``project``, ``branch``.
        """
        note_facts(tx, session_id, facts)

    def release_in(self, tx: JournalTransaction, session_id: str, holder: str) -> None:
        """Note that a store has nothing of the session any more; the last one takes it along."""
        tx.delete(_holder_key(session_id, holder))
        start = pack_key(_STORE, "h", session_id)
        if next(iter(tx.scan(start, prefix_end(start), limit=1)), None) is None:
            _remove(tx, session_id)

    # -- reading -----------------------------------------------------------------------------------
    async def get(self, session_id: str) -> SessionMeta | None:
        """Return what is known of a session, :obj:`None` if nothing is."""
        return await self._read(lambda tx: _described(tx, session_id))

    async def list(
        self,
        *,
        order_by: SessionOrder = "updated_at",
        direction: Direction = "desc",
        limit: int | None = None,
        offset: int = 0,
        cursor: str | None = None,
    ) -> builtins.list[SessionMeta]:
        """
        List sessions, those touched last first unless told otherwise.

        Args:
            order_by: What to sort by.
            direction: Lowest or highest first.
            limit: At most so many; ``index_page_size`` if not given; 0 or less lists nothing.
            offset: Skip so many; prefer ``cursor``, which stays right while others write.
            cursor: Continue strictly after this place; see :meth:`SessionMeta.cursor`.

        Raises:
            UsageError: An unknown order or direction, or a cursor of another listing.
        """
        page = await self.list_page(order_by=order_by, direction=direction, limit=limit, offset=offset, cursor=cursor)
        return builtins.list(page.items)

    async def list_page(
        self,
        *,
        order_by: SessionOrder = "updated_at",
        direction: Direction = "desc",
        limit: int | None = None,
        offset: int = 0,
        cursor: str | None = None,
    ) -> Page[SessionMeta]:
        """List like :meth:`list`, with the cursor of the next page if there is more."""
        if order_by not in _ORDERS or direction not in ("asc", "desc"):
            raise UsageError(
                f"order_by {order_by!r}, direction {direction!r} cannot be used; "
                "expected updated_at or created_at, and asc or desc"
            )
        limit = self._page_size if limit is None else limit
        if offset < 0:
            raise UsageError(f"offset: {offset} cannot be used; expected 0 or more")
        if limit <= 0:
            return Page((), None)
        start, end = _range(order_by, direction, cursor)

        def work(tx: JournalTransaction) -> builtins.list[SessionMeta]:
            rows = tx.scan(start, end, reverse=direction == "desc", limit=offset + limit + 1)
            found = (_described(tx, value.decode()) for _key, value in islice(rows, offset, None))
            return [meta for meta in found if meta is not None]

        found = await self._read(work)
        items = tuple(found[:limit])
        return Page(items, items[-1].cursor(order_by) if len(found) > limit else None)

    async def list_ids(self) -> builtins.list[str]:
        """List the ids of all sessions, sorted."""
        start = pack_key(_STORE, "m")

        def work(tx: JournalTransaction) -> builtins.list[str]:
            return [value[_TIMES.size :].decode() for _key, value in tx.scan(start, prefix_end(start))]

        return await self._read(work)

    async def _read(self, work: Callable[[JournalTransaction], T]) -> T:
        with telling_damage(_STORE):
            return await self.journal.read(work)

    def watch(self, read: Callable[[], Awaitable[T]]) -> AsyncGenerator[T]:
        """
        Yield what ``read`` returns now, and again whenever entries of the index's journal made it another.

        For instance ``index.watch(lambda: index.list(limit=20))``; see :meth:`JournaledStore.watch`.
        """
        return reread(self.journal, read)

    # -- layers ------------------------------------------------------------------------------------
    @classmethod
    def layer_journaled(cls) -> Layer:
        """Keep the index in the graph's journal, in step with the stores that share it."""
        from agentlayers.layer import Layer

        return Layer.scoped(SessionIndexStore, cls)

    @classmethod
    def layer_memory(cls) -> Layer:
        """Keep the index in memory, for tests."""
        from agentlayers.storage.own_journal import memory_journal_layer

        return cls._layer_of(memory_journal_layer())

    @classmethod
    def layer_sqlite(cls, directory: str | None = None) -> Layer:
        """Keep the index in ``session_index.sqlite``, in ``directory`` or the storage directory."""
        from agentlayers.storage.own_journal import sqlite_journal_layer

        return cls._layer_of(sqlite_journal_layer(_STORE, directory))

    @classmethod
    def layer_key_value(cls) -> Layer:
        """Keep the index in the graph's key-value store, under keys of its own."""
        from agentlayers.storage.own_journal import key_value_journal_layer

        return cls._layer_of(key_value_journal_layer(_STORE))

    @classmethod
    def layer_filesystem(cls, directory: str | None = None) -> Layer:
        """Keep the index in a file; at present the one of :meth:`layer_sqlite`."""
        return cls.layer_sqlite(directory)

    @classmethod
    def _layer_of(cls, journal: Layer) -> Layer:
        from agentlayers.layer import Layer

        return Layer.scoped(SessionIndexStore, cls, journal=journal)


def _checked_time(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INTEGER_MAX:
        raise UsageError(f"{name}: {value!r} cannot be used; expected milliseconds since 1970, up to 2^53 - 1")
    return value


def _meta_key(session_id: str) -> bytes:
    return pack_key(_STORE, "m", session_id)


def _holder_key(session_id: str, holder: str) -> bytes:
    return pack_key(_STORE, "h", session_id, holder)


def session_metas(tx: JournalTransaction) -> Iterator[SessionMeta]:
    """Iterate over the sessions of the index in a journal, by id."""
    start = pack_key(_STORE, "m")
    for _key, value in tx.scan(start, prefix_end(start)):
        yield SessionMeta(value[_TIMES.size :].decode(), *_TIMES.unpack_from(value))


def session_meta(tx: JournalTransaction, session_id: str) -> SessionMeta | None:
    """Look a session up in the index in a journal; :obj:`None` also where what stands there is damaged."""
    try:
        return _get(tx, session_id)
    except struct.error:
        return None


def is_listed(tx: JournalTransaction, meta: SessionMeta) -> bool:
    """Tell whether every listing shows a session where it belongs."""
    return all(tx.get(key) == value for key, value in _rows(meta).items())


def _get(tx: JournalTransaction, session_id: str) -> SessionMeta | None:
    value = tx.get(_meta_key(session_id))
    return None if value is None else SessionMeta(session_id, *_TIMES.unpack_from(value))


def _described(tx: JournalTransaction, session_id: str) -> SessionMeta | None:
    meta = _get(tx, session_id)
    if meta is None:
        return None
    facts = session_facts(tx, session_id)
    return replace(meta, title=facts.get("title", ""), project=facts.get("project", ""), branch=facts.get("branch", ""))


def _rows(meta: SessionMeta) -> dict[bytes, bytes]:
    """Return what stands in the index of a session, without its holders and facts."""
    name = meta.session_id.encode()
    return {
        _meta_key(meta.session_id): _TIMES.pack(meta.created_at_ms, meta.updated_at_ms) + name,
        pack_key(_STORE, _ORDERS["updated_at"], meta.updated_at_ms, meta.session_id): name,
        pack_key(_STORE, _ORDERS["created_at"], meta.created_at_ms, meta.session_id): name,
    }


def _replace(tx: JournalTransaction, before: SessionMeta | None, meta: SessionMeta) -> None:
    rows, old = _rows(meta), {} if before is None else _rows(before)
    for key in old.keys() - rows.keys():
        tx.delete(key)
    for key, value in rows.items():
        if old.get(key) != value:
            tx.put(key, value)


def _forget_rows(tx: JournalTransaction, session_id: str) -> None:
    """Delete what stands of a session whose times are not known."""
    tx.delete(_meta_key(session_id))
    for letter in _ORDERS.values():
        start = pack_key(_STORE, letter)
        for key, _value in builtins.list(tx.scan(start, prefix_end(start))):
            if key[len(start) + _INSTANT_BYTES :] == pack_key(session_id):
                tx.delete(key)


def _remove(tx: JournalTransaction, session_id: str) -> bool:
    meta = _get(tx, session_id)
    if meta is None:
        return False
    forget_facts(tx, session_id)
    for key in _rows(meta):
        tx.delete(key)
    holders = pack_key(_STORE, "h", session_id)
    for key, _value in builtins.list(tx.scan(holders, prefix_end(holders))):
        tx.delete(key)
    return True


def _range(order_by: SessionOrder, direction: Direction, cursor: str | None) -> tuple[bytes, bytes]:
    letter, place = _ORDERS[order_by], None
    if cursor is not None:
        place = parse_cursor(cursor)
        if place[:1] != letter.encode() or len(place) < 1 + _INSTANT_BYTES:
            raise UsageError(f"cursor: {cursor!r} is of another listing; expected one sorted by {order_by}")
        place = place[1:]
    return range_behind(pack_key(_STORE, letter), place, reverse=direction == "desc")
