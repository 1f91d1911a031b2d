"""``agentlayers journal list``: the entries of a replica, one on a line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Stores, readable_stores
from agentlayers.cli.table import Column, format_bytes, format_millis, show_json, show_table
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.journal.entry import StoredEntry

__all__ = ["entry_json", "list_entries"]

_COLUMNS = (
    Column("position", 8, is_number=True), Column("time", 24, is_whole=True), Column("store", 12, is_whole=True),
    Column("event", 19, is_whole=True), Column("key", 24), Column("size", 9, is_number=True), Column("from", 6),
    Column("id", 32, is_whole=True),
)  # fmt: skip
_ID_DIGITS = 20
"""Digits of an id that are shown on a terminal: its time and its counter, which name an entry as a rule."""


def list_entries(
    directory: Directory,
    store: Stores = None,
    session: Annotated[str | None, typer.Option(help="Only entries of this session.", show_default=False)] = None,
    event: Annotated[
        str | None, typer.Option(help="Only entries of this event, such as tool_use.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Only entries written since: a duration such as '2 hours', or an instant such as 2026-11-23T06:00.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 for all.")] = 50,
    after: Annotated[
        int, typer.Option(min=0, help="Continue behind this local position, the first column of the last line.")
    ] = 0,
    newest: Annotated[bool, typer.Option("--newest", help="Begin with what came last and go back.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    List entries in the order in which they came to this replica.

    FROM says whether an entry was written here or received from a remote. With --json there is one object on each
    line, with the decoded payload.

    For instance:

      agentlayers journal list ./replica --store chat_history --newest --limit 10

      agentlayers journal list ./replica --event tool_use --since '1 day' --json
    """
    wanted = readable_stores(directory, store)
    since_ms = 0 if since is None else _since(since)

    def is_wanted(stored: StoredEntry) -> bool:
        from agentlayers.journal.entry_id import entry_id_millis

        return (
            (wanted is None or stored.store in wanted)
            and (event is None or stored.entry.event == event)
            and (not since_ms or entry_id_millis(stored.entry.id) >= since_ms)
            and (session is None or _session_of(stored) == session)
        )

    listing = _Listing(directory, is_wanted, after, limit, newest_first=newest)
    if as_json:
        for stored in listing:
            show_json(entry_json(stored))
        return
    if not show_table(_COLUMNS, map(_row, listing)):
        typer.echo("no such entries")
    if listing.more:
        typer.echo(f"\nmore: --after {listing.more}" if not newest else "\nmore: raise --limit")


class _Listing:
    """The entries that are listed; afterwards ``more`` says behind which position there are others."""

    def __init__(
        self,
        directory: Path,
        is_wanted: Callable[[StoredEntry], bool],
        after: int,
        limit: int,
        *,
        newest_first: bool,
    ) -> None:
        self._directory, self._is_wanted, self._after, self._limit = directory, is_wanted, after, limit
        self._newest_first = newest_first
        self.more = 0

    def __iter__(self) -> Iterator[StoredEntry]:
        from agentlayers.storage.journal_file import journal_files
        from agentlayers.storage.snapshot import open_snapshot

        paths = journal_files(self._directory)
        if self._after and len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise SettingsError(setting="--after", value=self._after, expected=f"DIRECTORY to be one of {names}")
        count = 0
        for path in paths:
            with open_snapshot(path) as snapshot:
                last = 0
                for stored in snapshot.entries(after=self._after, newest_first=self._newest_first):
                    if not self._is_wanted(stored):
                        continue
                    if count == self._limit and self._limit:
                        self.more = last
                        return
                    count, last = count + 1, stored.position
                    yield stored


def _since(text: str) -> int:
    from agentlayers.settings import parse_seconds

    try:
        return int((time.time() - parse_seconds(text)) * 1000)
    except SettingsError:
        pass
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        expected = "a duration such as '2 hours' or an instant such as 2026-11-23T06:00 (UTC if no zone is given)"
        raise SettingsError(setting="--since", value=text, expected=expected) from None
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)


def _session_of(stored: StoredEntry) -> str:
    from agentlayers.storage.payload_field import peek_text

    return peek_text(stored.entry.payload, "sessionId")


def _row(stored: StoredEntry) -> tuple[str, ...]:
    from agentlayers.journal.entry_id import entry_id_millis

    entry, entry_id, time_text = stored.entry, stored.entry.id.hex(), format_millis(entry_id_millis(stored.entry.id))
    if sys.stdout.isatty():
        entry_id, time_text = entry_id[:_ID_DIGITS], time_text[:19]
    return (
        str(stored.position), time_text, stored.store, entry.event, entry.primary_key,
        format_bytes(len(entry.payload)), "here" if stored.is_local else "remote", entry_id,
    )  # fmt: skip


def entry_json(stored: StoredEntry) -> dict[str, Any]:
    """Return one entry for ``--json``."""
    from agentlayers.journal.entry_id import entry_id_millis
    from agentlayers.storage.export import json_of
    from agentlayers.storage.inspection import readable_payload

    entry = stored.entry
    return {
        "position": stored.position,
        "time": format_millis(entry_id_millis(entry.id)),
        "store": stored.store,
        "event": entry.event,
        "primary_key": entry.primary_key,
        "bytes": len(entry.payload),
        "local": stored.is_local,
        "applied": stored.is_applied,
        "id": entry.id.hex(),
        "payload": json_of(readable_payload(entry.payload)),
    }
