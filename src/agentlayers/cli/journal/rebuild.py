"""``agentlayers journal rebuild``: make read models again what the entries say."""

from __future__ import annotations

import asyncio

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Policy
from agentlayers.cli.journal.verify import count_entries
from agentlayers.cli.progress import progress_bar
from agentlayers.cli.table import show_json

__all__ = ["rebuild"]


def rebuild(directory: Directory, policy: Policy = "last_write_wins", as_json: AsJson = False) -> None:
    """
    Replay all entries and repair what was made of them where it differs.

    On a replica that is whole nothing is written, and the digest of its read models is the same before and after. Safe
    beside a running replica. The index of sessions is only added to: sessions that have messages or artifacts are
    listed again, also those that were taken out of the index on purpose.
    """
    from agentlayers.storage.rebuild import rebuild as rebuild_replica
    from agentlayers.storage.replica_store import policy_named

    with progress_bar("replaying", count_entries(directory)) as advance:
        files = asyncio.run(rebuild_replica(directory, policy=policy_named(policy), progress=advance))
    if as_json:
        rows = [
            {"file": str(file.path), "entries": file.entries, "repaired": file.repaired, "before": file.before}
            | {"after": file.after, "unreadable": file.unreadable}
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
