"""
The conversations of a replica, message by message.

Every message is an append-only journal entry, so none is ever lost: two replicas that append to one
session at once keep both messages. Messages are ordered by (sequence, entry id), which is the same
on every replica. The read model holds only that order; the messages themselves are read from their
entries.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.journal.compaction import CompactionReport, CompactionStrategy
from agentlayers.journal.entry import Entry, StoredEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.text_search import TextOrder, parse_terms, snippet_of
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.chat_event import (
    CHAT_EVENT,
    SEQUENCE_MAX,
    ChatEvent,
    ChatEventSource,
    check_source,
)
from agentlayers.storage.chat_index import (
    STORE,
    add_event,
    entry_ids,
    hidden_entries,
    hide_session,
    listed_sessions,
    place_range,
    remove_event,
    session_state,
    show_entry,
)
from agentlayers.storage.chat_search import (
    ChatMatch,
    format_hit,
    has_backlog,
    index_backlog,
    index_message,
    parse_hit,
    searchable_text,
)
from agentlayers.storage.event_groups import CHAT_EVENTS
from agentlayers.storage.following import decoded_changes
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.pagination import Page
from agentlayers.storage.payload_field import peek_text, required_text
from agentlayers.storage.reading import stored_entries
from agentlayers.storage.retention import drop_entries, kept_by, report_dropped
from agentlayers.storage.storage_config import EnabledStores, Retention

__all__ = ["ChatHistoryStore"]

_STREAM_PAGE: Final = 256
_SEARCH_PAGE: Final = 100
_DROP_STEP: Final = 512
"""Messages dropped in one transaction, so that appends never wait long for a purge."""


class ChatHistoryStore(JournaledStore):
    """Append messages to sessions, read them back in order, and follow them as they arrive."""

    name: ClassVar[str] = STORE

    def _schema(self) -> StoreSchema:
        return CHAT_EVENTS.schema(
            STORE,
            CHAT_EVENTS,
            project=self._project,
            retract=self._retract,
            scope_of=_session_of,
            policy=self.conflict_policy,
        )

    def _enabled_in(self, enabled: EnabledStores) -> bool:
        return enabled.chat_history

    def _retention(self, retention: Retention) -> builtins.list[CompactionStrategy]:
        return kept_by(retention.chat.max_age_seconds, retention.chat.max_events)

    # -- writing -----------------------------------------------------------------------------------
    async def append(
        self,
        session_id: str,
        message: Mapping[str, Any],
        *,
        timestamp_ms: int | None = None,
        source: ChatEventSource = "sdk",
    ) -> ChatEvent:
        """
        Append one message; it is durable when this returns.

        Args:
            session_id: The conversation; it begins with its first message.
            message: Any map that MessagePack can hold; kept whole.
            timestamp_ms: When it was said, in milliseconds since 1970; now if not given.
            source: Who said it.

        Returns:
            The message with its place in the session; with sequence 0 and nothing stored if chat
            history is switched off.

        Raises:
            UsageError: An empty session id, an unknown source, or a message that cannot be encoded.
            StateError: The store or its journal is not open.
            StorageError: The journal could not write it.
        """
        (event,) = await self.append_all(session_id, [message], timestamp_ms=timestamp_ms, source=source)
        return event

    async def append_all(
        self,
        session_id: str,
        messages: Iterable[Mapping[str, Any]],
        *,
        timestamp_ms: int | None = None,
        source: ChatEventSource = "sdk",
    ) -> builtins.list[ChatEvent]:
        """
        Append several messages in one transaction, with one timestamp: all of them are stored or
        none.

        Raises:
            UsageError: As :meth:`append`.
        """
        required_text("session_id", session_id)
        check_source(source)
        batch = [_checked_message(message) for message in messages]
        log = self.log
        if not self.is_enabled:
            return [ChatEvent(session_id, 0, timestamp_ms or 0, source, message, b"") for message in batch]
        if not batch:
            return []

        def work(tx: JournalTransaction) -> builtins.list[ChatEvent]:
            timestamp = tx.now_ms() if timestamp_ms is None else timestamp_ms
            events = [_append(tx, session_id, timestamp, source, message) for message in batch]
            self._keep_newest(tx, session_id, len(batch))
            return events

        events = await log.transact(work)
        await self._touch_foreign_index(session_id, events[-1].timestamp_ms)
        return events

    async def purge(self, session_id: str) -> int:
        """
        Forget a session on this replica: none of its messages is listed any more.

        Nothing is told to others, and what was purged does not come back from a remote. Messages a
        current remote has not acknowledged are hidden, kept until it has, and dropped by a later
        cleanup. A message that somebody appends afterwards begins the session anew; its sequence
        numbers go on.

        Returns:
            How many messages were purged.
        """
        entry_ids = await self.log.transact(lambda tx: self._hide(tx, session_id))
        await self._drop(entry_ids)
        await self._leave_foreign_index(session_id)
        return len(entry_ids)

    async def cleanup(self) -> CompactionReport | None:
        """Drop what retention does not keep, and what was purged before a remote had it."""
        await self._drop(await self.log.read(hidden_entries))
        return await super().cleanup()

    def _hide(self, tx: JournalTransaction, session_id: str) -> builtins.list[bytes]:
        hidden = hide_session(tx, session_id)
        if self._shared_index is not None:
            self._shared_index.release_in(tx, session_id, STORE)
        return hidden

    async def _drop(self, entry_ids: Sequence[bytes]) -> None:
        schema, dropped = self.log.schema, 0
        for start in range(0, len(entry_ids), _DROP_STEP):
            step = entry_ids[start : start + _DROP_STEP]
            dropped += await self.log.transact(lambda tx, step=step: drop_entries(tx, schema, step))  # type: ignore[misc]
        if dropped:
            await self.log.transact(lambda tx: report_dropped(tx, STORE, dropped, [CHAT_EVENT]))

    def _keep_newest(self, tx: JournalTransaction, session_id: str, appended: int) -> None:
        # Retention by count is kept up while appending, a tenth of it at a time so that it costs little
        # even when nothing can be dropped because a remote lacks it.
        max_events = None if self._config is None else self._config.retention.chat.max_events
        if max_events is None:
            return
        excess = session_state(tx, session_id).events - max_events
        step = max(1, max_events // 10)
        if excess > 0 and excess // step != (excess - appended) // step:
            oldest = entry_ids(tx, *place_range(session_id), limit=min(excess, _DROP_STEP))
            drop_entries(tx, self.log.schema, builtins.list(oldest))

    # -- reading -----------------------------------------------------------------------------------
    async def list(
        self,
        session_id: str,
        *,
        start_sequence: int | None = None,
        end_sequence: int | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        reverse: bool = False,
    ) -> builtins.list[ChatEvent]:
        """
        List messages of a session, oldest first, or newest first with ``reverse``.

        Args:
            session_id: The conversation; an unknown one has no messages.
            start_sequence: Only messages with at least this sequence.
            end_sequence: Only messages with at most this sequence.
            limit: At most so many; 0 lists nothing. Without it the page size of the settings
                counts, and without settings there is no limit.
            cursor: Continue strictly after this place in the direction of reading: the ``cursor``
                of a message or the ``next_cursor`` of a page.
            reverse: Newest first.

        Raises:
            UsageError: A negative limit or a cursor that is none.
        """
        page = await self.list_page(
            session_id,
            start_sequence=start_sequence,
            end_sequence=end_sequence,
            limit=limit,
            cursor=cursor,
            reverse=reverse,
        )
        return builtins.list(page.items)

    async def list_page(
        self,
        session_id: str,
        *,
        start_sequence: int | None = None,
        end_sequence: int | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        reverse: bool = False,
    ) -> Page[ChatEvent]:
        """List like :meth:`list`, with the cursor of the next page if there is more."""
        if limit is None and self._config is not None:
            limit = self._config.pagination.chat_page_size
        if limit is not None and limit < 0:
            raise UsageError(f"limit: {limit} cannot be used; expected 0 or more")
        if limit == 0:
            return Page((), None)
        start, end = place_range(session_id, start_sequence, end_sequence, cursor, reverse=reverse)
        wanted = None if limit is None else limit + 1

        def work(tx: JournalTransaction) -> builtins.list[ChatEvent]:
            places = builtins.list(entry_ids(tx, start, end, reverse=reverse, limit=wanted))
            found = (_decode(stored) for stored in stored_entries(tx, STORE, places))
            return [event for event in found if event is not None]

        found = await self.log.read(work)
        items = tuple(found if limit is None else found[:limit])
        return Page(items, items[-1].cursor if len(items) < len(found) else None)

    async def stream(
        self,
        session_id: str,
        *,
        start_sequence: int | None = None,
        end_sequence: int | None = None,
        cursor: str | None = None,
        reverse: bool = False,
    ) -> AsyncGenerator[ChatEvent]:
        """
        Yield all messages of a session in the order of :meth:`list`, a page in memory at a time.

        Messages appended meanwhile are included where they sort behind the place reached. No
        transaction is open while the caller works.
        """
        next_cursor: str | None = cursor
        while True:
            page = await self.list_page(
                session_id,
                start_sequence=start_sequence,
                end_sequence=end_sequence,
                limit=_STREAM_PAGE,
                cursor=next_cursor,
                reverse=reverse,
            )
            for event in page.items:
                yield event
            next_cursor = page.next_cursor
            if next_cursor is None:
                return

    def follow(self, session_id: str | None = None, *, after: int | None = None) -> AsyncGenerator[ChatEvent]:
        """
        Yield messages as they reach this replica, its own and received ones, and never end.

        The order is that of local arrival, so a message that another replica wrote long ago while
        offline is yielded when it arrives, though it sorts before others in :meth:`list`.

        Args:
            session_id: Only this conversation; all if not given.
            after: Begin behind this :attr:`ChatEvent.position`, so that nothing in between is
                missed; 0 yields everything held. :obj:`None` begins with what arrives after this
                call.
        """

        def wanted(stored: StoredEntry) -> ChatEvent | None:
            event = _decode(stored)
            return event if event is not None and session_id in (None, event.session_id) else None

        return decoded_changes(self.log.changes(after), wanted)

    async def sessions(self) -> builtins.list[str]:
        """List the ids of all sessions with at least one message, sorted."""
        return await self.log.read(listed_sessions)

    async def search(
        self,
        text: str,
        session_id: str | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        order: TextOrder | str = TextOrder.NEWEST,
    ) -> Page[ChatMatch]:
        """
        Find messages that hold all words of a text, without regard to case and accents.

        ``"the cat"`` in quotes finds words that follow each other, ``pars*`` words that begin so.
        Nothing else has a meaning, so any text can be searched for; one without a word finds
        nothing. The first search after an upgrade brings older messages into the index.

        Args:
            text: What to find.
            session_id: Only in this conversation.
            limit: Matches per page; the page size of the settings if not given, 100 without settings.
            cursor: Continue behind this place: the ``next_cursor`` of the same search.
            order: ``newest`` (what arrived here last comes first) or ``best``.

        Raises:
            UsageError: A negative limit, an unknown order, or a cursor of something else.
        """
        terms, chosen = parse_terms(text), _checked_order(order)
        if limit is None:
            limit = _SEARCH_PAGE if self._config is None else self._config.pagination.chat_page_size
        if limit < 0:
            raise UsageError(f"limit: {limit} cannot be used; expected 0 or more")
        after = None if cursor is None else parse_hit(cursor)
        log = self.log
        while await log.read(has_backlog):
            await log.transact(index_backlog)
        if chosen is TextOrder.BEST:
            await log.transact(lambda tx: tx.settle_texts())

        def work(tx: JournalTransaction) -> Page[ChatMatch]:
            wanted = limit + 1 if limit else 0
            hits = tx.search_text(STORE, terms, scope=session_id, order=chosen, after=after, limit=wanted)
            kept = hits[:limit]
            events = map(_decode, stored_entries(tx, STORE, [hit.entry_id for hit in kept]))
            matches = [
                ChatMatch(event, snippet_of(searchable_text(event.message), terms))
                for event in events
                if event is not None
            ]
            return Page(tuple(matches), format_hit(kept[-1]) if len(kept) < len(hits) else None)

        return await log.read(work)

    # -- read model --------------------------------------------------------------------------------
    def _project(self, tx: JournalTransaction, entry: Entry, _heads: object) -> None:
        event = ChatEvent.from_payload(entry.id, decode_payload(entry.payload))
        if not add_event(tx, event):
            return
        index_message(tx, event)
        if self._shared_index is not None:
            self._shared_index.touch_in(tx, event.session_id, updated_at_ms=event.timestamp_ms, holder=STORE)

    def _retract(self, tx: JournalTransaction, entry: Entry) -> None:
        show_entry(tx, entry.id)
        tx.unindex_text(STORE, entry.id)
        try:
            event = ChatEvent.from_payload(entry.id, decode_payload(entry.payload))
        except MalformedMessageError:
            # It was never in the read model.
            return
        if remove_event(tx, event) and self._shared_index is not None:
            self._shared_index.release_in(tx, event.session_id, STORE)


def _append(
    tx: JournalTransaction, session_id: str, timestamp_ms: int, source: ChatEventSource, message: Mapping[str, Any]
) -> ChatEvent:
    sequence = min(session_state(tx, session_id).highest + 1, SEQUENCE_MAX)
    event = ChatEvent(session_id, sequence, timestamp_ms, source, message, b"")
    entry = tx.write(STORE, CHAT_EVENT, event.primary_key, event.to_payload())
    stored = tx.stored_entry(entry.id)
    return replace(event, entry_id=entry.id, position=0 if stored is None else stored.position)


def _checked_order(order: str) -> TextOrder:
    try:
        return TextOrder(order)
    except ValueError:
        raise UsageError(f"order: {order!r} cannot be used; expected {' or '.join(TextOrder)}") from None


def _checked_message(message: object) -> Mapping[str, Any]:
    if not isinstance(message, Mapping):
        raise UsageError(f"message: {type(message).__name__} cannot be appended; expected a map")
    return message


def _session_of(entry: Entry) -> str:
    return peek_text(entry.payload, "sessionId")


def _decode(stored: StoredEntry) -> ChatEvent | None:
    entry = stored.entry
    if entry.event != CHAT_EVENT:
        return None
    return ChatEvent.from_payload(entry.id, decode_payload(entry.payload), position=stored.position)
