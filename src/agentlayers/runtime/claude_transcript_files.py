"""
Find the transcripts that Claude Code writes: where they are, and which session each belongs to.

A project is a directory named after the one Claude Code ran in; a session is a file in it, and its subagents' are
below a directory beside it. Nothing is read here but the first lines of a file whose name does not tell its session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, final

from agentlayers.errors import SettingsError, StorageUnavailableError
from agentlayers.runtime.session_transcript import Transcript

__all__ = ["TranscriptFile", "default_projects", "find_transcripts"]

_SUFFIX: Final = ".jsonl"
_SUBAGENTS: Final = "subagents"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LINES_TO_NAME_A_SESSION: Final = 50
_SIDECAR_BYTES_MAX: Final = 64 * 1024


@final
@dataclass(frozen=True, slots=True)
class TranscriptFile:
    """
    One transcript on disk.

    Attributes:
        path: Where it is.
        transcript: Which session it is of, and of which subagent.
    """

    path: Path
    transcript: Transcript

    @property
    def sidecar_path(self) -> Path:
        """Where Claude Code says more of a subagent; of a session there is none."""
        return self.path.with_name(self.path.name.removesuffix(_SUFFIX) + ".meta.json")

    def sidecar(self) -> dict[str, Any] | None:
        """Read what Claude Code says of a subagent beside its transcript; :obj:`None` if it says nothing."""
        if not self.transcript.subpath:
            return None
        try:
            with self.sidecar_path.open("rb") as file:
                found = json.loads(file.read(_SIDECAR_BYTES_MAX))
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


def default_projects(environment: Mapping[str, str]) -> Path:
    """
    Return where Claude Code keeps its transcripts.

    >>> default_projects({"CLAUDE_CONFIG_DIR": "/srv/claude"}).as_posix(), default_projects({}).as_posix()
    ('/srv/claude/projects', '~/.claude/projects')

    """
    return Path(environment.get("CLAUDE_CONFIG_DIR") or "~/.claude") / "projects"


def find_transcripts(path: Path) -> list[TranscriptFile]:
    """
    List the transcripts below a path: a projects directory, one project, or one session's file.

    Args:
        path: ``~`` stands for the home directory. A session's file brings those of its subagents along.

    Raises:
        SettingsError: There is no such path, or no transcript there.
        StorageUnavailableError: The directory cannot be read.
    """
    path = path.expanduser().absolute()
    try:
        if path.is_file():
            found = list(_session_files(path))
        elif path.is_dir():
            projects = path / "projects"
            found = list(_files_below(projects if path.name == ".claude" and projects.is_dir() else path))
        else:
            raise SettingsError(setting="PATH", value=str(path), expected=f"{_EXPECTED}; there is no such path")
    except OSError as error:
        reason = f"{error.strerror or error}; give a directory or file this user may read"
        raise StorageUnavailableError(backend="transcripts", operation="read", path=path, reason=reason) from error
    if not found:
        raise SettingsError(setting="PATH", value=str(path), expected=f"{_EXPECTED}; there is no transcript")
    return found


_EXPECTED: Final = "Claude Code's projects directory (~/.claude/projects), one project in it, or one .jsonl file"


def _files_below(directory: Path, *, has_projects: bool = True) -> Iterator[TranscriptFile]:
    if (directory / _SUBAGENTS).is_dir():
        yield from _subagent_files(directory)
        return
    entries = sorted(directory.iterdir())
    files = [entry for entry in entries if entry.suffix == _SUFFIX and entry.is_file()]
    here = [file for path in files for file in _session_files(path)]
    yield from here
    told = {path.stem for path in files}
    for entry in entries:
        if entry.name in told or entry.is_symlink() or not entry.is_dir():
            continue  # a session's directory came with its file
        if (entry / _SUBAGENTS).is_dir():
            yield from _subagent_files(entry)
        elif has_projects and not here:
            yield from _files_below(entry, has_projects=False)


def _session_files(path: Path) -> Iterator[TranscriptFile]:
    file = _transcript_file(path)
    if file is not None:
        yield file
    if file is None or not file.transcript.subpath:
        yield from _subagent_files(path.with_suffix(""))


def _subagent_files(session: Path) -> Iterator[TranscriptFile]:
    directory = session / _SUBAGENTS
    if directory.is_dir():
        for path in sorted(directory.rglob(f"*{_SUFFIX}")):
            if path.is_file():
                subpath = path.relative_to(session).with_suffix("").as_posix()
                yield TranscriptFile(path, _named(session.parent.name, session.name, subpath))


def _transcript_file(path: Path) -> TranscriptFile | None:
    """Name a file by where it is; :obj:`None` for one that is no transcript."""
    parents = [parent.name for parent in path.parents]
    if _SUBAGENTS in parents:
        session = path.parents[parents.index(_SUBAGENTS) + 1]
        subpath = path.relative_to(session).with_suffix("").as_posix()
        return TranscriptFile(path, _named(session.parent.name, session.name, subpath))
    project = path.parent.name
    if _UUID.fullmatch(path.stem):
        return TranscriptFile(path, _named(project, path.stem))
    # Earlier releases put a subagent's transcript beside its session's.
    named = _session_named_in(path)
    if not named:
        return None
    subpath = f"{_SUBAGENTS}/{path.stem}" if path.stem.startswith("agent-") else ""
    return TranscriptFile(path, _named(project, named, subpath))


def _named(*names: str) -> Transcript:
    # A file's name may be bytes that are no Unicode.
    return Transcript(*(name.encode(errors="replace").decode() for name in names))


def _session_named_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            for line in islice(iter(lambda: file.readline(_SIDECAR_BYTES_MAX), b""), _LINES_TO_NAME_A_SESSION):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                named = record.get("sessionId") if isinstance(record, dict) else None
                if isinstance(named, str) and named:
                    return named
    except OSError:
        return ""
    return ""
