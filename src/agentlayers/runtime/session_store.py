"""
Keep the transcripts of agent sessions in a journal, so that a conversation can be resumed on another machine.

:class:`AgentSessionStore` is a ``SessionStore`` of claude-agent-sdk, which neither has to be installed nor is loaded
for it (but for :meth:`AgentSessionStore.list_session_summaries`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.compaction import CompactionReport, CompactionStrategy
from agentlayers.journal.entry import Entry
from agentlayers.journal.entry_id import entry_id_millis
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import decode_payload
from agentlayers.runtime.claude_sdk import load_claude_sdk
from agentlayers.runtime.session_title import transcript_facts
from agentlayers.runtime.session_transcript import (
    DELETION_EVENT,
    LINE_EVENT,
    SESSION_EVENTS,
    STORE,
    Transcript,
    TranscriptLine,
    held_lines,
    hidden_lines,
    idle_sessions,
    knows_transcript,
    last_line_id,
    line_ids,
    line_is_held,
    project_entry,
    projects_of,
    retract_entry,
    transcripts_in,
)
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.reading import stored_entries
from agentlayers.storage.retention import drop_entries, is_held_back, report_dropped
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import EnabledStores, Retention, StorageConfig
from agentlayers.sync.service import SyncService

__all__ = ["AgentSessionStore", "PortableSessions"]

_DROP_STEP: Final = 256


class _Folded(NamedTuple):
    lines: int
    last: bytes
    summary: dict[str, Any]


class AgentSessionStore(JournaledStore):
    """
    Transcripts of agent sessions; an async context manager.

    Lines of one transcript are listed in the order of their entry ids on every replica: what two replicas append
    without knowing of each other is kept, and is interleaved. A line whose ``uuid`` the transcript has already is
    not appended again. A transcript without its beginning cannot be resumed, so a session goes whole or not at all: by
    :meth:`delete`, everywhere, or by the retention ``agent_sessions.max_idle`` (off unless it is set), on this replica.

    Args:
        journal: Open for as long as the store is.
        identity: Whose keys the store's entries are sealed with when they are synced.
        storage_config: Its retention, ``agent_sessions``.
        sync: Replicates the store while it is open, if its flag ``agent_sessions`` is on.
        session_index: Told what the transcripts say of their sessions: title, directory, git branch.
        storage_cleanup: Cleans the store on its schedule while it is open.
    """

    name: ClassVar[str] = STORE

    def __init__(
        self,
        journal: EventJournal,
        identity: Identity,
        *,
        storage_config: StorageConfig | None = None,
        sync: SyncService | None = None,
        session_index: SessionIndexStore | None = None,
        storage_cleanup: StorageCleanup | None = None,
    ) -> None:
        super().__init__(journal, identity, storage_config=storage_config, sync=sync, session_index=session_index)
        self._cleanup = storage_cleanup
        self._stop_cleanup: Callable[[], None] | None = None
        self._summaries: dict[Transcript, _Folded] = {}

    def _schema(self) -> StoreSchema:
        return SESSION_EVENTS.schema(
            STORE,
            SESSION_EVENTS,
            project=self._project,
            retract=retract_entry,
            scope_of=lambda entry: entry.primary_key,
            policy=self.conflict_policy,
        )

    def _project(self, tx: JournalTransaction, entry: Entry, _heads: object) -> None:
        line = project_entry(tx, entry)
        if line is not None and not line.transcript.subpath and self._shared_index is not None:
            facts = transcript_facts(line.record(), entry.id)
            self._shared_index.describe_in(tx, line.transcript.session, facts)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self._cleanup is not None:
            try:
                self._stop_cleanup = await self._cleanup.register(self)
            except BaseException:
                await super().__aexit__(None, None, None)
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop, self._stop_cleanup = self._stop_cleanup, None
        if stop is not None:
            stop()
        await super().__aexit__(kind, error, traceback)

    def _enabled_in(self, enabled: EnabledStores) -> bool:  # noqa: ARG002
        return True

    def _retention(self, retention: Retention) -> list[CompactionStrategy]:  # noqa: ARG002
        return []

    def anywhere(self) -> PortableSessions:
        """Return a view for one query, in which a session is found whatever directory it began in."""
        return PortableSessions(self)

    # -- the protocol of claude-agent-sdk -----------------------------------------------------------------
    async def append(self, key: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
        """
        Append lines to a transcript, in one transaction; they are durable when this returns.

        Args:
            key: ``project_key``, ``session_id`` and, for a subagent, ``subpath``.
            entries: The lines, as JSON objects.

        Raises:
            UsageError: A key that is none, or a line that is too large or no JSON.
            StateError: The store or its journal is not open.
            StorageError: The journal could not write it.
        """
        transcript = Transcript.from_key(key)
        lines = [TranscriptLine.from_record(transcript, entry) for entry in entries]

        def work(tx: JournalTransaction) -> None:
            for line in lines:
                if not line_is_held(tx, line):
                    payload = line.to_payload()
                    tx.write(STORE, LINE_EVENT, SESSION_EVENTS.event(LINE_EVENT).primary_key(payload), payload)

        if lines:
            await self.log.transact(work)

    async def load(self, key: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return the lines of a transcript in order; :obj:`None` if there are none."""
        transcript = Transcript.from_key(key)
        lines = await self.log.read(lambda tx: _lines(tx, line_ids(tx, transcript)))
        # Two replicas may have appended the same line before they heard of each other.
        unique = {line.uuid or str(place): line for place, line in reversed(list(enumerate(lines)))}
        records = [line.record() for line in reversed(unique.values())]
        return records or None

    async def list_sessions(self, project_key: str) -> list[dict[str, Any]]:
        """List the sessions of a project, each with the time of its last line in Unix milliseconds."""

        def work(tx: JournalTransaction) -> list[dict[str, Any]]:
            return [
                {"session_id": transcript.session, "mtime": entry_id_millis(last)}
                for transcript, last in transcripts_in(tx, project_key)
                if not transcript.subpath
            ]

        return await self.log.read(work)

    async def list_session_summaries(self, project_key: str) -> list[dict[str, Any]]:
        """
        List what claude-agent-sdk wants to know of the sessions of a project to show them.

        The first call reads all their lines; later ones only what came since.

        Raises:
            ConfigurationError: claude-agent-sdk is not installed.
        """
        fold = load_claude_sdk().fold_session_summary
        found = await self.log.read(lambda tx: list(transcripts_in(tx, project_key)))
        return [await self._summary(fold, transcript) for transcript, _ in found if not transcript.subpath]

    async def _summary(self, fold: Any, transcript: Transcript) -> dict[str, Any]:
        folded = self._summaries.get(transcript)

        def work(tx: JournalTransaction) -> tuple[list[bytes], int, list[TranscriptLine]]:
            ids = line_ids(tx, transcript)
            # Lines that arrived late sort among the old ones; then all are folded anew.
            is_continued = folded is not None and ids[folded.lines - 1 : folded.lines] == [folded.last]
            start = folded.lines if folded is not None and is_continued else 0
            return ids, start, _lines(tx, ids[start:])

        ids, start, lines = await self.log.read(work)
        key = {"project_key": transcript.project, "session_id": transcript.session}
        before = folded.summary if folded is not None and start else None
        summary = {**fold(before, key, [line.record() for line in lines]), "mtime": entry_id_millis(ids[-1])}
        self._summaries[transcript] = _Folded(len(ids), ids[-1], summary)
        return summary

    async def delete(self, key: Mapping[str, Any]) -> None:
        """
        Delete a session with its subagents, or one subagent's transcript; on every replica that syncs.

        What this replica holds of it is dropped as soon as its remotes know (see :meth:`cleanup`). Lines that
        another replica appends without having heard of it begin the transcript anew.
        """
        transcript = Transcript.from_key(key)

        def work(tx: JournalTransaction) -> None:
            payload = transcript.to_payload()
            tx.write(STORE, DELETION_EVENT, SESSION_EVENTS.event(DELETION_EVENT).primary_key(payload), payload)

        await self.log.transact(work)
        self._summaries.pop(transcript, None)
        await self.cleanup()

    async def list_subkeys(self, key: Mapping[str, Any]) -> list[str]:
        """List the subpaths of a session's subagents."""
        transcript = Transcript.from_key(key)

        def work(tx: JournalTransaction) -> list[str]:
            found = transcripts_in(tx, transcript.project, transcript.session)
            return [other.subpath for other, _ in found if other.subpath]

        return await self.log.read(work)

    # -- keeping order --------------------------------------------------------------------------------------
    async def cleanup(self) -> CompactionReport | None:
        """
        Drop the lines of deleted sessions and, if the retention says so, sessions that were long not continued.

        What a current remote has not acknowledged stays until it has; of a session that is not deleted, all of it.

        Returns:
            What was done; :obj:`None` if there was nothing to drop.
        """
        before = await self.log.read(_count)
        hidden = await self.log.read(hidden_lines)
        dropped = await self._drop(hidden)
        held_back = len(hidden) - dropped
        for session in await self._idle_sessions():
            lines = await self.log.read(partial(_lines_of, transcripts=session))
            gone = await self._drop(lines, only_if_idle=session)
            dropped, held_back = dropped + gone, held_back + len(lines) - gone
        if not dropped and not held_back:
            return None
        if dropped:
            await self.log.transact(lambda tx: report_dropped(tx, STORE, dropped, [LINE_EVENT]))
        after, now_ms = await self.log.read(lambda tx: (_count(tx), tx.now_ms()))
        return CompactionReport(before, after, dropped, (LINE_EVENT,) if dropped else (), held_back, now_ms)

    @property
    def _max_idle_seconds(self) -> float | None:
        return None if self._config is None else self._config.retention.agent_sessions.max_idle_seconds

    async def _idle_sessions(self) -> Sequence[Sequence[Transcript]]:
        max_idle = self._max_idle_seconds
        if max_idle is None:
            return []
        return await self.log.read(lambda tx: idle_sessions(tx, tx.now_ms() - int(max_idle * 1000)))

    async def _drop(self, entry_ids: Sequence[bytes], *, only_if_idle: Sequence[Transcript] = ()) -> int:
        """Drop entries in short transactions; of a session only as long as it is idle and nobody lacks a line of it."""
        is_waiting = await self.log.read(lambda tx: is_held_back(tx, STORE, entry_ids))
        if only_if_idle and is_waiting:
            return 0
        schema, last, dropped = self.log.schema, max(entry_ids, default=b""), 0

        def work(tx: JournalTransaction, step: Sequence[bytes]) -> int:
            is_continued = any(last_line_id(tx, transcript) > last for transcript in only_if_idle)
            return 0 if is_continued else drop_entries(tx, schema, step)

        # The last lines go last: by them it is seen that a session is not continued.
        for start in range(0, len(entry_ids), _DROP_STEP):
            dropped += await self.log.transact(partial(work, step=entry_ids[start : start + _DROP_STEP]))
        for transcript in only_if_idle if dropped else ():
            self._summaries.pop(transcript, None)
        return dropped

    async def project_of(self, project_key: str, session_id: str) -> str:
        """
        Return the project that holds a session: the given one if it does, else the one where it went on last.

        Args:
            project_key: Where it would be.
            session_id: The session.
        """
        transcript = Transcript(project_key, session_id)

        def work(tx: JournalTransaction) -> str:
            if knows_transcript(tx, transcript):
                return project_key
            return max(projects_of(tx, session_id), default=(b"", project_key))[1]

        return await self.log.read(work)


