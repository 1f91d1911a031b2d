"""
What an agent did: tool uses, permission decisions, hooks; and what sync noticed on this replica.

Every record is an append-only journal entry under its own id, so two uses of one tool stay two
entries although their keys on the wire are the same. ``sync_conflict`` and ``sync_compaction`` are
written by the journal's observer in the transaction that caused them, and never leave the replica.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from itertools import islice
from typing import Any, ClassVar, Final

from agentlayers.errors import UnknownEventError, UsageError
from agentlayers.journal.compaction import CompactionStrategy
from agentlayers.journal.entry import Entry, StoredEntry
from agentlayers.journal.event_journal import Observation, StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end, unpack_text
from agentlayers.limits import ENTRY_ID_BYTES
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.audit_event import (
    AUDIT_EVENTS,
    AuditEntry,
    HookOutcome,
    PermissionDecision,
    ToolUseStatus,
    audit_key,
    audit_payload,
)
from agentlayers.storage.event_groups import AUDIT_LOG_EVENTS
from agentlayers.storage.following import decoded_changes
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.pagination import Page, parse_cursor, range_behind
from agentlayers.storage.payload_field import peek_text
from agentlayers.storage.reading import stored_entries
from agentlayers.storage.retention import kept_by
from agentlayers.storage.storage_config import EnabledStores, Retention

__all__ = ["AUDIT_LOG", "AuditEventStore", "audited_sessions"]

AUDIT_LOG: Final = "audit_log"
"""Name of the store."""

_STORE: Final = AUDIT_LOG
_PAGE_SIZE: Final = 100


class AuditEventStore(JournaledStore):
    """Record audit events, and read them back by session and event."""

    name: ClassVar[str] = _STORE

    def _schema(self) -> StoreSchema:
        return AUDIT_LOG_EVENTS.schema(
            _STORE,
            AUDIT_LOG_EVENTS,
            project=self._project,
            retract=self._retract,
            policy=self.conflict_policy,
        )

    def _enabled_in(self, enabled: EnabledStores) -> bool:
        return enabled.audit_log

    def _retention(self, retention: Retention) -> list[CompactionStrategy]:
        return kept_by(retention.audit.max_age_seconds, retention.audit.max_entries)

    def _opened(self) -> None:
        self.journal.observe(self._record_observation)

    # -- writing -----------------------------------------------------------------------------------
    async def write(self, event: str, payload: Mapping[str, Any]) -> AuditEntry | None:
        """
        Record one event; it is durable when this returns.

        Args:
            event: ``tool_use``, ``permission_decision`` or ``hook_event``.
            payload: Its fields, in the wire's spelling; those set to :obj:`None` are left out.

        Returns:
            What was recorded; :obj:`None` if the audit log is switched off.

        Raises:
            UnknownEventError: No such audit event.
            UsageError: A field is missing or has a value the event does not allow.
            StateError: The store or its journal is not open.
            StorageError: The journal could not write it.
        """
        log, fields = self.log, audit_payload(event, payload)
        if not self.is_enabled:
            return None

        def work(tx: JournalTransaction) -> AuditEntry | None:
            entry = tx.write(_STORE, event, audit_key(event, fields), fields)
            stored = tx.stored_entry(entry.id)
            return None if stored is None else _decode(stored)

        return await log.transact(work)

    async def tool_use(
        self,
        *,
        session_id: str,
        tool_name: str,
        status: ToolUseStatus,
        tool_use_id: str | None = None,
        duration_ms: float | None = None,
    ) -> AuditEntry | None:
        """Record that a tool was started, or how it ended; see :meth:`write`."""
        fields = {
            "sessionId": session_id,
            "toolName": tool_name,
            "toolUseId": tool_use_id,
            "status": status,
            "durationMs": duration_ms,
        }
        return await self.write("tool_use", fields)

    async def permission_decision(
        self,
        *,
        session_id: str,
        tool_name: str,
        decision: PermissionDecision,
        reason: str | None = None,
    ) -> AuditEntry | None:
        """Record whether a tool was allowed, and why; see :meth:`write`."""
        fields = {
            "sessionId": session_id,
            "toolName": tool_name,
            "decision": decision,
            "reason": reason,
        }
        return await self.write("permission_decision", fields)

    async def hook_event(
        self,
        *,
        hook: str,
        outcome: HookOutcome,
        session_id: str | None = None,
        tool_use_id: str | None = None,
    ) -> AuditEntry | None:
        """Record that a hook ran, and how it ended; see :meth:`write`."""
        fields = {
            "sessionId": session_id,
            "hook": hook,
            "toolUseId": tool_use_id,
            "outcome": outcome,
        }
        return await self.write("hook_event", fields)

    def _record_observation(self, tx: JournalTransaction, observation: Observation) -> None:
        if not self._logs or not self.is_enabled or observation.kind not in AUDIT_EVENTS:
            return
        fields = dict(observation.fields)
        tx.write(_STORE, observation.kind, audit_key(observation.kind, fields), fields)

    # -- reading -----------------------------------------------------------------------------------
    async def entries(
        self,
        session_id: str | None = None,
        event: str | None = None,
        *,
        cursor: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> list[AuditEntry]:
        """
        List entries in the order they were written, oldest first, or newest first with ``reverse``.

        Args:
            session_id: Only entries about this session.
            event: Only this event.
            cursor: Continue strictly after this place: the ``cursor`` of an entry or the
                ``next_cursor`` of a page.
            limit: At most so many; 0 lists nothing, :obj:`None` all.
            reverse: Newest first.

        Raises:
            UnknownEventError: No such audit event.
            UsageError: A negative limit or a cursor that is none.
        """
        page = await self._page(session_id, event, cursor=cursor, limit=limit, reverse=reverse)
        return list(page.items)

    async def entries_page(
        self,
        session_id: str | None = None,
        event: str | None = None,
        *,
        cursor: str | None = None,
        limit: int = _PAGE_SIZE,
        reverse: bool = False,
    ) -> Page[AuditEntry]:
        """List like :meth:`entries`, with the cursor of the next page if there is more."""
        return await self._page(session_id, event, cursor=cursor, limit=limit, reverse=reverse)

    async def _page(
        self,
        session_id: str | None,
        event: str | None,
        *,
        cursor: str | None,
        limit: int | None,
        reverse: bool,
    ) -> Page[AuditEntry]:
        if event is not None and event not in AUDIT_EVENTS:
            raise UnknownEventError(event=event, store=_STORE, known=AUDIT_EVENTS)
        if limit is not None and limit < 0:
            raise UsageError(f"limit: {limit} cannot be used; expected 0 or more")
        if limit == 0:
            return Page((), None)
        start, end = range_behind(_prefix(session_id, event), _place(cursor), reverse=reverse)
        wanted = None if limit is None else limit + 1

        def work(tx: JournalTransaction) -> list[AuditEntry]:
            rows = tx.scan(start, end, reverse=reverse, limit=wanted if session_id is None else None)
            keys = (key for key, tag in rows if event is None or tag == event.encode())
            entry_ids = [key[-ENTRY_ID_BYTES:] for key in islice(keys, wanted)]
            return [_decode(stored) for stored in stored_entries(tx, _STORE, entry_ids)]

        found = await self.log.read(work)
        items = tuple(found if limit is None else found[:limit])
        return Page(items, items[-1].cursor if len(items) < len(found) else None)

    def follow(
        self, session_id: str | None = None, event: str | None = None, *, after: int | None = None
    ) -> AsyncGenerator[AuditEntry]:
        """
        Yield entries as they reach this replica, its own and received ones, and never end.

        Args:
            session_id: Only entries about this session.
            event: Only this event.
            after: Begin behind this :attr:`AuditEntry.position`; 0 yields everything held,
                :obj:`None` begins with what is written after this call.
        """

        def wanted(stored: StoredEntry) -> AuditEntry | None:
            entry = _decode(stored)
            return entry if event in (None, entry.event) and session_id in (None, entry.session_id) else None

        return decoded_changes(self.log.changes(after), wanted)

    # -- read model --------------------------------------------------------------------------------
    def _project(self, tx: JournalTransaction, entry: Entry, _heads: object) -> None:
        for key in _index_keys(entry):
            tx.put(key, entry.event.encode())

    def _retract(self, tx: JournalTransaction, entry: Entry) -> None:
        for key in _index_keys(entry):
            tx.delete(key)


def audited_sessions(tx: JournalTransaction) -> list[str]:
    """List the sessions that have audit entries, sorted; the cost grows with their number, not with the entries'."""
    prefix = pack_key(_STORE, "s")
    start, end = prefix, prefix_end(prefix)
    found: list[str] = []
    while (pair := next(iter(tx.scan(start, end, limit=1)), None)) is not None:
        packed = pair[0][len(prefix) : -ENTRY_ID_BYTES]
        found.append(unpack_text(packed))
        start = prefix_end(prefix + packed)
    return found


def _decode(stored: StoredEntry) -> AuditEntry:
    entry = stored.entry
    return AuditEntry.from_payload(entry.id, entry.event, decode_payload(entry.payload), position=stored.position)


def _index_keys(entry: Entry) -> list[bytes]:
    keys = [pack_key(_STORE, "a") + entry.id, pack_key(_STORE, "t", entry.event) + entry.id]
    session_id = peek_text(entry.payload, "sessionId")
    if session_id:
        keys.append(pack_key(_STORE, "s", session_id) + entry.id)
    return keys


def _prefix(session_id: str | None, event: str | None) -> bytes:
    if session_id is not None:
        return pack_key(_STORE, "s", session_id)
    return pack_key(_STORE, "a") if event is None else pack_key(_STORE, "t", event)


def _place(cursor: str | None) -> bytes | None:
    if cursor is None:
        return None
    place = parse_cursor(cursor)
    if len(place) != ENTRY_ID_BYTES:
        raise UsageError(f"cursor: {cursor!r} is no place in the audit log; expected the cursor of an entry")
    return place
