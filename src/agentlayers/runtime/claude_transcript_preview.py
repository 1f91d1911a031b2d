"""Tell what an import would bring, without writing anything."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, final

from agentlayers.journal.transaction import JournalTransaction
from agentlayers.runtime.claude_transcript_cursor import TranscriptCursor
from agentlayers.runtime.claude_transcript_entries import ImportedLine
from agentlayers.runtime.claude_transcript_files import TranscriptFile
from agentlayers.runtime.claude_transcript_import import FileImport, Progress, next_batch
from agentlayers.runtime.claude_transcript_known import KnownLines, KnownMessages, unknown_artifacts
from agentlayers.runtime.claude_transcript_reader import read_lines
from agentlayers.runtime.claude_transcript_stores import STORES
from agentlayers.storage.replica_store import file_of_store
from agentlayers.storage.snapshot import open_snapshot

__all__ = ["TranscriptPreview"]


@final
class TranscriptPreview:
    """
    Compares transcripts with a replica as it is at one moment; a context manager.

    Args:
        directory: The replica's directory; there need not be one.
        progress: See :data:`~agentlayers.runtime.claude_transcript_import.Progress`.

    Raises:
        StorageUnavailableError: A journal cannot be read.
        StorageCorruptionError: A journal is damaged, or none.
        MigrationError: A newer release wrote it.
    """

    def __init__(self, directory: Path, *, progress: Progress | None = None) -> None:
        self._directory = directory
        self._progress = progress or (lambda _count: None)
        self._stack = ExitStack()
        self._drafts: set[tuple[str, str]] = set()
        self._chat: JournalTransaction | None = None
        self._artifacts: JournalTransaction | None = None
        self._sessions: JournalTransaction | None = None

    def __enter__(self) -> Self:
        opened: dict[Path, JournalTransaction] = {}
        with ExitStack() as stack:
            for name in STORES:
                path = file_of_store(self._directory, name)
                if path.is_file() and path not in opened:
                    opened[path] = stack.enter_context(open_snapshot(path)).tx
            self._stack = stack.pop_all()
        found = [opened.get(file_of_store(self._directory, name)) for name in STORES]
        self._chat, self._artifacts, self._sessions = found
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def take(self, file: TranscriptFile) -> FileImport:
        """Tell what an import of one transcript would do."""
        report, cursor = FileImport(file), TranscriptCursor()
        call = (file.sidecar() or {}).get("toolUseId")
        maker = cursor.maker(file.transcript, call if isinstance(call, str) else None)
        lines = read_lines(file.path)
        known = KnownLines(file.transcript), KnownMessages(file.transcript.session)
        while True:
            try:
                batch = next_batch(lines, maker, cursor, file.path)
            except OSError as error:
                report.unreadable = error.strerror or str(error)
                return report
            if not batch.bytes_read:
                return report
            report.lines += len(batch.lines)
            report.broken += batch.broken
            self._count(batch.lines, known, report)
            self._progress(batch.bytes_read)

    def _count(self, lines: list[ImportedLine], known: tuple[KnownLines, KnownMessages], report: FileImport) -> None:
        drafts = {(draft.record.session_id, draft.record.id): draft for line in lines for draft in line.artifacts}
        new = [draft for name, draft in drafts.items() if name not in self._drafts]
        self._drafts.update(drafts)
        messages = [line for line in lines if line.chat is not None]
        report.new_lines += len(lines if self._sessions is None else known[0].unknown(self._sessions, lines))
        report.messages += len(messages if self._chat is None else known[1].unknown(self._chat, messages))
        report.artifacts += len(new if self._artifacts is None else unknown_artifacts(self._artifacts, new))
