"""``agentlayers demo``: the main job on one machine, with everything going wrong that can."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agentlayers.cli.exit_status import ExitStatus
from agentlayers.errors import SettingsError

__all__ = ["command"]


class DemoTransport(StrEnum):
    """How the replicas reach the server."""

    WEBSOCKET = "websocket"
    TCP = "tcp"


def command(
    transport: Annotated[
        DemoTransport, typer.Option(help="How the replicas reach the server.")
    ] = DemoTransport.WEBSOCKET,
    messages: Annotated[int, typer.Option(min=1, help="Appends of each replica in each phase.")] = 100,
    seed: Annotated[int, typer.Option(help="Moves the points at which processes are killed.")] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="Keep all files in this new directory, to look at them afterwards.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """
    Show that nothing is lost: a server and two replicas, killed and restarted while they work.

    Starts three processes on this machine. Replica A holds an agent conversation with tool calls that B follows live;
    both append to one session at once; B goes offline and comes back; the server and then A are killed with SIGKILL
    in the middle of their work and restarted.

    Afterwards every replica's files are read afresh and compared with what the replicas had acknowledged. The exit
    status is 0 only if no acknowledged entry is missing and all replicas hold the same. The digest is SHA-256 over the
    sorted (entry id, payload) pairs of everything that is synced.
    """
    from agentlayers.cli.demo.report import make_report
    from agentlayers.cli.demo.story import Story

    directory = _directory(keep)
    progress = Console(stderr=True)
    story = Story(
        directory=directory,
        transport=transport.value,
        messages=messages,
        seed=seed,
        progress=lambda line: progress.print(f"- {line}", highlight=False),
    )
    begun = time.monotonic()
    try:
        asyncio.run(story.play())
        report = make_report(story, seconds=time.monotonic() - begun)
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    if as_json:
        sys.stdout.write(json.dumps(report.to_json(), indent=2) + "\n")
    else:
        report.print(Console(width=None if sys.stdout.isatty() else 120))
    raise typer.Exit(ExitStatus.OK if report.is_good else ExitStatus.FAILED)


def _directory(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="agentlayers-demo-"))
    if keep.exists() and any(keep.iterdir()):
        raise SettingsError(setting="--keep", value=str(keep), expected="a directory that is new or empty")
    return keep
