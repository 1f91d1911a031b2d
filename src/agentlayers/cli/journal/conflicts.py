"""``agentlayers journal conflicts``: keys with several versions that nothing supersedes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Policy, Stores, readable_stores
from agentlayers.cli.journal.show import version_json
from agentlayers.cli.table import Column, format_millis, show_json, show_table

if TYPE_CHECKING:
    from agentlayers.journal.causality import Conflict
    from agentlayers.journal.conflict_policy import ConflictPolicy

__all__ = ["conflicts"]

_COLUMNS = (
    Column("store", 9), Column("key", 24), Column("version", 32, is_whole=True), Column("written", 24, is_whole=True),
    Column("by", 16), Column("state"),
)  # fmt: skip


def conflicts(
    directory: Directory, store: Stores = None, policy: Policy = "last_write_wins", as_json: AsJson = False
) -> None:
    """
    List open conflicts: what was changed in two places at once, with all versions and the one that is shown. Versions
    that say the same are none.

    The next write of a key settles its conflict. With --json there is one object on each line.
    """
    from agentlayers.storage.replica_store import policy_named

    found = _conflicts(directory, readable_stores(directory, store), policy_named(policy))
    if as_json:
        for conflict in found:
            show_json(_json(conflict))
        return
    if not show_table(_COLUMNS, (row for conflict in found for row in _rows(conflict))):
        typer.echo("no open conflicts")


def _conflicts(directory: Path, stores: set[str] | None, policy: ConflictPolicy) -> Iterator[Conflict]:
    from agentlayers.storage.journal_file import journal_files
    from agentlayers.storage.snapshot import open_snapshot

    for path in journal_files(directory):
        with open_snapshot(path, policy=policy) as snapshot:
            for name in snapshot.known_stores:
                if stores is None or name in stores:
                    yield from snapshot.tx.conflicts(name)


def _rows(conflict: Conflict) -> Iterator[tuple[str, ...]]:
    winner = None if conflict.resolution is None else conflict.resolution.winner
    for version in conflict.heads:
        words = ["shown"] if version.id == winner else ["kept"]
        if version.is_deletion:
            words.append("deletion")
        written = format_millis(int.from_bytes(version.id[:6], "big"))
        yield conflict.store, conflict.primary_key, version.id.hex(), written, version.replica, ", ".join(words)


def _json(conflict: Conflict) -> dict[str, Any]:
    from agentlayers.storage.export import json_of

    resolution = conflict.resolution
    return {
        "store": conflict.store,
        "primary_key": conflict.primary_key,
        "outcome": None if resolution is None else str(resolution.outcome),
        "winner": None if resolution is None or resolution.winner is None else resolution.winner.hex(),
        "versions": [version_json(one) | {"value": json_of(one.value)} for one in conflict.heads],
    }
