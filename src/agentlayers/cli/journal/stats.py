"""``agentlayers journal stats``: what a replica holds, in numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory
from agentlayers.cli.table import Column, format_bytes, format_millis, show_json, show_table

if TYPE_CHECKING:
    from agentlayers.storage.statistics import FileStatistics, StoreRemote, StoreStatistics

__all__ = ["REMOTE_COLUMNS", "remote_json", "remote_row", "stats"]

_STORES = (
    Column("store", 12, is_whole=True), Column("entries", 8, is_number=True), Column("payloads", 9, is_number=True),
    Column("local", is_number=True), Column("sessions", is_number=True), Column("unapplied", is_number=True),
    Column("quarantined", is_number=True), Column("conflicts", is_number=True), Column("compacted", is_number=True),
    Column("newest", 24, is_whole=True),
)  # fmt: skip
REMOTE_COLUMNS = (
    Column("store", 12, is_whole=True), Column("remote", 32), Column("cursor", is_number=True),
    Column("pending", is_number=True), Column("relayed", is_number=True), Column("state"), Column("address"),
)  # fmt: skip


def stats(directory: Directory, as_json: AsJson = False) -> None:
    """
    Show how much a replica holds, whom it was synced with, and what went wrong.

    PAYLOADS is the size of what was written; LOCAL counts entries written here, the rest was received;
    COMPACTED counts ids that are remembered so that they do not come back. The CURSOR of a remote is the first of its
    sequence numbers not read yet; PENDING counts entries to be sent that it is not known to have, of which RELAYED came
    from other remotes.

    For instance:

      agentlayers journal stats ./replica

      agentlayers journal stats ./replica --json | jq '.files[].remotes[].pending'
    """
    from agentlayers.storage.statistics import journal_statistics

    files = journal_statistics(directory)
    if as_json:
        show_json({"files": [_file_json(file) for file in files]}, indent=2)
        return
    for number, file in enumerate(files):
        _show(file, is_first=number == 0)


def _show(file: FileStatistics, *, is_first: bool) -> None:
    wal = f" + {format_bytes(file.wal_bytes)} not yet moved into it" if file.wal_bytes else ""
    free = f", {format_bytes(file.free_bytes)} of it free" if file.free_bytes else ""
    typer.echo("" if is_first else "\n", nl=False)
    typer.echo(f"{file.path.name}: {format_bytes(file.bytes)}{wal}{free}; schema version {file.schema_version}")
    typer.echo(f"replica {file.replica_id}\n")
    if not show_table(_STORES, map(_store_row, file.stores)):
        typer.echo("no entries yet")
    if file.remotes:
        typer.echo("")
        show_table(REMOTE_COLUMNS, map(remote_row, file.remotes))
    for text in _troubles(file):
        typer.echo(text)


def _store_row(store: StoreStatistics) -> tuple[str, ...]:
    newest = format_millis(int.from_bytes(store.newest_id[:6], "big")) if store.newest_id else "-"
    if sys.stdout.isatty():
        newest = newest[:16]
    sessions = "?" if store.sessions is None else str(store.sessions)
    return (
        store.name, str(store.entries), format_bytes(store.payload_bytes), str(store.local), sessions,
        str(len(store.unapplied) + store.waiting), str(len(store.quarantined)), str(store.conflicts),
        str(store.compacted), newest,
    )  # fmt: skip


def remote_row(item: StoreRemote) -> tuple[str, ...]:
    """Return one remote of one store for a table."""
    remote = item.remote
    state = "retired" if remote.is_retired else "current"
    relayed = str(remote.state.relayed) if remote.relays else "-"
    numbers = str(remote.state.next_sequence), str(remote.state.pending), relayed
    return item.store, remote.remote_id.hex(), *numbers, state, remote.url or "?"


def _troubles(file: FileStatistics) -> Iterator[str]:
    from agentlayers.cli.table import one_line

    for store in file.stores:
        for one in store.unapplied:
            where = f"{store.name} {one.stored.entry.id.hex()}"
            yield one_line(f"unapplied: {where}: {one.error} (tried {one.attempts} times)")
        if store.waiting:
            what = f"{store.waiting} entries are kept until an application that knows their events opens the store"
            yield one_line(f"unapplied: {store.name}: {what}")
        for kept in store.quarantined:
            yield one_line(f"quarantined: {store.name} {kept.id.hex()}: {kept.reason}")
        if store.not_kept:
            what = f"{store.not_kept} more were not kept; what another key may open is read again then"
            yield one_line(f"quarantined: {store.name}: {what}")


def _file_json(file: FileStatistics) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "bytes": file.bytes,
        "wal_bytes": file.wal_bytes,
        "free_bytes": file.free_bytes,
        "schema_version": file.schema_version,
        "replica": file.replica_id,
        "stores": [_store_json(store) for store in file.stores],
        "remotes": [remote_json(item) for item in file.remotes],
    }


def _store_json(store: StoreStatistics) -> dict[str, Any]:
    return {
        "store": store.name,
        "entries": store.entries,
        "local": store.local,
        "payload_bytes": store.payload_bytes,
        "oldest": store.oldest_id.hex() or None,
        "newest": store.newest_id.hex() or None,
        "sessions": store.sessions,
        "conflicts": store.conflicts,
        "compacted": store.compacted,
        "waiting": store.waiting,
        "unapplied": [
            {"id": one.stored.entry.id.hex(), "error": one.error, "attempts": one.attempts} for one in store.unapplied
        ],
        "quarantined": [
            {"id": one.id.hex(), "remote": one.remote_id.hex(), "sequence": one.sequence, "reason": one.reason}
            for one in store.quarantined
        ],
        "not_kept": store.not_kept,
    }


def remote_json(item: StoreRemote) -> dict[str, Any]:
    """Return one remote of one store for ``--json``."""
    remote = item.remote
    return {
        "store": item.store,
        "remote": remote.remote_id.hex(),
        "url": remote.url,
        "retired": remote.is_retired,
        "cursor": remote.state.next_sequence,
        "pending": remote.state.pending,
        "relayed": remote.state.relayed,
        "relays": remote.relays,
        "incarnation": remote.state.incarnation.hex(),
    }
