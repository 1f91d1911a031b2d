"""``agentlayers journal rebuild``: make read models again what the entries say."""

from __future__ import annotations

import asyncio

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Policy
from agentlayers.cli.journal.further_stores import App, further_stores
from agentlayers.cli.journal.verify import count_entries
from agentlayers.cli.progress import progress_bar
from agentlayers.cli.table import one_line, show_json

__all__ = ["rebuild"]


def rebuild(directory: Directory, policy: Policy = "last_write_wins", app: App = None, as_json: AsJson = False) -> None:
    """
    Replay all entries and repair what was made of them where it differs.

    On a replica that is whole nothing is written, and the digest of its read models is the same before and after. Safe
    beside a running replica. The index of sessions is only added to: sessions that have messages or artifacts are
    listed again, also those that were taken out of the index on purpose.

    Stores that an application declares are left alone, which is told, because only the application knows what it makes
    of their entries: give it with --app, or let it call the store's rebuild().
    """
    from agentlayers.storage.rebuild import rebuild as rebuild_replica
    from agentlayers.storage.replica_store import policy_named

    further = further_stores(app)
    with progress_bar("replaying", count_entries(directory)) as advance:
        files = asyncio.run(rebuild_replica(directory, policy=policy_named(policy), progress=advance, further=further))
    if as_json:
        rows = [
            {"file": str(file.path), "entries": file.entries, "repaired": file.repaired, "before": file.before}
            | {"after": file.after, "unreadable": file.unreadable, "skipped_stores": list(file.skipped)}
            for file in files
        ]
        show_json({"files": rows}, indent=2)
        return
    for file in files:
        what = f"{file.repaired} rows repaired" if file.repaired else "nothing to repair"
        typer.echo(f"{file.path.name}: {file.entries} entries replayed, {what}")
        typer.echo(f"  read models before {file.before}\n              after  {file.after}")
        if file.unreadable:
            typer.echo(f"  {file.unreadable} entries cannot be read; see 'journal verify'")
        for name in file.skipped:
            typer.echo(one_line(f"  left alone: {name}, because its events are not known here; see --app"))
