"""``agentlayers journal import``: take an export over into a replica."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentlayers.cli.journal.arguments import AsJson, Policy, Stores
from agentlayers.cli.journal.further_stores import App, further_stores
from agentlayers.cli.journal.secret import identity_secret, passphrase_secret
from agentlayers.cli.progress import progress_bar
from agentlayers.cli.table import Column, show_json, show_table

if TYPE_CHECKING:
    from agentlayers.storage.import_ import ImportReport
    from agentlayers.storage.sealed_export import ExportSecret

__all__ = ["import_file"]

_COLUMNS = (
    Column("store", 12, is_whole=True), Column("imported", 8, is_number=True), Column("here already", is_number=True),
    Column("compacted here", is_number=True), Column("quarantined", is_number=True),
    Column("unapplied", is_number=True),
)  # fmt: skip


def import_file(
    directory: Annotated[Path, typer.Argument(help="Directory of the replica; made if missing.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="An export, sealed or not.", show_default=False)],
    store: Stores = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of a sealed export.", show_default=False)
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="Identity file of a sealed export. (default: the replica's)", show_default=False),
    ] = None,
    policy: Policy = "last_write_wins",
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """
    Take over what an export holds and this replica does not.

    Entries keep their ids, so importing a file twice changes nothing. What is new counts as written here: it is sent to
    every remote, which knows what it has. What was compacted here does not come back; what is too old to tell is
    quarantined. The whole file is checked first, so one that is damaged changes nothing. Safe beside a running replica.

    Entries of a store that an application declares are kept UNAPPLIED until the application opens the store; give --app
    to have them applied now.

    A passphrase is taken from --passphrase-file, from AGENTLAYERS_PASSPHRASE, or asked for.

    For instance:

      agentlayers journal import ./restored backup.jsonl --identity ./identity-of-the-backup
    """
    from agentlayers.storage.import_ import import_export
    from agentlayers.storage.replica_store import policy_named, with_parts

    stores = [part for name in dict.fromkeys(store) for part in with_parts(name)] if store else None
    further = further_stores(app)
    secret = _secret(directory, file, identity, passphrase_file)
    with progress_bar("importing", 2 * file.stat().st_size if file.is_file() else None, in_bytes=True) as advance:
        work = import_export(
            directory,
            file,
            stores=stores,
            secret=secret,
            policy=policy_named(policy),
            progress=advance,
            further=further,
        )
        report = asyncio.run(work)
    _show(report, as_json=as_json)


def _secret(directory: Path, file: Path, identity: Path | None, passphrase_file: Path | None) -> ExportSecret | None:
    from agentlayers.storage.import_ import read_export_header
    from agentlayers.storage.sealed_export import SEALED_FORMAT

    header = read_export_header(file)
    if header["format"] != SEALED_FORMAT:
        return None
    if header.get("key") == "passphrase":
        return passphrase_secret(passphrase_file, is_new=False)
    return identity_secret(directory, identity)


def _show(report: ImportReport, *, as_json: bool) -> None:
    if as_json:
        stores = {
            name: {"imported": one.imported, "known": one.known, "compacted": one.compacted}
            | {"quarantined": one.quarantined, "unapplied": one.unapplied}
            for name, one in report.stores.items()
        }
        show_json({"replica": report.replica, "stores": stores}, indent=2)
        return
    rows = (
        (name, *map(str, (one.imported, one.known, one.compacted, one.quarantined, one.unapplied)))
        for name, one in report.stores.items()
    )
    if not show_table(_COLUMNS, rows):
        typer.echo("the export has no entries")
