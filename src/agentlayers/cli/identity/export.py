"""``agentlayers identity export``: carry one to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentlayers.cli.identity.arguments import Place, identity_path
from agentlayers.errors import SettingsError

__all__ = ["export"]


def export(
    place: Place,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="New file, which only its owner can read.", show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Only the keys of one store, for a replica that shall share nothing else.", show_default=False
        ),
    ] = None,
    to_stdout: Annotated[
        bool, typer.Option("--print", help="Print it to standard output: whoever sees it can read everything.")
    ] = False,
) -> None:
    """
    Write an identity, secret included, as the string that 'identity import' and Effect's Identity.decodeString read.

    It goes to a new file with --output, or to standard output if you ask for that with --print.
    """
    from agentlayers.eventlog.identity import Identity

    if (output is None) == (not to_stdout):
        expected = "either --output FILE or --print, so that the secret is never shown by accident"
        raise SettingsError(setting="where to", value="both" if to_stdout else "nothing said", expected=expected)
    identity = Identity.load(identity_path(place))
    if store is not None:
        identity = identity.for_store(_known(store))
    if output is None:
        typer.echo(identity.encode_string())
        return
    identity.save(output)
    typer.echo(f"wrote {output}")


def _known(store: str) -> str:
    from agentlayers.cli.identity.arguments import STORES

    if store not in STORES:
        raise SettingsError(setting="--store", value=store, expected=f"one of {', '.join(STORES)}")
    return store
