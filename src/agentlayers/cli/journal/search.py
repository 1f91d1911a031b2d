"""``agentlayers journal search``: entries by a text in their payload."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Stores, readable_stores
from agentlayers.cli.journal.list_ import entry_json
from agentlayers.cli.table import Column, format_millis, show_json, show_table
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.storage.search import Match

__all__ = ["search"]

_AROUND = 40
_COLUMNS = (
    Column("position", 8, is_number=True), Column("time", 24, is_whole=True), Column("store", 12), Column("event", 19),
    Column("field", 12), Column("text"),
)  # fmt: skip


def search(
    directory: Directory,
    text: Annotated[
        str, typer.Argument(help="What to look for; upper and lower case are the same.", show_default=False)
    ],
    store: Stores = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 for all.")] = 0,
    as_json: AsJson = False,
) -> None:
    """
    Find entries with a text anywhere in their payload, such as in a message or the output of a tool.

    Every entry is read, and matches are shown as they are found. The exit status is 1 if there is none.

    For instance:

      agentlayers journal search ./replica 'connection refused' --store chat_history
    """
    from agentlayers.storage.search import search_entries

    if not text:
        raise SettingsError(setting="TEXT", value=text, expected="at least one character")
    matches = search_entries(directory, text, stores=readable_stores(directory, store))
    found = islice(matches, limit or None)
    count = 0
    if as_json:
        for match in found:
            count += 1
            show_json(entry_json(match.stored) | {"field": match.field})
    else:
        count = show_table(_COLUMNS, map(_row, found))
    if not count:
        typer.echo("no entry has this text", err=True)
        raise typer.Exit(1)


def _row(match: Match) -> tuple[str, ...]:
    stored = match.stored
    time = format_millis(int.from_bytes(stored.entry.id[:6], "big"))
    start, end = max(0, match.start - _AROUND), match.end + _AROUND
    snippet = ("..." if start else "") + match.text[start:end] + ("..." if end < len(match.text) else "")
    return str(stored.position), time, stored.store, stored.entry.event, match.field, snippet
