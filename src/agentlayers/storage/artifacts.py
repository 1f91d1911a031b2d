"""
The artifacts of a replica: tool results, files and summaries, by session.

An artifact is a keyed thing: its records and deletions are versions, and what is shown of
concurrent ones is what the conflict policy decides from the set of them, the same on every replica.
Versions that lost stay readable. Large content travels in pieces beside its record, and is read and
written without holding it in memory.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import ClassVar

from agentlayers.errors import UsageError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.compaction import CompactionReport, CompactionStrategy
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import prefix_end
from agentlayers.limits import ARTIFACT_INLINE_BYTES_MAX
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.artifact import (
    ARTIFACT_RECORD,
    ArtifactConflict,
    ArtifactRecord,
    ArtifactVersion,
    artifact_key,
)
from agentlayers.storage.artifact_chunk import (
    ARTIFACT_CHUNK,
    ARTIFACT_CHUNK_WANTED,
    CONTENT_STORE,
    ContentChunks,
    digest_of_key,
    read_chunk,
)
from agentlayers.storage.artifact_chunk_index import add_chunk, remove_chunk
from agentlayers.storage.artifact_cleanup import drop_due_chunks, report_cleanup
from agentlayers.storage.artifact_content import (
    bytes_in_chunks,
    check_metadata,
    content_missing,
    is_entry_needed,
    loaded,
    piece_of,
    with_completeness,
)
from agentlayers.storage.artifact_entries import (
    conflict_of,
    content_said,
    rows_named,
    versions_of,
    write_deletion,
    write_record,
)
from agentlayers.storage.artifact_exchange import ChunkExchange, note_wanted
from agentlayers.storage.artifact_fetch import fetch_content
from agentlayers.storage.artifact_index import (
    STORE,
    ArtifactRow,
    not_kept,
    readable_heads,
    resolve_heads,
    rows_of_id,
    rows_of_session,
    session_prefix,
    sessions,
    totals_of,
    write_row,
)
from agentlayers.storage.artifact_upload import pieces_of, upload
from agentlayers.storage.event_groups import ARTIFACT_CHUNK_EVENTS, ARTIFACT_EVENTS
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.pagination import Page, format_cursor, parse_cursor, range_behind
from agentlayers.storage.payload_field import peek_text
from agentlayers.storage.retention import drop_entries
from agentlayers.storage.storage_config import EnabledStores, Retention

__all__ = ["ArtifactStore"]


class ArtifactStore(JournaledStore):
    """Put artifacts, read them back, delete them, and see the versions that lost."""

    name: ClassVar[str] = STORE

    _exchange: ChunkExchange | None = None

    def _schema(self) -> StoreSchema:
        schema = ARTIFACT_EVENTS.schema(
            STORE,
            ARTIFACT_EVENTS,
            ARTIFACT_CHUNK_EVENTS,  # where pieces were before they had a store of their own
            project=self._project,
            retract=self._retract,
            scope_of=_session_of,
            policy=self.conflict_policy,
        )
        return replace(schema, is_needed=is_entry_needed, bytes_elsewhere=bytes_in_chunks, content_of=content_said)

    def further_logs(self) -> builtins.list[EventLog]:
        """Return the log of the pieces that large content is cut into."""
        schema = replace(
            ARTIFACT_CHUNK_EVENTS.schema(
                CONTENT_STORE, ARTIFACT_CHUNK_EVENTS, project=self._project, retract=self._retract
            ),
            is_needed=is_entry_needed,
        )
        # From the keys of the artifacts, which replicas may share without sharing the rest of their identity.
        return [EventLog(self.journal, self._identity.for_store(STORE), schema)]

    @property
    def content_log(self) -> EventLog:
        """
        The log of the pieces that large content is cut into.

        Raises:
            StateError: The store is not open.
        """
        return self._open_log(CONTENT_STORE)

    def _enabled_in(self, enabled: EnabledStores) -> bool:
        return enabled.artifacts

    def _retention(self, _retention: Retention) -> builtins.list[CompactionStrategy]:
        # By session, creation time and content: see _enforce, which a strategy over entries cannot
        # say.
        return []

    # -- life --------------------------------------------------------------------------------------
    def _opened(self) -> None:
        self._exchange = ChunkExchange(self.content_log) if self.is_enabled else None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.stop()
        await super().__aexit__(kind, error, traceback)

    # -- writing -----------------------------------------------------------------------------------
    async def put(self, record: ArtifactRecord) -> ArtifactRecord:
        """
        Store an artifact, or the next version of one; it is durable when this returns.

        The new version supersedes all that this replica holds, open conflicts included. An artifact
        whose ``created_at_ms`` is not given keeps the one it has, and so its place in the session.

        Returns:
            The record as stored, with its entry id; unchanged if artifacts are switched off.

        Content above :data:`~agentlayers.limits.ARTIFACT_INLINE_BYTES_MAX` travels in pieces;
        equal pieces are stored once. A record that names its pieces (one that was listed) is put
        again with the content it has.

        Raises:
            UsageError: A record that cannot be encoded.
            StateError: The store or its journal is not open.
            StorageConflictError: The content was dropped by others while it was written; put again.
            StorageError: The journal could not write it.
        """
        content_log = self.content_log
        if not self.is_enabled:
            return record
        if record.chunks is not None and not record.content:
            check_metadata(record, is_large=True)
            return await self._put(record)
        record = replace(record, chunks=None, is_complete=True)
        check_metadata(record, is_large=record.size_bytes > ARTIFACT_INLINE_BYTES_MAX)
        if record.size_bytes <= ARTIFACT_INLINE_BYTES_MAX:
            return await self._put(record)
        chunks = await upload(content_log, pieces_of(record.content), is_text=False)
        assert isinstance(chunks, ContentChunks)
        stored = await self._put(replace(record, content=record.content[:0], chunks=chunks))
        return replace(stored, content=record.content)

    async def put_stream(self, record: ArtifactRecord, chunks: AsyncIterable[bytes]) -> ArtifactRecord:
        """
        Store an artifact whose content comes piece by piece; it is durable and visible when this returns.

        A few hundred KiB are held in memory, however large the content is. If the stream fails,
        nothing becomes visible, and what was written of it is dropped by a later cleanup.

        Args:
            record: The artifact without content: ``content=b""``, or ``content=""`` for text.
            chunks: The content in pieces of any size; text as UTF-8. It is not read if artifacts are
                switched off.

        Returns:
            The record as stored; large content is not loaded.

        Raises:
            UsageError: A record with content, pieces that are no bytes, or text that is not UTF-8.
            StorageConflictError: As :meth:`put`.
            StorageError: The journal could not write it.
        """
        content_log = self.content_log
        if record.content:
            raise UsageError(f"artifact {record.id!r}: content is given twice; put_stream takes a record without it")
        if not self.is_enabled:
            return record
        is_text = isinstance(record.content, str)
        record = replace(record, chunks=None, is_complete=True)
        check_metadata(record, is_large=True)
        content = await upload(content_log, chunks, is_text=is_text)
        if isinstance(content, ContentChunks):
            return await self._put(replace(record, chunks=content))
        return await self._put(replace(record, content=content.decode() if is_text else content))

    async def _put(self, record: ArtifactRecord) -> ArtifactRecord:
        def work(tx: JournalTransaction) -> ArtifactRecord:
            stored = write_record(tx, record)
            self._enforce_bounds(tx, stored.session_id)
            return stored

        stored = await self.log.transact(work)
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
            rows = rows_named(tx, artifact_id, session_id)
            for row in rows:
                write_deletion(tx, row)
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
                write_deletion(tx, row)
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
        do not fit. Pieces of large content that no artifact consists of any more go last. What a
        current remote has not acknowledged stays until it has.
        """
        report = await super().cleanup()
        dropped = 0
        if self._config is not None:
            for session_id in await self.log.read(sessions):
                dropped += await self.log.transact(partial(self._enforce, session_id=session_id))
        if self._exchange is not None:
            await self._exchange.run(for_others=True)
        pieces = await drop_due_chunks(self.log, (self.content_log.schema, self.log.schema))
        if not dropped and not pieces:
            return report
        return await self.log.transact(lambda tx: report_cleanup(tx, dropped, pieces, report))

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
    async def get(
        self, artifact_id: str, session_id: str | None = None, *, with_content: bool = True
    ) -> ArtifactRecord | None:
        """
        Return what is shown of an artifact, :obj:`None` if there is none or it is deleted.

        Args:
            artifact_id: Its name.
            session_id: Its session. If not given and several sessions have an artifact of this
                name, the one written last is returned.
            with_content: Load large content too; without it, :meth:`open` reads that piece by piece.

        Returns:
            The record. Its content is empty if it is large and not all of it has arrived here
            (``is_complete`` is false then), or if it was not to be loaded.

        Raises:
            StorageCorruptionError: The journal does not give back what was stored.
        """

        def work(tx: JournalTransaction) -> ArtifactRecord | None:
            found = [
                record
                for row in rows_named(tx, artifact_id, session_id)
                if (record := self._shown(tx, row)) is not None
            ]
            record = max(found, key=lambda record: (record.entry_id, record.session_id), default=None)
            return loaded(tx, record) if with_content and record is not None else record

        return await self.log.read(work)

    async def open(self, artifact_id: str, session_id: str | None = None) -> AsyncGenerator[bytes]:
        """
        Yield the content of what is shown of an artifact, piece by piece; text as UTF-8.

        No transaction is open while the caller works. Content that is not here is fetched first, if a
        server has it.

        Raises:
            UsageError: There is no such artifact, or it is deleted.
            StorageUnavailableError: Not all of the content is here or can be fetched, or it was deleted
                and dropped while it was read.
            StorageCorruptionError: The journal does not give back what was stored.
        """
        record = await self.get(artifact_id, session_id, with_content=False)
        if record is None:
            raise UsageError(f"artifact {artifact_id!r}: there is none to open; see list() for the names")
        if record.chunks is None:
            if record.content:
                yield record.data
            return
        if not record.is_complete:
            await fetch_content(self.log, record, self._sync)
        for digest in record.chunks.digests:
            data = await self.log.read(partial(piece_of, digest=digest))
            if data is None:
                raise content_missing(record.id, "its content was dropped while it was read")
            yield data

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
        List the artifacts of a session by creation time, then by name; large content is not loaded.

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

        Large content is not loaded. That of a superseded version is dropped by cleanup; the version
        is not complete then.

        Args:
            artifact_id: Its name.
            session_id: Its session; needed for an artifact that is deleted on this replica.
        """

        def work(tx: JournalTransaction) -> builtins.list[ArtifactVersion]:
            if session_id is None:
                keys = [row.primary_key for row in rows_of_id(tx, artifact_id)]
            else:
                keys = [artifact_key(session_id, artifact_id)]
            return [version for key in keys for version in versions_of(tx, key)]

        return await self.log.read(work)

    async def conflicts(self, session_id: str | None = None) -> builtins.list[ArtifactConflict]:
        """List artifacts with concurrent versions; the next put of one settles it."""

        def work(tx: JournalTransaction) -> builtins.list[ArtifactConflict]:
            found = [conflict_of(conflict.heads, self.conflict_policy) for conflict in tx.conflicts(STORE)]
            return [
                conflict for conflict in found if conflict is not None and session_id in (None, conflict.session_id)
            ]

        return await self.log.read(work)

    def _shown(self, tx: JournalTransaction, row: ArtifactRow) -> ArtifactRecord | None:
        if row.winner:
            entry = tx.entry(row.winner)
            shown = None if entry is None else ArtifactRecord.from_payload(entry.id, decode_payload(entry.payload))
        else:
            readable = readable_heads(tx.heads(STORE, row.primary_key))
            shown = resolve_heads(readable, self.conflict_policy)[0] if readable else None
        return None if shown is None else with_completeness(tx, row.primary_key, shown)

    # -- read model --------------------------------------------------------------------------------
    def _project(self, tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
        payload = decode_payload(entry.payload)
        if entry.event == ARTIFACT_CHUNK_WANTED:
            note_wanted(tx, entry.primary_key, entry.id)
            self._notice_exchange()
            return
        if entry.event == ARTIFACT_CHUNK:
            add_chunk(tx, read_chunk(entry.primary_key, payload)[0], entry.id)
            return
        record = ArtifactRecord.from_payload(entry.id, payload) if entry.event == ARTIFACT_RECORD else None
        write_row(tx, entry.primary_key, heads, self.conflict_policy)
        if record is not None and record.chunks is not None:
            self._notice_exchange()
        if record is not None and self._shared_index is not None:
            self._shared_index.touch_in(tx, record.session_id, updated_at_ms=record.created_at_ms or 0, holder=STORE)

    def _notice_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.notice()

    def _retract(self, tx: JournalTransaction, entry: Entry) -> None:
        if entry.event == ARTIFACT_CHUNK_WANTED:
            return
        if entry.event == ARTIFACT_CHUNK:
            remove_chunk(tx, digest_of_key(entry.primary_key), entry.id)
            return
        # A key is dropped whole or not at all, and superseded versions have no part in the read
        # model.
        write_row(tx, entry.primary_key, (), self.conflict_policy)


def _session_of(entry: Entry) -> str:
    return peek_text(entry.payload, "sessionId")
