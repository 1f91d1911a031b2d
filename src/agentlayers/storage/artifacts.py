"""
The artifacts of a replica: tool results, files and summaries, by session.

An artifact is a keyed thing: its records and deletions are versions, and what is shown of
concurrent ones is what the conflict policy decides from the set of them, the same on every replica.
Versions that lost stay readable. Content travels inline; larger content than one entry holds is
refused.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Final

from agentlayers.errors import UsageError
from agentlayers.journal.compaction import CompactionReport, CompactionStrategy
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.keys import prefix_end
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import KIB, PAYLOAD_BYTES_MAX
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.artifact import (
    ARTIFACT_DELETED,
    ARTIFACT_RECORD,
    ArtifactConflict,
    ArtifactRecord,
    ArtifactVersion,
    artifact_key,
)
from agentlayers.storage.artifact_index import (
    STORE,
    ArtifactRow,
    not_kept,
    readable_heads,
    resolve_heads,
    row_of,
    rows_of_id,
    rows_of_session,
    session_prefix,
    sessions,
    totals_of,
    write_row,
)
from agentlayers.storage.event_groups import ARTIFACT_EVENTS
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.pagination import Page, format_cursor, parse_cursor, range_behind
from agentlayers.storage.payload_field import peek_text, required_text
from agentlayers.storage.retention import drop_entries, report_dropped
from agentlayers.storage.storage_config import EnabledStores, Retention

__all__ = ["ArtifactStore"]

_CONTENT_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - 64 * KIB
"""Leaves room for the other fields of the record."""


class ArtifactStore(JournaledStore):
    """Put artifacts, read them back, delete them, and see the versions that lost."""

    name: ClassVar[str] = STORE

    def _schema(self) -> StoreSchema:
        return ARTIFACT_EVENTS.schema(
            STORE,
            ARTIFACT_EVENTS,
            project=self._project,
            retract=self._retract,
            scope_of=_session_of,
            policy=self.conflict_policy,
        )

    def _enabled_in(self, enabled: EnabledStores) -> bool:
        return enabled.artifacts

    def _retention(self, _retention: Retention) -> builtins.list[CompactionStrategy]:
        # By session, creation time and content: see _enforce, which a strategy over entries cannot
        # say.
        return []

    # -- writing -----------------------------------------------------------------------------------
    async def put(self, record: ArtifactRecord) -> ArtifactRecord:
        """
        Store an artifact, or the next version of one; it is durable when this returns.

        The new version supersedes all that this replica holds, open conflicts included. An artifact
        whose ``created_at_ms`` is not given keeps the one it has, and so its place in the session.

        Returns:
            The record as stored, with its entry id; unchanged if artifacts are switched off.

        Raises:
            UsageError: Content that is too large for one entry, or metadata that cannot be encoded.
            StateError: The store or its journal is not open.
            StorageError: The journal could not write it.
        """
        log = self.log
        if not self.is_enabled:
            return record
        travelling = record.size_bytes if record.encoding == "utf8" else -(-record.size_bytes // 3) * 4
        if travelling > _CONTENT_BYTES_MAX:
            raise UsageError(
                f"artifact {record.id!r}: content of {record.size_bytes} bytes takes {travelling} "
                f"bytes as {record.encoding}; at most {_CONTENT_BYTES_MAX} fit into one artifact, "
                "so split it"
            )

        def work(tx: JournalTransaction) -> ArtifactRecord:
            stored = _put(tx, record)
            self._enforce_bounds(tx, stored.session_id)
            return stored

        stored = await log.transact(work)
        await self._touch_foreign_index(stored.session_id, stored.created_at_ms or 0)
        return stored

    async def delete(self, artifact_id: str, session_id: str | None = None) -> bool:
        """
        Mark an artifact as deleted, here and wherever the store is synced to.

        Args:
            artifact_id: Its name.
            session_id: Its session; in all sessions if not given.

        Returns:
            Whether there was anything to delete.
        """
        log = self.log
        if not self.is_enabled:
            return False

        def work(tx: JournalTransaction) -> bool:
            rows = _rows(tx, artifact_id, session_id)
            for row in rows:
                _delete(tx, row)
            return bool(rows)

        return await log.transact(work)

    async def purge_session(self, session_id: str) -> int:
        """
        Mark all artifacts of a session as deleted, in one transaction; returns how many.

        As :meth:`delete`, this reaches the other replicas. The session leaves the session index
        unless another store has something of it.
        """
        log = self.log
        if not self.is_enabled:
            return 0
        prefix = session_prefix(session_id)

        def work(tx: JournalTransaction) -> int:
            rows = builtins.list(rows_of_session(tx, prefix, prefix_end(prefix), reverse=False))
            for row in rows:
                _delete(tx, row)
            if self._shared_index is not None:
                self._shared_index.release_in(tx, session_id, STORE)
            return len(rows)

        count = await log.transact(work)
        await self._leave_foreign_index(session_id)
        return count

    async def cleanup(self) -> CompactionReport | None:
        """
        Drop what retention does not keep, on this replica only: no other replica's artifacts are
        deleted.

        Of each session the artifacts made too long ago go, then all but the newest, then those that
        do not fit. What a current remote has not acknowledged stays until it has.
        """
        report = await super().cleanup()
        if self._config is None:
            return report
        dropped = 0
        for session_id in await self.log.read(sessions):
            dropped += await self.log.transact(lambda tx, name=session_id: self._enforce(tx, name))  # type: ignore[misc]
        if not dropped:
            return report
        return await self.log.transact(lambda tx: _report(tx, dropped, report))

    def _enforce_bounds(self, tx: JournalTransaction, session_id: str) -> None:
        if self._config is None:
            return
        bounds, totals = self._config.retention.artifacts, totals_of(tx, session_id)
        too_many = bounds.max_artifacts is not None and totals.count > bounds.max_artifacts
        too_large = bounds.max_artifact_bytes is not None and totals.size_bytes > bounds.max_artifact_bytes
        if too_many or too_large:
            self._enforce(tx, session_id)

    def _enforce(self, tx: JournalTransaction, session_id: str) -> int:
        """Drop what the settings do not keep of one session; returns how many entries."""
        if self._config is None:
            return 0
        prefix = session_prefix(session_id)
        rows = rows_of_session(tx, prefix, prefix_end(prefix), reverse=True)
        doomed = not_kept(rows, self._config.retention.artifacts, now_ms=tx.now_ms())
        heads = [head.id for row in doomed for head in tx.heads(STORE, row.primary_key)]
        dropped = drop_entries(tx, self.log.schema, heads) if heads else 0
        if dropped and self._shared_index is not None and totals_of(tx, session_id).count == 0:
            self._shared_index.release_in(tx, session_id, STORE)
        return dropped

    # -- reading -----------------------------------------------------------------------------------
    async def get(self, artifact_id: str, session_id: str | None = None) -> ArtifactRecord | None:
        """
        Return what is shown of an artifact, :obj:`None` if there is none or it is deleted.

        Args:
            artifact_id: Its name.
            session_id: Its session. If not given and several sessions have an artifact of this
                name, the one written last is returned.
        """

        def work(tx: JournalTransaction) -> ArtifactRecord | None:
            found = [
                record for row in _rows(tx, artifact_id, session_id) if (record := self._shown(tx, row)) is not None
            ]
            return max(found, key=lambda record: (record.entry_id, record.session_id), default=None)

        return await self.log.read(work)

    async def list(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        offset: int = 0,
        cursor: str | None = None,
        reverse: bool = False,
    ) -> builtins.list[ArtifactRecord]:
        """
        List the artifacts of a session by creation time, then by name.

        Args:
            session_id: The session; an unknown one has no artifacts.
            limit: At most so many; 0 lists nothing. Without it the page size of the settings
                counts, and without settings there is no limit.
            offset: Skip so many; prefer ``cursor``, which stays right while others write.
            cursor: Continue strictly after this place: the ``next_cursor`` of a page.
            reverse: Newest first.

        Raises:
            UsageError: A negative limit or offset, or a cursor that is none.
        """
        page = await self.list_page(session_id, limit=limit, offset=offset, cursor=cursor, reverse=reverse)
        return builtins.list(page.items)

    async def list_page(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        offset: int = 0,
        cursor: str | None = None,
        reverse: bool = False,
    ) -> Page[ArtifactRecord]:
        """List like :meth:`list`, with the cursor of the next page if there is more."""
        if limit is None and self._config is not None:
            limit = self._config.pagination.artifact_page_size
        if (limit is not None and limit < 0) or offset < 0:
            raise UsageError(f"limit: {limit}, offset: {offset} cannot be used; expected 0 or more")
        if limit == 0:
            return Page((), None)
        place_behind = None if cursor is None else parse_cursor(cursor)
        start, end = range_behind(session_prefix(session_id), place_behind, reverse=reverse)

        def work(tx: JournalTransaction) -> tuple[builtins.list[ArtifactRecord], bytes | None]:
            found: builtins.list[ArtifactRecord] = []
            place, skipped = b"", 0
            for row in rows_of_session(tx, start, end, reverse=reverse):
                record = self._shown(tx, row)
                if record is None:
                    continue
                if skipped < offset:
                    skipped += 1
                elif limit is not None and len(found) == limit:
                    return found, place
                else:
                    found.append(record)
                    place = row.place
            return found, None

        found, place = await self.log.read(work)
        return Page(tuple(found), None if place is None else format_cursor(place))

    async def versions(self, artifact_id: str, session_id: str | None = None) -> builtins.list[ArtifactVersion]:
        """
        List every version of an artifact that is held, by entry id: shown, superseded, lost and
        deleted.

        Args:
            artifact_id: Its name.
            session_id: Its session; needed for an artifact that is deleted on this replica.
        """

        def work(tx: JournalTransaction) -> builtins.list[ArtifactVersion]:
            if session_id is None:
                keys = [row.primary_key for row in rows_of_id(tx, artifact_id)]
            else:
                keys = [artifact_key(session_id, artifact_id)]
            return [version for key in keys for version in _versions(tx, key)]

        return await self.log.read(work)

    async def conflicts(self, session_id: str | None = None) -> builtins.list[ArtifactConflict]:
        """List artifacts with concurrent versions; the next put of one settles it."""

        def work(tx: JournalTransaction) -> builtins.list[ArtifactConflict]:
            found = [self._conflict(conflict.heads) for conflict in tx.conflicts(STORE)]
            return [
                conflict for conflict in found if conflict is not None and session_id in (None, conflict.session_id)
            ]

        return await self.log.read(work)

    def _conflict(self, heads: Sequence[Version]) -> ArtifactConflict | None:
        readable = readable_heads(heads)
        live = [head for head in readable if not head.is_deletion]
        if not live or len(readable) == 1:
            return None
        value = live[0].value
        resolution = resolve_heads(readable, self.conflict_policy)[1]
        return ArtifactConflict(value["sessionId"], value["id"], tuple(readable), resolution)

    def _shown(self, tx: JournalTransaction, row: ArtifactRow) -> ArtifactRecord | None:
        if row.winner:
            entry = tx.entry(row.winner)
            return None if entry is None else ArtifactRecord.from_payload(entry.id, decode_payload(entry.payload))
        readable = readable_heads(tx.heads(STORE, row.primary_key))
        return resolve_heads(readable, self.conflict_policy)[0] if readable else None

    # -- read model --------------------------------------------------------------------------------
    def _project(self, tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
        payload = decode_payload(entry.payload)
        record = ArtifactRecord.from_payload(entry.id, payload) if entry.event == ARTIFACT_RECORD else None
        write_row(tx, entry.primary_key, heads, self.conflict_policy)
        if record is not None and self._shared_index is not None:
            self._shared_index.touch_in(tx, record.session_id, updated_at_ms=record.created_at_ms or 0, holder=STORE)

    def _retract(self, tx: JournalTransaction, entry: Entry) -> None:
        # A key is dropped whole or not at all, and superseded versions have no part in the read
        # model.
        write_row(tx, entry.primary_key, (), self.conflict_policy)


def _session_of(entry: Entry) -> str:
    return peek_text(entry.payload, "sessionId")


def _report(tx: JournalTransaction, dropped: int, others: CompactionReport | None) -> CompactionReport:
    """Tell observers of what retention dropped, and join it with what other strategies did."""
    report_dropped(tx, STORE, dropped, [ARTIFACT_RECORD])
    after = tx.count_rows(tx.store_number(STORE))
    total = dropped + (0 if others is None else others.dropped)
    held_back = 0 if others is None else others.held_back
    return CompactionReport(after + total, after, total, (ARTIFACT_RECORD,), held_back, tx.now_ms())


def _put(tx: JournalTransaction, record: ArtifactRecord) -> ArtifactRecord:
    key = artifact_key(record.session_id, record.id)
    row = row_of(tx, key)
    if row is not None and (row.session_id, row.artifact_id) != (record.session_id, record.id):
        raise UsageError(
            f"artifact {record.id!r} of session {record.session_id!r} has the key {key!r}, which "
            f"already names {row.artifact_id!r} of session {row.session_id!r}; choose another id"
        )
    created = record.created_at_ms
    if created is None:
        created = tx.now_ms() if row is None else row.created_at_ms
    record = replace(record, created_at_ms=created)
    entry = tx.write(STORE, ARTIFACT_RECORD, key, record.to_payload())
    return replace(record, entry_id=entry.id)


def _delete(tx: JournalTransaction, row: ArtifactRow) -> None:
    payload = {"id": row.artifact_id, "sessionId": row.session_id, "deletedAt": tx.now_ms()}
    tx.write(STORE, ARTIFACT_DELETED, row.primary_key, payload)


def _rows(tx: JournalTransaction, artifact_id: str, session_id: str | None) -> builtins.list[ArtifactRow]:
    required_text("artifact id", artifact_id)
    if session_id is None:
        return builtins.list(rows_of_id(tx, artifact_id))
    row = row_of(tx, artifact_key(session_id, artifact_id))
    return [] if row is None or row.artifact_id != artifact_id else [row]


def _versions(tx: JournalTransaction, primary_key: str) -> builtins.list[ArtifactVersion]:
    heads = {head.id for head in tx.heads(STORE, primary_key)}
    return [
        ArtifactVersion(
            entry_id=version.id,
            replica=version.replica,
            record=None if version.is_deletion else ArtifactRecord.from_payload(version.id, version.value),
            is_head=version.id in heads,
        )
        for version in readable_heads(tx.versions(STORE, primary_key))
    ]
