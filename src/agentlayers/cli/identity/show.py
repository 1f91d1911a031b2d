"""``agentlayers identity show``: the public keys of one."""

from __future__ import annotations

from typing import Annotated

import typer

from agentlayers.cli.identity.arguments import Place, identity_json, identity_path, show_identity
from agentlayers.cli.table import show_json

__all__ = ["show"]


def show(
    place: Place,
    secret: Annotated[
        bool, typer.Option("--secret", help="Print the secret too: whoever sees it can read everything.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """
    Show the public key of each store, by which a server keeps its journal.

    Two replicas share a store if they show the same key for it.
    """
    from agentlayers.eventlog.identity import Identity

    path = identity_path(place)
    identity = Identity.load(path)
    if as_json:
        shown = {"secret": identity.encode_string()} if secret else {}
        show_json(identity_json(path, identity) | shown, indent=2)
        return
    show_identity(path, identity)
    if secret:
        typer.echo(f"secret        {identity.encode_string()}")
