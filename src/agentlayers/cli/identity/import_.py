"""``agentlayers identity import``: take one over from another replica."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentlayers.cli.identity.arguments import STORES, Place, identity_path, show_identity
from agentlayers.errors import IdentityError, SettingsError
from agentlayers.limits import IDENTITY_FILE_BYTES_MAX

if TYPE_CHECKING:
    from agentlayers.eventlog.identity import Identity

__all__ = ["import_identity"]


def import_identity(
    place: Place,
    source: Annotated[
        Path,
        typer.Argument(
            help="File with an identity, or with the string of Effect's Identity.encodeString; - for standard input.",
            show_default=False,
        ),
    ] = Path("-"),
    for_store: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="STORE=FILE",
            help="Use the identity in FILE for one store, such as one shared with TypeScript; may be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Write an identity that comes from elsewhere to a file that only its owner can read.

    A file that exists is never overwritten. The secret is read from a file or from standard input, never from the
    command line, where others could see it.

    For instance:

      agentlayers identity import ./replica ./from-the-other-machine

      ssh other agentlayers identity export ./replica --print | agentlayers identity import ./replica
    """
    path, identity = identity_path(place), _with_stores(_read(source), for_store or [])
    identity.save(path)
    show_identity(path, identity)


def _read(source: Path) -> Identity:
    from agentlayers.eventlog.identity import Identity

    if str(source) != "-":
        return Identity.load(source)
    if sys.stdin.isatty():
        return Identity.decode_string(typer.prompt("identity", hide_input=True, err=True))
    text = sys.stdin.read(IDENTITY_FILE_BYTES_MAX + 1)
    if len(text) > IDENTITY_FILE_BYTES_MAX:
        raise IdentityError(f"standard input: longer than {IDENTITY_FILE_BYTES_MAX} bytes, so no identity")
    return Identity.decode_string(text)


def _with_stores(identity: Identity, given: list[str]) -> Identity:
    from agentlayers.eventlog.identity import Identity

    stores = dict(identity.stores)
    for item in given:
        name, _, file = item.partition("=")
        if name not in STORES or not file:
            raise SettingsError(setting="--for", value=item, expected=f"STORE=FILE with one of {', '.join(STORES)}")
        stores[name] = Identity.load(file)
    return Identity(identity.public_key, identity.private_key, stores)
