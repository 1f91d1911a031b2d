"""
Follow transcripts of Claude Code as they are written.

Files are looked at again and again, not subscribed to, so it works on any file system. How far each was read is kept
in the replica, so what was written while nobody watched is imported at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, final

from agentlayers.errors import SettingsError, StorageUnavailableError
from agentlayers.runtime.claude_transcript_files import TranscriptFile, find_transcripts
from agentlayers.runtime.claude_transcript_import import FileImport, TranscriptImporter

__all__ = ["TranscriptWatcher"]


class _Signature(NamedTuple):
    size: int
    modified_ns: int
    inode: int


@final
class TranscriptWatcher:
    """
    Imports what is new below a path, whenever it is asked to look.

    Args:
        path: As for :func:`~agentlayers.runtime.claude_transcript_files.find_transcripts`.
        importer: Writes to the replica.
    """

    def __init__(self, path: Path, importer: TranscriptImporter) -> None:
        self._path, self._importer = path, importer
        self._seen: dict[TranscriptFile, tuple[_Signature, _Signature | None]] = {}

    @property
    def files(self) -> int:
        """How many transcripts there were at the last look."""
        return len(self._seen)

    async def look(self, *, told: Callable[[FileImport], None] | None = None) -> list[FileImport]:
        """
        Import what was added since the last look, in new files and in known ones.

        A file that was cut off or replaced is read from its beginning. One that cannot be read is told once, and
        tried again when it changes.

        Args:
            told: Called with what was done to a file as soon as it is done, where there is anything to tell.

        Returns:
            What was done, for files with anything to tell.

        Raises:
            StorageError: The journal could not be written.
        """
        changed = await asyncio.to_thread(self._changed)
        reports = []
        for file in changed:
            report = await self._importer.take(file, go_on=True)
            if _has_news(report):
                reports.append(report)
                if told is not None:
                    told(report)
        return reports

    def _changed(self) -> list[TranscriptFile]:
        try:
            files = find_transcripts(self._path)
        except (SettingsError, StorageUnavailableError):
            files = []  # there is nothing yet, or for the moment
        seen, changed = dict[TranscriptFile, tuple[_Signature, _Signature | None]](), list[TranscriptFile]()
        for file in files:
            signature = _signature(file.path)
            if signature is None:
                continue
            seen[file] = signature, _signature(file.sidecar_path) if file.transcript.subpath else None
            if self._seen.get(file) != seen[file]:
                changed.append(file)
        self._seen = seen
        return changed


def _signature(path: Path) -> _Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _Signature(found.st_size, found.st_mtime_ns, found.st_ino)


def _has_news(report: FileImport) -> bool:
    if report.unreadable and not report.file.path.exists():
        return False
    return bool(report.lines or report.broken or report.unreadable)
