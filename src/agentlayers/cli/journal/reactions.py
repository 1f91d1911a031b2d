"""``agentlayers journal reactions``: what applications do after entries are committed, and how far they have got."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Stores, readable_stores
from agentlayers.cli.table import Column, show_json, show_table
from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.journal.consumer import Consumer
    from agentlayers.journal.transaction import JournalTransaction
    from agentlayers.storage.snapshot import JournalSnapshot

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List the reactions of a replica's applications, or forget one.")

_COLUMNS = (
    Column("reaction", 20), Column("store", 12), Column("waiting", is_number=True), Column("set aside", is_number=True),
    Column("place", is_number=True), Column("events"),
)  # fmt: skip


class _Found(NamedTuple):
    consumer: Consumer
    waiting: int
    set_aside: int


@app.command("list")
def list_reactions(directory: Directory, store: Stores = None, as_json: AsJson = False) -> None:
    """
    List reactions with the entries each has yet to handle, and those it gave up on.

    Compaction leaves what a reaction has yet to handle. With --json there is one object on each line.
    """
    wanted = readable_stores(directory, store)
    found = (one for _path, one in _reactions(directory) if wanted is None or one.consumer.store in wanted)
    if as_json:
        for one in found:
            consumer = one.consumer
            show_json(
                {
                    "reaction": consumer.name,
                    "store": consumer.store,
                    "events": sorted(consumer.events),
                    "position": consumer.position,
                    "waiting": one.waiting,
                    "set_aside": one.set_aside,
                }
            )
        return
    if not show_table(_COLUMNS, map(_row, found)):
        typer.echo("no reactions")


@app.command("forget")
def forget(
    directory: Directory,
    reaction: Annotated[str, typer.Argument(help="Name of the reaction.", show_default=False)],
    store: Stores = None,
) -> None:
    """
    Give up on a reaction: compaction no longer keeps entries for it.

    For one that no application runs any more. If one does after all, it is a new reaction and begins anew.

    For instance:

      agentlayers journal reactions forget ./replica announce --store tasks
    """
    wanted = readable_stores(directory, store)
    known = [(path, one) for path, one in _reactions(directory) if wanted is None or one.consumer.store in wanted]
    matching = [(path, one) for path, one in known if one.consumer.name == reaction]
    if len({one.consumer.store for _path, one in matching}) != 1:
        names = ", ".join(f"{one.consumer.name} (--store {one.consumer.store})" for _path, one in matching or known)
        raise SettingsError(setting="REACTION", value=reaction, expected=f"one of {names or 'none: there are none'}")
    for path, one in matching:
        asyncio.run(_forget(path, one.consumer))
        typer.echo(f"{one.consumer.store}: forgot {reaction}")


def _reactions(directory: Path) -> Iterator[tuple[Path, _Found]]:
    from agentlayers.journal.consumer import consumers_of, set_aside_of
    from agentlayers.storage.journal_file import journal_files
    from agentlayers.storage.snapshot import open_snapshot

    for path in journal_files(directory):
        with open_snapshot(path) as snapshot:
            for name in snapshot.store_names.values():
                for consumer in consumers_of(snapshot.tx, name):
                    aside = len(set_aside_of(snapshot.tx, name, consumer.name))
                    yield path, _Found(consumer, _waiting(snapshot, consumer), aside)


def _waiting(snapshot: JournalSnapshot, consumer: Consumer) -> int:
    query = "SELECT event, count(*) FROM entry WHERE store = ? AND position > ? GROUP BY event"
    number = snapshot.tx.store_number(consumer.store)
    counts: dict[str, int] = dict(snapshot.connection.execute(query, (number, consumer.position)))
    return sum(count for event, count in counts.items() if not consumer.events or event in consumer.events)


def _row(found: _Found) -> tuple[str, ...]:
    consumer = found.consumer
    events = ", ".join(sorted(consumer.events)) or "all"
    return consumer.name, consumer.store, str(found.waiting), str(found.set_aside), str(consumer.position), events


async def _forget(path: Path, consumer: Consumer) -> None:
    from agentlayers.journal.sqlite import SQLiteJournal

    async with SQLiteJournal(path) as journal:
        await journal.transact(partial(_forget_in, consumer=consumer))


def _forget_in(tx: JournalTransaction, *, consumer: Consumer) -> None:
    from agentlayers.journal.consumer import forget_consumer

    forget_consumer(tx, consumer.store, consumer.name)
