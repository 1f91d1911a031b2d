"""``agentlayers import claude-code``: the transcripts of Claude Code, once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.exit_status import ExitStatus
from agentlayers.cli.progress import progress_bar
from agentlayers.cli.table import printable, show_json

if TYPE_CHECKING:
    from agentlayers.runtime.claude_transcript_files import TranscriptFile
    from agentlayers.runtime.claude_transcript_import import FileImport

__all__ = ["TranscriptPath", "TranscriptTarget", "claude_code", "many", "target_directory", "warn"]

_WARNINGS_MAX = 20

TranscriptPath = Annotated[
    Path | None,
    typer.Argument(
        help="A projects directory, one project in it, or one session's .jsonl file.",
        show_default="Claude Code's own, ~/.claude/projects",
    ),
]
TranscriptTarget = Annotated[
    Path | None,
    typer.Option(
        "--to",
        help="Directory of the replica; made if missing. (default: the storage directory of the settings)",
        metavar="DIRECTORY",
        show_default=False,
    ),
]


def claude_code(
    path: TranscriptPath = None,
    to: TranscriptTarget = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be imported; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """
    Import transcripts of Claude Code: messages, results of tools, and every line as it is.

    The messages can be read with 'agentlayers chat', the results of tools become artifacts, and a session can be
    resumed from the replica by an agent of yours (resume=ID), on any machine it is synced to.

    Importing again adds only what is new, on this replica and on others it syncs with. A line that is still being
    written is left for later. A broken line is told and left out; the rest is imported, and the exit status is 1.
    Safe beside a running replica, and beside Claude Code.

    For instance:

      agentlayers import claude-code --dry-run

      agentlayers import claude-code ~/.claude/projects --to ./replica
    """
    from agentlayers.runtime.claude_transcript_files import default_projects, find_transcripts

    files, directory = find_transcripts(path or default_projects(os.environ)), target_directory(to)
    with progress_bar("reading" if dry_run else "importing", _size(files), in_bytes=True) as advance:
        reports = _preview(directory, files, advance) if dry_run else asyncio.run(_import(directory, files, advance))
    warn(reports)
    if as_json:
        show_json(_json(directory, reports, dry_run=dry_run), indent=2)
    else:
        typer.echo(_summary(directory, reports, dry_run=dry_run))
    if any(report.broken or report.unreadable for report in reports):
        raise typer.Exit(ExitStatus.FAILED)


def target_directory(to: Path | None) -> Path:
    """
    Return the replica's directory: the one given, or that of the settings.

    Raises:
        SettingsError: It is a file, or a setting cannot be used.
    """
    from agentlayers.errors import SettingsError
    from agentlayers.storage.storage_config import StorageConfig

    directory = StorageConfig.from_environment().directory if to is None else to
    if directory.exists() and not directory.is_dir():
        raise SettingsError(setting="--to", value=str(directory), expected="the directory of a replica, not a file")
    return directory


async def _import(directory: Path, files: list[TranscriptFile], advance: Callable[[int], None]) -> list[FileImport]:
    from agentlayers.runtime.claude_transcript_import import TranscriptImporter
    from agentlayers.runtime.claude_transcript_stores import open_transcript_stores

    async with open_transcript_stores(directory) as stores:
        importer = TranscriptImporter(stores, progress=advance)
        return [await importer.take(file) for file in files]


def _preview(directory: Path, files: list[TranscriptFile], advance: Callable[[int], None]) -> list[FileImport]:
    from agentlayers.runtime.claude_transcript_preview import TranscriptPreview

    with TranscriptPreview(directory, progress=advance) as preview:
        return [preview.take(file) for file in files]


def _size(files: Iterable[TranscriptFile]) -> int:
    size = 0
    for file in files:
        try:
            size += file.path.stat().st_size
        except OSError:
            continue  # told when it is read
    return size


def warn(reports: Iterable[FileImport]) -> None:
    """Tell on standard error which lines and files were left out."""
    warnings = [text for report in reports for text in _warnings(report)]
    for text in warnings[:_WARNINGS_MAX]:
        typer.echo(printable(f"warning: {text}"), err=True)
    if len(warnings) > _WARNINGS_MAX:
        typer.echo(f"warning: and {len(warnings) - _WARNINGS_MAX} more", err=True)


def _warnings(report: FileImport) -> Iterable[str]:
    for line in report.broken:
        yield f"{report.file.path}:{line.number}: {line.reason}; left out"
    if report.unreadable:
        yield f"{report.file.path}: {report.unreadable}; left out"


def _summary(directory: Path, reports: list[FileImport], *, dry_run: bool) -> str:
    count = _counts(reports)
    here = count["lines"] - count["new_lines"]
    new = ", ".join((many(count["new_lines"], "line"), many(count["messages"], "message")))
    read = ", ".join((many(count["sessions"], "session"), many(count["projects"], "project")))
    done = "would import" if dry_run else "imported"
    return (
        f"{done} {new} and {many(count['artifacts'], 'artifact')} into {directory}\n"
        f"from {read} and {many(count['files'], 'file')}; {many(here, 'line')} already there"
    )


def many(count: int, name: str) -> str:
    """Return a number of things, such as ``2 lines``."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"


def _counts(reports: list[FileImport]) -> dict[str, int]:
    transcripts = [report.file.transcript for report in reports]
    return {
        "files": len(reports),
        "projects": len({transcript.project for transcript in transcripts}),
        "sessions": len({transcript.session for transcript in transcripts}),
        "lines": sum(report.lines for report in reports),
        "new_lines": sum(report.new_lines for report in reports),
        "messages": sum(report.messages for report in reports),
        "artifacts": sum(report.artifacts for report in reports),
    }


def _json(directory: Path, reports: list[FileImport], *, dry_run: bool) -> dict[str, Any]:
    broken = [
        {"file": str(report.file.path), "line": line.number, "reason": line.reason}
        for report in reports
        for line in report.broken
    ]
    unreadable = [
        {"file": str(report.file.path), "reason": report.unreadable} for report in reports if report.unreadable
    ]
    found = {"directory": str(directory), "dry_run": dry_run, **_counts(reports)}
    return {**found, "broken": broken, "unreadable": unreadable}
