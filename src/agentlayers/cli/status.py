"""``agentlayers status``: what a replica holds, and what its servers still lack, as its files say."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentlayers.cli.table import Column

if TYPE_CHECKING:
    from rich.table import Table

    from agentlayers.cli.replica_state import ReplicaState, StoreSummary

__all__ = ["command"]

WATCH_SECONDS: Final = 1.0
"""Between two looks at the files with ``--watch``."""


def command(
    directory: Annotated[Path, typer.Argument(help="Directory of the replica, the one that holds journal.sqlite.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking, once a second, until stopped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object; with --watch a line each change.")] = False,
) -> None:
    """
    Show what a replica holds and what its servers have not acknowledged yet.

    Reads the files only, and changes nothing: an application may be using the directory, and a server need not be
    reachable. What is shown of a server is therefore what was true at the last contact.

    Stores without a server are those that were never synced. A pending entry is one that is to be sent to the server
    and that it is not known to have: it was written here, or came from another server and is relayed.
    """
    from agentlayers.cli.replica_state import read_replica_state

    state = read_replica_state(directory)
    if not watch:
        _show_once(state, as_json=as_json)
        return
    with contextlib.suppress(KeyboardInterrupt):
        _watch(directory, state, as_json=as_json)


def _show_once(state: ReplicaState, *, as_json: bool) -> None:
    from agentlayers.cli.table import show_table

    if as_json:
        typer.echo(json.dumps(state.as_json(), indent=2))
        return
    typer.echo(f"replica {state.replica} in {state.directory}")
    show_table(_COLUMNS, _rows(state, is_short=sys.stdout.isatty()))


def _watch(directory: Path, state: ReplicaState, *, as_json: bool) -> None:
    """Show the state: a live table on a terminal, else a line for each change."""
    from rich.console import Console
    from rich.live import Live

    from agentlayers.cli.replica_state import read_replica_state

    console = Console()
    if as_json or not console.is_terminal:
        shown: ReplicaState | None = None
        while True:
            if state != shown:
                typer.echo(json.dumps(state.as_json()) if as_json else _line(state))
                shown = state
            time.sleep(WATCH_SECONDS)
            state = read_replica_state(directory)
    with Live(_table(state, console.width), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(_table(read_replica_state(directory), console.width), refresh=True)


_COLUMNS: Final = (
    Column("store", 16),
    Column("entries", 9, is_number=True),
    Column("pending", 9, is_number=True),
    Column("server", 36),
    Column("last contact", 25),
    Column("trouble"),
)


def _rows(state: ReplicaState, *, is_short: bool = False) -> list[tuple[str, ...]]:
    """Return the cells of each store and server; ``is_short`` shows times as a clock does, not in full."""
    rows: list[tuple[str, ...]] = []
    for store in state.stores:
        common = (store.store, f"{store.entries:,}")
        for remote in store.remotes:
            if remote.is_retired:
                continue
            last = _clock(remote.last_contact, is_short=is_short)
            rows.append((*common, f"{remote.pending:,}", remote.url or remote.remote_id, last, _trouble(store)))
        if all(remote.is_retired for remote in store.remotes):
            rows.append(
                (*common, f"{store.unsent:,}" if not store.remotes else "-", "never synced", "", _trouble(store))
            )
    return rows


def _clock(contact: str | None, *, is_short: bool) -> str:
    if contact is None or not is_short:
        return contact or "unknown"
    from agentlayers.cli.live_table import short_time

    return short_time(datetime.fromisoformat(contact), datetime.now().astimezone())


def _trouble(store: StoreSummary) -> str:
    parts = []
    if store.quarantined:
        not_kept = f" and {store.not_kept:,} not kept" if store.not_kept else ""
        parts.append(f"{store.quarantined:,} quarantined{not_kept}")
    if store.unapplied:
        parts.append(f"{store.unapplied:,} unapplied")
    return ", ".join(parts)


def _line(state: ReplicaState) -> str:
    parts = []
    for name, entries, pending, server, _, trouble in _rows(state):
        parts.append(f"{name} {entries} entries, {pending} pending for {server}" + (f", {trouble}" if trouble else ""))
    return "; ".join(parts) or "no stores yet"


def _table(state: ReplicaState, width: int) -> Table:
    from agentlayers.cli.live_table import live_table

    rows = _rows(state, is_short=True)
    has_trouble = any(row[-1] for row in rows)
    return live_table(
        _COLUMNS,
        rows,
        width=width,
        title=f"replica {state.replica} in {state.directory}",
        dispensable=(*(() if has_trouble else ("trouble",)), "last contact", "server"),
        elastic=("server", "trouble"),
    )
