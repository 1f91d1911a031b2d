"""``agentlayers status``: what a replica holds, and what its servers still lack, as its files say."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

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
    from agentlayers.cli.table import Column, show_table

    if as_json:
        typer.echo(json.dumps(state.as_json(), indent=2))
        return
    typer.echo(f"replica {state.replica} in {state.directory}")
    show_table([Column(name, width, is_number) for name, width, is_number in _COLUMNS], _rows(state))


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
    with Live(_table(state), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(_table(read_replica_state(directory)), refresh=True)


_COLUMNS: Final = (
    ("store", 14, False),
    ("entries", 9, True),
    ("pending", 9, True),
    ("server", 36, False),
    ("last contact", 25, False),
    ("trouble", 0, False),
)
"""Heading, usual width, and whether it holds numbers."""


def _rows(state: ReplicaState) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for store in state.stores:
        common = (store.store, f"{store.entries:,}")
        for remote in store.remotes:
            if remote.is_retired:
                continue
            last = remote.last_contact or "unknown"
            rows.append((*common, f"{remote.pending:,}", remote.url or remote.remote_id, last, _trouble(store)))
        if all(remote.is_retired for remote in store.remotes):
            rows.append(
                (*common, f"{store.unsent:,}" if not store.remotes else "-", "never synced", "", _trouble(store))
            )
    return rows


def _trouble(store: StoreSummary) -> str:
    parts = []
    if store.quarantined:
        parts.append(f"{store.quarantined:,} quarantined")
    if store.unapplied:
        parts.append(f"{store.unapplied:,} unapplied")
    return ", ".join(parts)


def _line(state: ReplicaState) -> str:
    parts = []
    for name, entries, pending, server, _, trouble in _rows(state):
        parts.append(f"{name} {entries} entries, {pending} pending for {server}" + (f", {trouble}" if trouble else ""))
    return "; ".join(parts) or "no stores yet"


def _table(state: ReplicaState) -> Table:
    from rich.table import Table

    from agentlayers.cli.table import one_line

    table = Table(title=f"replica {state.replica} in {state.directory}", title_justify="left")
    for heading, _, is_number in _COLUMNS:
        table.add_column(heading, justify="right" if is_number else "left")
    for row in _rows(state):
        table.add_row(*map(one_line, row))
    return table
