"""``agentlayers chat list``: the sessions of a replica."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.chat.arguments import AsJson, Directory
from agentlayers.cli.chat.replica_chat import open_chat
from agentlayers.cli.table import Column, format_millis, show_json, show_table

if TYPE_CHECKING:
    from agentlayers.cli.chat.replica_chat import SessionSummary

__all__ = ["list_sessions", "session_json"]

_COLUMNS = (
    Column("session", 36, is_whole=True), Column("messages", 8, is_number=True),
    Column("last activity", 20, is_whole=True), Column("project", 20), Column("title"),
)  # fmt: skip
_ID_CHARACTERS_MIN = 8
_PROJECT_CHARACTERS_MAX = 24


def list_sessions(
    directory: Directory,
    project: Annotated[
        str | None,
        typer.Option(help="Only sessions held in a directory with this in its path.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 for all.")] = 50,
    as_json: AsJson = False,
) -> None:
    """
    List the sessions of a replica, the one in which something happened last first.

    On a terminal ids are cut to as many characters as name a session alone.

    TITLE is what a session is called, or else how it began. PROJECT is known of sessions whose transcripts are here:
    imported ones, and those an agent was run in. Times are in UTC.

    For instance:

      agentlayers chat list ./replica --project myapp --limit 10
    """
    with open_chat(directory) as chat:
        every = chat.sessions()
    found = [summary for summary in every if project is None or project in summary.project]
    shown = found[: limit or None]
    if as_json:
        for summary in shown:
            show_json(session_json(summary))
        return
    cut = _characters([summary.session_id for summary in every]) if sys.stdout.isatty() else None
    if not show_table(_COLUMNS, (_row(summary, cut) for summary in shown)):
        typer.echo("no such sessions")
    if len(shown) < len(found):
        typer.echo(f"\nand {len(found) - len(shown):,} more: raise --limit")


def _row(summary: SessionSummary, cut: int | None) -> tuple[str, ...]:
    last, project = format_millis(summary.last_ms)[:19] + "Z", summary.project
    if cut is not None:
        last = last[:16].replace("T", " ")
        if len(project) > _PROJECT_CHARACTERS_MAX:
            project = "…" + project[1 - _PROJECT_CHARACTERS_MAX :]
    return summary.session_id[:cut], f"{summary.messages:,}", last, project, summary.title


def _characters(ids: list[str]) -> int:
    """Return how many first characters tell all sessions apart."""
    longest = max(map(len, ids), default=0)
    distinct = (
        number for number in range(_ID_CHARACTERS_MIN, longest) if len({one[:number] for one in ids}) == len(ids)
    )
    return next(distinct, max(longest, _ID_CHARACTERS_MIN))


def session_json(summary: SessionSummary) -> dict[str, Any]:
    """Return one session for ``--json``."""
    fields = asdict(summary)
    times = {"began": format_millis(fields.pop("began_ms")), "last_activity": format_millis(fields.pop("last_ms"))}
    return fields | times
