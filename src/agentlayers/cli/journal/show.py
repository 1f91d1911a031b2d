"""``agentlayers journal show``: everything about one entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Policy
from agentlayers.cli.journal.list_ import entry_json
from agentlayers.cli.table import Column, format_millis, printable, show_fields, show_json, show_table

if TYPE_CHECKING:
    from agentlayers.journal.conflict_policy import Version
    from agentlayers.storage.inspection import EntryDetails, RemoteCopy, VersionState

__all__ = ["show"]

_VERSIONS = (
    Column("version", 32, is_whole=True), Column("written", 24, is_whole=True), Column("event", 16), Column("by", 16),
    Column("state"),
)  # fmt: skip
_REMOTES = (Column("remote", 32, is_whole=True), Column("state", 15), Column("address"))


def show(
    directory: Directory,
    entry: Annotated[
        str,
        typer.Argument(metavar="ENTRY", help="Id of the entry, its first digits, or @POSITION.", show_default=False),
    ],
    store: Annotated[
        str | None, typer.Option(help="The store, where two have an entry of this id.", show_default=False)
    ] = None,
    policy: Policy = "last_write_wins",
    as_json: AsJson = False,
) -> None:
    """
    Show one entry: what it says, what it had seen, the versions of its key, and which remotes have it.

    A version BY "?" was written by a peer that tells nothing of what it had seen. "head" is a version that no other one
    supersedes; "shown" the one the conflict policy chooses among them.

    For instance:

      agentlayers journal show ./replica @17

      agentlayers journal show ./replica 01a2074ee69c --json
    """
    from agentlayers.storage.inspection import inspect_entry
    from agentlayers.storage.replica_store import policy_named

    details = inspect_entry(directory, entry, store=store, policy=policy_named(policy))
    if as_json:
        show_json(_json(details), indent=2)
        return
    show_fields(_fields(details))
    typer.echo("\npayload")
    fields = entry_json(details.stored)["payload"]
    typer.echo(printable(json.dumps(fields, ensure_ascii=False, indent=2)))
    if details.versions:
        typer.echo("")
        show_table(_VERSIONS, map(_version_row, details.versions))
    if details.remotes:
        typer.echo("")
        show_table(_REMOTES, map(_remote_row, details.remotes))


def _fields(details: EntryDetails) -> Iterator[tuple[str, str]]:
    stored, entry = details.stored, details.stored.entry
    yield "id", entry.id.hex()
    yield "time", _time(entry.id)
    yield "store", stored.store
    yield "event", entry.event
    yield "key", entry.primary_key
    yield "position", f"{stored.position} in {details.path.name}"
    yield "written", "here" if stored.is_local else "elsewhere, and received"
    yield "synced", "yes" if details.is_synced else "no, a local observation"
    yield "read model", "up to date" if stored.is_applied else f"unapplied: {details.error}"
    yield "payload", f"{len(entry.payload)} bytes" + ("" if details.payload is not None else ", not readable")
    own = next((one.version for one in details.versions if one.version.id == entry.id), None)
    if own is not None:
        yield "replica", own.replica
        for replica, seen in sorted(own.seen.items()):
            yield "had seen", f"{seen.hex()} by {replica}"


def _version_row(one: VersionState) -> tuple[str, ...]:
    version = one.version
    return version.id.hex(), _time(version.id), version.event, version.replica, _state(one)


def _state(one: VersionState) -> str:
    words = ["head" if one.is_head else "superseded"]
    if one.is_shown:
        words.append("shown")
    if one.version.is_deletion:
        words.append("deletion")
    return ", ".join(words)


def _remote_row(copy: RemoteCopy) -> tuple[str, ...]:
    return copy.remote_id.hex(), copy.state + (" (retired)" if copy.is_retired else ""), copy.url or "?"


def _time(entry_id: bytes) -> str:
    return format_millis(int.from_bytes(entry_id[:6], "big"))


def _json(details: EntryDetails) -> dict[str, Any]:
    resolution = details.resolution
    return entry_json(details.stored) | {
        "file": str(details.path),
        "synced": details.is_synced,
        "error": details.error or None,
        "versions": [
            version_json(one.version) | {"head": one.is_head, "shown": one.is_shown} for one in details.versions
        ],
        "outcome": None if resolution is None else str(resolution.outcome),
        "remotes": [
            {"remote": one.remote_id.hex(), "url": one.url, "retired": one.is_retired, "state": one.state}
            for one in details.remotes
        ],
    }


def version_json(version: Version) -> dict[str, Any]:
    """Return one version of a key for ``--json``, without its value."""
    return {
        "id": version.id.hex(),
        "time": _time(version.id),
        "event": version.event,
        "replica": version.replica,
        "seen": {replica: entry_id.hex() for replica, entry_id in sorted(version.seen.items())},
        "deletion": version.is_deletion,
    }
