"""``agentlayers journal compact``: drop old entries of a replica."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Policy, Stores, readable_stores
from agentlayers.cli.journal.further_stores import App, further_stores
from agentlayers.cli.progress import spinner
from agentlayers.cli.table import Column, format_bytes, one_line, show_json, show_table
from agentlayers.errors import ConfigurationError, SettingsError

if TYPE_CHECKING:
    from agentlayers.journal.compaction import CompactionStrategy
    from agentlayers.storage.compaction_run import CompactedFile

__all__ = ["compact"]

_COLUMNS = (
    Column("store", 12, is_whole=True), Column("before", 8, is_number=True), Column("after", 8, is_number=True),
    Column("dropped", 8, is_number=True), Column("held back", is_number=True), Column("events"),
)  # fmt: skip


def compact(
    directory: Directory,
    older_than: Annotated[
        str | None, typer.Option(help="Drop what is older, such as '30 days'.", show_default=False)
    ] = None,
    keep_count: Annotated[
        int | None, typer.Option(min=0, help="Keep only so many entries of each session.", show_default=False)
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(help="Keep the newest of each session up to a size, such as '500 MB'.", show_default=False),
    ] = None,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Drop versions that a later one supersedes; nothing visible changes.")
    ] = False,
    store: Stores = None,
    policy: Policy = "last_write_wins",
    app: App = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be dropped, tried on a temporary copy; change nothing.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Drop also what no server has, without being asked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Drop old entries of a replica for good, with what was made of them. Others keep theirs.

    Several conditions together keep only what meets them all. In the audit log, counts and sizes apply to the whole
    log. What a current remote has not acknowledged is HELD BACK; 'journal remotes forget' gives up on a remote. What
    was dropped does not come back by sync or import. Safe beside a running replica.

    A store that never met a server has nowhere else what is dropped of it: this is asked about first, and refused where
    nobody can answer, unless --yes is given. Syncing first gives a server what it is to have.

    Left alone, which is told: stores that an application declares, unless it is given with --app, and agent_sessions,
    because a transcript without its beginning cannot be resumed.

    For instance:

      agentlayers journal compact ./replica --older-than '30 days' --dry-run

      agentlayers journal compact ./replica --store chat_history --keep-count 1000
    """
    from agentlayers.storage.compaction_run import compact_replica, only_here
    from agentlayers.storage.replica_store import policy_named

    strategy, further = _strategy(older_than, keep_count, max_size, superseded), further_stores(app)
    stores = readable_stores(directory, store)
    is_wanted = as_json or dry_run or not yes
    alone = only_here(directory, strategy, stores=stores, further=further) if is_wanted else {}
    if alone and not dry_run and not yes:
        _ask(directory, alone, is_silent=as_json)
    with spinner("trying on a copy" if dry_run else "compacting") as tell:
        files = asyncio.run(
            compact_replica(
                directory,
                strategy,
                stores=stores,
                policy=policy_named(policy),
                dry_run=dry_run,
                progress=tell,
                further=further,
            )
        )
    if as_json:
        show_json({"dry_run": dry_run, "only_here": alone, "files": [_json(file) for file in files]}, indent=2)
        return
    if alone and dry_run:
        typer.echo(f"{_told(alone)}; without --dry-run this is asked about, or needs --yes")
    for file in files:
        show_table(_COLUMNS, _rows(file))
        for name, why in file.skipped.items():
            typer.echo(one_line(f"left alone: {name}, because {why}"))
        would = "would go" if dry_run else "went"
        sizes = f"{format_bytes(file.bytes_before)} to {format_bytes(file.bytes_after)}"
        typer.echo(f"{file.path.name} {would} from {sizes}")


def _ask(directory: Path, alone: Mapping[str, int], *, is_silent: bool) -> None:
    """Let the operator say that what no server has may go."""
    if is_silent or not sys.stdin.isatty():
        sync = f"agentlayers sync {shlex.quote(str(directory))} --to URL"
        raise ConfigurationError(f"{_told(alone)}; sync first ({sync}), or say --yes")
    typer.confirm(f"{_told(alone)}. Drop it for good?", abort=True, err=True)


def _told(alone: Mapping[str, int]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in alone.items())
    return one_line(f"no server has what is to be dropped (entries: {counts})")


def _strategy(
    older_than: str | None, keep_count: int | None, max_size: str | None, superseded: bool
) -> CompactionStrategy:
    from agentlayers.journal.compaction import ByAge, ByCount, ByKey, BySize, Composite
    from agentlayers.settings import parse_bytes, parse_seconds

    strategies: list[CompactionStrategy] = []
    if older_than is not None:
        strategies.append(ByAge(parse_seconds(older_than, setting="--older-than")))
    if superseded:
        strategies.append(ByKey())
    if keep_count is not None:
        strategies.append(ByCount(keep_count))
    if max_size is not None:
        strategies.append(BySize(parse_bytes(max_size, setting="--max-size")))
    if not strategies:
        expected = "at least one of --older-than, --keep-count, --max-size and --superseded"
        raise SettingsError(setting="what to keep", value="nothing said", expected=expected)
    return Composite(*strategies)


def _rows(file: CompactedFile) -> Iterator[tuple[str, ...]]:
    for name, report in file.stores.items():
        numbers = report.before, report.after, report.dropped, report.held_back
        yield name, *map(str, numbers), ", ".join(report.events)


def _json(file: CompactedFile) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "bytes_before": file.bytes_before,
        "bytes_after": file.bytes_after,
        "stores": {
            name: {
                "before": report.before,
                "after": report.after,
                "dropped": report.dropped,
                "held_back": report.held_back,
                "events": list(report.events),
            }
            for name, report in file.stores.items()
        },
        "skipped_stores": file.skipped,
    }
