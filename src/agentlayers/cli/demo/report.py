"""
What the demo's files say when all processes have ended.

Nothing here trusts what a replica said of itself: every directory is read afresh with the code of
``agentlayers journal export``, and compared with the parent's log of acknowledged entries.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agentlayers.cli.demo.story import Story
from agentlayers.storage.digest import digest_of
from agentlayers.storage.export import read_entries

__all__ = ["Report", "make_report"]


@dataclass(frozen=True, slots=True)
class ReplicaFindings:
    """One replica's directory as read after the end."""

    name: str
    directory: str
    entries: int
    missing: int
    repeated: int
    digest: str


@dataclass(frozen=True, slots=True)
class Report:
    """
    The outcome.

    Attributes:
        converged: All replicas hold the same synced entries (equal digests).
        lost: Acknowledged entries that at least one replica does not hold.
        plaintext_on_server: Whether a message's text was found in the server's files.
    """

    converged: bool
    lost: int
    acknowledged: int
    seconds: float
    replicas: list[ReplicaFindings]
    plaintext_on_server: bool
    latency_ms: dict[str, float]
    story: Story

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing twice, everything equal, nothing readable on the server."""
        return (
            self.converged
            and self.lost == 0
            and not self.plaintext_on_server
            and not any(replica.repeated for replica in self.replicas)
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``--json`` prints it."""
        return {
            "converged": self.converged,
            "lost": self.lost,
            "acknowledged": self.acknowledged,
            "plaintext_on_server": self.plaintext_on_server,
            "seconds": round(self.seconds, 3),
            "transport": self.story.transport,
            "seed": self.story.seed,
            "messages": self.story.messages,
            "latency_ms": self.latency_ms,
            "replicas": [asdict(replica) for replica in self.replicas],
            "phases": [asdict(phase) for phase in self.story.phases],
            "processes": [asdict(process) for process in self.story.processes],
        }

    def print(self, console: Console) -> None:
        """Print the report as tables."""
        console.print(self._phases())
        console.print(self._processes())
        console.print(self._replicas())
        verdict = "nothing was lost and all replicas are equal" if self.is_good else "SOMETHING IS WRONG, see above"
        console.print(
            f"{self.acknowledged} acknowledged entries, {self.lost} lost, converged: {_yes_no(self.converged)}, "
            f"readable on the server: {_yes_no(self.plaintext_on_server)}; {self.seconds:.1f} s: {verdict}"
        )

    def _phases(self) -> Table:
        table = Table("phase", "acknowledged", "seconds", "note", title=f"agentlayers demo over {self.story.transport}")
        for phase in self.story.phases:
            table.add_row(phase.name, str(phase.acknowledged), f"{phase.seconds:.2f}", phase.note)
        if self.latency_ms:
            shown = ", ".join(f"{name} {value:g} ms" for name, value in self.latency_ms.items())
            table.caption = f"from durable on one replica to durable on the other, while nothing failed: {shown}"
        return table

    def _processes(self) -> Table:
        table = Table("process", "pid", "ended by")
        for process in self.story.processes:
            table.add_row(process.name, str(process.pid), process.ended)
        return table

    def _replicas(self) -> Table:
        table = Table("replica", "synced entries", "missing", "twice", "digest")
        for replica in self.replicas:
            counts = (str(replica.entries), str(replica.missing), str(replica.repeated))
            table.add_row(replica.name, *counts, replica.digest)
        return table


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def make_report(story: Story, *, seconds: float) -> Report:
    """Read every directory afresh and compare it with the parent's log."""
    acknowledged = set(story.log.entries)
    replicas = []
    missing: set[str] = set()
    for name, directory in story.replicas.items():
        entries = list(read_entries(directory))
        held = [entry.entry.id.hex() for entry in entries]
        missing |= acknowledged - set(held)
        digest = digest_of((entry.entry.id, entry.entry.payload) for entry in entries)
        replicas.append(
            ReplicaFindings(
                name=name,
                directory=str(directory),
                entries=digest.entries,
                missing=len(acknowledged - set(held)),
                repeated=len(held) - len(set(held)),
                digest=digest.hex,
            )
        )
    return Report(
        converged=len({replica.digest for replica in replicas}) == 1,
        lost=len(missing),
        acknowledged=len(acknowledged),
        seconds=seconds,
        replicas=replicas,
        plaintext_on_server=_holds_text(story.server_directory, b"of replica A"),
        latency_ms=_latency(story.log.latencies),
        story=story,
    )


def _latency(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    quantiles = statistics.quantiles(seconds, n=100)
    return {"p50": round(quantiles[49] * 1000, 1), "p90": round(quantiles[89] * 1000, 1)}


def _holds_text(directory: Path, text: bytes) -> bool:
    return any(text in path.read_bytes() for path in directory.rglob("*") if path.is_file())
