"""``agentlayers journal remotes``: whom a replica was synced with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Stores, readable_stores
from agentlayers.cli.journal.stats import REMOTE_COLUMNS, remote_json, remote_row
from agentlayers.cli.table import show_json, show_table
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.journal.transaction import JournalTransaction
    from agentlayers.storage.statistics import StoreRemote

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List the remotes of a replica, or forget one.")


@app.command("list")
def list_remotes(directory: Directory, store: Stores = None, as_json: AsJson = False) -> None:
    """
    List the remotes each store was synced with: how far it was read, and what it has not acknowledged.

    A retired remote no longer holds compaction back. With --json there is one object on each line.
    """
    wanted = readable_stores(directory, store)
    found = (item for _path, item in _remotes(directory) if wanted is None or item.store in wanted)
    if as_json:
        for item in found:
            show_json(remote_json(item))
        return
    if not show_table(REMOTE_COLUMNS, map(remote_row, found)):
        typer.echo("never synced")


@app.command("forget")
def forget(
    directory: Directory,
    remote: Annotated[
        str, typer.Argument(help="Id of the remote, its first digits, or its address.", show_default=False)
    ],
    store: Stores = None,
) -> None:
    """
    Give up on a remote: compaction no longer keeps entries for it.

    For a server that is gone for good. What it never got stays here until compaction drops it. If it is met again after
    all, it is a remote as any other.

    For instance:

      agentlayers journal remotes forget ./replica ws://old-server:8787/event-log
    """
    wanted = readable_stores(directory, store)
    matching = [
        (path, item)
        for path, item in _remotes(directory)
        if (wanted is None or item.store in wanted)
        and (item.remote.url == remote or item.remote.remote_id.hex().startswith(remote.lower()))
    ]
    _check(remote, {item.remote.remote_id for _path, item in matching}, directory)
    for path, item in matching:
        asyncio.run(_retire(path, item))
        typer.echo(f"{item.store}: forgot {item.remote.remote_id.hex()} ({item.remote.url or 'address unknown'})")


def _check(wanted: str, ids: set[bytes], directory: Path) -> None:
    if ids and (len(ids) == 1 or "://" in wanted):
        return
    known = sorted(ids or {item.remote.remote_id for _path, item in _remotes(directory)})
    names = ", ".join(remote_id.hex() for remote_id in known) or "none: this replica was never synced"
    raise SettingsError(setting="REMOTE", value=wanted, expected=f"one of {names}")


def _remotes(directory: Path) -> Iterator[tuple[Path, StoreRemote]]:
    from agentlayers.storage.journal_file import journal_files
    from agentlayers.storage.snapshot import open_snapshot
    from agentlayers.storage.statistics import StoreRemote

    for path in journal_files(directory):
        with open_snapshot(path) as snapshot:
            for name in snapshot.store_names.values():
                for remote in snapshot.tx.remotes(name):
                    yield path, StoreRemote(name, remote)


async def _retire(path: Path, item: StoreRemote) -> None:
    from agentlayers.journal.sqlite import SQLiteJournal

    async with SQLiteJournal(path) as journal:
        await journal.transact(partial(_retire_in, item=item))


def _retire_in(tx: JournalTransaction, *, item: StoreRemote) -> None:
    tx.retire_remote(item.store, item.remote.remote_id)