class PortableSessions:
    """
    A session store for one query, in which a session keeps its place when it is resumed in another directory.

    The command names a session after the directory it runs in. Here that name is translated to the one the session
    began under, so that all replicas and directories see one transcript.

    Args:
        store: Where the transcripts are.
    """

    def __init__(self, store: AgentSessionStore) -> None:
        self._store = store
        self._projects: dict[tuple[str, str], str] = {}

    async def append(self, key: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
        """Append to a transcript; one that was not loaded before begins in its own directory."""
        transcript = Transcript.from_key(key)
        self._projects.setdefault((transcript.project, transcript.session), transcript.project)
        await self._store.append(await self._translated(key), entries)

    async def load(self, key: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return a transcript; see :meth:`AgentSessionStore.load`."""
        return await self._store.load(await self._translated(key))

    async def list_sessions(self, project_key: str) -> list[dict[str, Any]]:
        """List the sessions that began in a directory."""
        return await self._store.list_sessions(project_key)

    async def list_session_summaries(self, project_key: str) -> list[dict[str, Any]]:
        """List the sessions that began in a directory, as they are shown."""
        return await self._store.list_session_summaries(project_key)

    async def delete(self, key: Mapping[str, Any]) -> None:
        """Delete a transcript; see :meth:`AgentSessionStore.delete`."""
        await self._store.delete(await self._translated(key))

    async def list_subkeys(self, key: Mapping[str, Any]) -> list[str]:
        """List a session's subagents; see :meth:`AgentSessionStore.list_subkeys`."""
        return await self._store.list_subkeys(await self._translated(key))

    async def _translated(self, key: Mapping[str, Any]) -> dict[str, Any]:
        transcript = Transcript.from_key(key)
        place = (transcript.project, transcript.session)
        # Looked up once, so that a query does not move to another project while it runs.
        if place not in self._projects:
            self._projects[place] = await self._store.project_of(*place)
        return {**key, "project_key": self._projects[place]}


def _count(tx: JournalTransaction) -> int:
    return tx.count_rows(tx.store_number(STORE))


def _lines_of(tx: JournalTransaction, transcripts: Sequence[Transcript]) -> list[bytes]:
    return sorted(entry_id for transcript in transcripts for entry_id in held_lines(tx, transcript))


def _lines(tx: JournalTransaction, entry_ids: Sequence[bytes]) -> list[TranscriptLine]:
    found = stored_entries(tx, STORE, entry_ids)
    return [TranscriptLine.from_payload(decode_payload(stored.entry.payload)) for stored in found]
