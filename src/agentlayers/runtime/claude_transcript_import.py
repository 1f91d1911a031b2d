"""
Import transcripts of Claude Code into a replica's chat history, artifacts and agent sessions.

Importing a file again, on this replica or on one it syncs with, adds what is new in it and nothing twice. A file is
read in steps of bounded size; each step is one transaction, which also notes how far it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, final

from agentlayers.errors import AgentLayersError
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.runtime.claude_transcript_cursor import TranscriptCursor
from agentlayers.runtime.claude_transcript_entries import (
    ArtifactDraft,
    EntryMaker,
    ImportedLine,
    artifact_entries,
    sidecar_entry,
)
from agentlayers.runtime.claude_transcript_files import TranscriptFile
from agentlayers.runtime.claude_transcript_known import KnownLines, KnownMessages, unknown_artifacts
from agentlayers.runtime.claude_transcript_reader import BrokenLine, ReadLine, read_lines
from agentlayers.runtime.claude_transcript_stores import TranscriptStores
from agentlayers.runtime.session_transcript import STORE as SESSIONS
from agentlayers.storage.artifact import STORE as ARTIFACTS
from agentlayers.storage.artifact_chunk import CONTENT_STORE
from agentlayers.storage.chat_index import STORE as CHAT
from agentlayers.storage.import_ import take_over

__all__ = ["Batch", "FileImport", "Progress", "TranscriptImporter", "next_batch"]

Progress = Callable[[int], None]
"""Told how many bytes were read since the last call."""

_LINES_MAX: Final = 256
_BYTES_MAX: Final = 4 * 1024 * 1024
_KNOWN_MAX: Final = 8


@final
@dataclass(slots=True)
class FileImport:
    """
    What became of one transcript.

    Attributes:
        file: Which one.
        lines: Lines read that could be understood.
        new_lines: Those the replica did not have.
        messages: New messages in the chat history.
        artifacts: New artifacts.
        broken: Lines that were left out.
        unreadable: Why the rest of the file could not be read; empty if it was.
    """

    file: TranscriptFile
    lines: int = 0
    new_lines: int = 0
    messages: int = 0
    artifacts: int = 0
    broken: list[BrokenLine] = field(default_factory=list)
    unreadable: str = ""


@final
@dataclass(slots=True)
class Batch:
    """
    What one step read.

    Attributes:
        lines: Those that could be understood.
        broken: Those that could not.
        bytes_read: How far it came.
    """

    lines: list[ImportedLine]
    broken: list[BrokenLine]
    bytes_read: int


class _Known(NamedTuple):
    lines: KnownLines
    messages: KnownMessages


class _Step(NamedTuple):
    lines: list[ImportedLine]
    messages: list[ImportedLine]
    artifacts: int


@final
class TranscriptImporter:
    """
    Brings transcripts into a replica.

    Args:
        stores: Open, for as long as the importer is used.
        progress: See :data:`Progress`.
    """

    def __init__(self, stores: TranscriptStores, *, progress: Progress | None = None) -> None:
        self._stores = stores
        self._progress = progress or (lambda _count: None)
        self._lines: dict[TranscriptFile, KnownLines] = {}
        self._messages: dict[str, KnownMessages] = {}

    async def take(self, file: TranscriptFile, *, go_on: bool = False) -> FileImport:
        """
        Import one transcript.

        Args:
            file: The transcript.
            go_on: Begin where an earlier import of the file ended, if the file has not been replaced since.

        Returns:
            What was done. A file that cannot be read is told there; what was read of it before is imported.

        Raises:
            StorageError: The journal could not be written.
        """
        report = FileImport(file)
        cursor = await self._cursor(file, go_on=go_on)
        sidecar = await asyncio.to_thread(file.sidecar)
        call = (sidecar or {}).get("toolUseId")
        maker = cursor.maker(file.transcript, call if isinstance(call, str) else None)
        lines = read_lines(file.path, offset=cursor.offset, number=cursor.number)
        while True:
            try:
                batch = await asyncio.to_thread(next_batch, lines, maker, cursor, file.path)
            except OSError as error:
                report.unreadable = error.strerror or str(error)
                return report
            if not batch.bytes_read:
                break
            report.lines += len(batch.lines)
            report.broken += batch.broken
            await self._write(file, batch, cursor, report)
            self._progress(batch.bytes_read)
        if sidecar is not None and cursor.began_ms:
            await self._write_sidecar(file, sidecar, cursor.began_ms)
        return report

    # -- one step -------------------------------------------------------------------------------------------
    async def _write(self, file: TranscriptFile, batch: Batch, cursor: TranscriptCursor, report: FileImport) -> None:
        known = self._known_of(file)
        for stores in self._stores.by_journal():
            names = frozenset(store.name for store in stores)
            work = partial(_write_step, names=names, batch=batch, known=known, cursor=cursor, path=file.path)
            step = await stores[0].journal.transact(work)
            report.new_lines += len(step.lines)
            report.messages += len(step.messages)
            report.artifacts += step.artifacts
            known.lines.note(step.lines)
            known.messages.note(step.messages)

    async def _write_sidecar(self, file: TranscriptFile, sidecar: dict[str, object], began_ms: int) -> None:
        entry = sidecar_entry(file.transcript, sidecar, began_ms)
        await self._stores.sessions.journal.transact(lambda tx: take_over(tx, store=SESSIONS, entries=[entry]))

    async def _cursor(self, file: TranscriptFile, *, go_on: bool) -> TranscriptCursor:
        if not go_on:
            return TranscriptCursor()
        cursor = await self._stores.sessions.journal.read(lambda tx: TranscriptCursor.load(tx, file))
        is_same = await asyncio.to_thread(cursor.is_of, file.path)
        return cursor if is_same else TranscriptCursor()

    def _known_of(self, file: TranscriptFile) -> _Known:
        # Those used last are kept, so that following a file does not read its session again at each line.
        lines = self._lines.pop(file, None) or KnownLines(file.transcript)
        messages = self._messages.pop(file.transcript.session, None) or KnownMessages(file.transcript.session)
        self._lines[file] = lines
        self._messages[file.transcript.session] = messages
        while len(self._lines) > _KNOWN_MAX:
            del self._lines[next(iter(self._lines))]
        while len(self._messages) > _KNOWN_MAX:
            del self._messages[next(iter(self._messages))]
        return _Known(lines, messages)


def next_batch(
    lines: Iterator[ReadLine | BrokenLine], maker: EntryMaker, cursor: TranscriptCursor, path: Path
) -> Batch:
    """
    Read the next step of a file, and move the cursor behind it.

    Returns:
        What was read; nothing at the end of the file.

    Raises:
        OSError: The file cannot be read.
    """
    begun, batch = cursor.offset, Batch([], [], 0)
    for line in islice(lines, _LINES_MAX):
        if isinstance(line, BrokenLine):
            batch.broken.append(line)
        else:
            try:
                batch.lines.append(maker.entries_of(line))
            except AgentLayersError as error:
                batch.broken.append(BrokenLine(line.number, line.end, f"it cannot be kept: {error}"))
        cursor.offset, cursor.number = line.end, line.number
        if cursor.offset - begun > _BYTES_MAX:
            break
    batch.bytes_read = cursor.offset - begun
    if batch.bytes_read:
        cursor.mark(path, maker)
    return batch


def _write_step(
    tx: JournalTransaction,
    *,
    names: frozenset[str],
    batch: Batch,
    known: _Known,
    cursor: TranscriptCursor,
    path: Path,
) -> _Step:
    lines, messages, artifacts = list[ImportedLine](), list[ImportedLine](), 0
    if CHAT in names:
        messages = known.messages.unknown(tx, batch.lines)
        take_over(tx, store=CHAT, entries=[line.chat for line in messages if line.chat is not None])
    if ARTIFACTS in names:
        for draft in unknown_artifacts(tx, (draft for line in batch.lines for draft in line.artifacts)):
            artifacts += _write_artifact(tx, draft)
    if SESSIONS in names:
        lines = known.lines.unknown(tx, batch.lines)
        take_over(tx, store=SESSIONS, entries=[line.line for line in lines])
        cursor.store(tx, path)
    return _Step(lines, messages, artifacts)


def _write_artifact(tx: JournalTransaction, draft: ArtifactDraft) -> int:
    record, pieces = artifact_entries(draft)
    take_over(tx, store=CONTENT_STORE, entries=pieces)
    return take_over(tx, store=ARTIFACTS, entries=[record]).imported
