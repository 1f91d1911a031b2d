"""Arguments that several ``agentlayers journal`` commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentlayers.errors import SettingsError

__all__ = ["AsJson", "Directory", "Policy", "Stores", "readable_stores"]

Directory = Annotated[
    Path,
    typer.Argument(
        help="Directory of the replica, the one that holds journal.sqlite; or one journal file.", show_default=False
    ),
]
Stores = Annotated[
    list[str] | None,
    typer.Option("--store", help="Only this store, such as chat_history; may be repeated.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Policy = Annotated[
    str,
    typer.Option(
        help="Conflict policy of the application: last_write_wins, first_write_wins or reject.", metavar="NAME"
    ),
]


def readable_stores(directory: Path, names: list[str] | None) -> set[str] | None:
    """
    Return the stores to read, among them those that only the application knows.

    Raises:
        SettingsError: No file of the replica has a store of that name.
    """
    if not names:
        return None
    from agentlayers.storage.journal_file import journal_files
    from agentlayers.storage.replica_store import STORE_NAMES, with_parts
    from agentlayers.storage.snapshot import open_snapshot

    known = set(STORE_NAMES)
    for path in journal_files(directory):
        with open_snapshot(path) as snapshot:
            known |= set(snapshot.store_names.values())
    for name in names:
        if name not in known:
            raise SettingsError(setting="--store", value=name, expected=f"one of {', '.join(sorted(known))}")
    return {part for name in names for part in with_parts(name)}
