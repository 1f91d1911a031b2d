"""``agentlayers journal verify``: is a replica whole?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from agentlayers.cli.journal.arguments import AsJson, Directory, Policy
from agentlayers.cli.journal.further_stores import App, further_stores
from agentlayers.cli.progress import progress_bar
from agentlayers.cli.table import one_line, show_json

if TYPE_CHECKING:
    from agentlayers.storage.verify import VerifyReport

__all__ = ["verify"]


def verify(directory: Directory, policy: Policy = "last_write_wins", app: App = None, as_json: AsJson = False) -> None:
    """
    Check that a replica's files are whole and that its read models are what its entries say.

    Checks the database files, every entry, the heads of every key, and the read models against a replay of all
    entries; changes nothing. The exit status is 1 if something is wrong, which is told; notes are no fault. The digest
    at the end is equal on replicas that hold the same. 'journal rebuild' repairs read models and heads; for a damaged
    file there is a backup, or the server.

    Of a store that an application declares the entries and heads are checked; give the application with --app to have
    its read models checked as well.
    """
    from agentlayers.storage.replica_store import policy_named
    from agentlayers.storage.verify import verify as verify_replica

    further = further_stores(app)
    with progress_bar("verifying", count_entries(directory)) as advance:
        report = verify_replica(
            directory,
            policy=policy_named(policy),
            progress=advance,
            now_ms=int(time.time() * 1000),
            further=further,
        )
    if as_json:
        show_json(_json(report), indent=2)
    else:
        _show(report)
    if not report.is_good:
        raise typer.Exit(1)


def count_entries(directory: Path) -> int | None:
    """Return how many entries a replica holds; :obj:`None` if that cannot be told."""
    from agentlayers.errors import AgentLayersError
    from agentlayers.storage.journal_file import journal_files
    from agentlayers.storage.snapshot import open_snapshot

    count = 0
    try:
        for path in journal_files(directory):
            with open_snapshot(path) as snapshot:
                count += snapshot.connection.execute("SELECT count(*) FROM entry").fetchone()[0]
    except AgentLayersError:
        return None
    return count


def _show(report: VerifyReport) -> None:
    for finding in report.findings:
        typer.echo(one_line(f"{finding.severity}: {finding.file}: {finding.check}: {finding.text}"))
    for file in report.files:
        typer.echo(f"{file.path.name}: {file.entries} entries; read models {file.read_models or 'not checked'}")
    if report.digest.hex:
        typer.echo(f"{report.digest.entries} synced entries; digest {report.digest.hex}")
    faults = sum(finding.severity == "fault" for finding in report.findings)
    typer.echo("good" if report.is_good else f"not good: {faults} faults")


def _json(report: VerifyReport) -> dict[str, Any]:
    return {
        "good": report.is_good,
        "digest": report.digest.hex or None,
        "synced_entries": report.digest.entries,
        "files": [
            {"file": str(file.path), "entries": file.entries, "read_models": file.read_models or None}
            | {"skipped_stores": list(file.skipped)}
            for file in report.files
        ],
        "findings": [
            {"severity": one.severity, "file": one.file, "check": one.check, "text": one.text}
            for one in report.findings
        ],
    }
