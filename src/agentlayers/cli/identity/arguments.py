"""Where an identity is, and what ``agentlayers identity`` may show of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.table import show_fields

if TYPE_CHECKING:
    from agentlayers.eventlog.identity import Identity

__all__ = ["Place", "identity_json", "identity_path", "public_keys", "show_identity"]

STORES = ("chat_history", "artifacts", "audit_log")

Place = Annotated[
    Path,
    typer.Argument(
        metavar="DIRECTORY|FILE",
        help="An existing directory of a replica, whose file 'identity' is meant; or a file.",
        show_default=False,
    ),
]


def identity_path(place: Path) -> Path:
    """Return the file that is meant: ``identity`` in a directory, or the file itself."""
    return place / "identity" if place.is_dir() else place


def public_keys(identity: Identity) -> dict[str, str]:
    """Return the public key of each store that is synced."""
    return {store: identity.for_store(store).public_key for store in STORES}


def show_identity(path: Path, identity: Identity) -> None:
    """Print what may be seen: where it is, and the public keys."""
    fields = [("file", str(path)), ("identity", identity.public_key)]
    show_fields([*fields, *public_keys(identity).items()])


def identity_json(path: Path, identity: Identity) -> dict[str, Any]:
    """Return what may be seen for ``--json``."""
    return {
        "file": str(path),
        "public_key": identity.public_key,
        "stores": public_keys(identity),
        "given_stores": sorted(identity.stores),
    }
