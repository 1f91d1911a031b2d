"""``agentlayers journal compact`` drops nothing unasked that no server has."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from helpers.store_replica import open_replica

REMOTE = b"r" * 16


def compact(directory: Path, *arguments: str, keep: str = "2") -> subprocess.CompletedProcess[str]:
    """Run the command where nobody can answer."""
    command = [sys.executable, "-m", "agentlayers", "journal", "compact", str(directory), "--keep-count", keep]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def answered(directory: Path, answer: str) -> tuple[int, str]:
    """Run the command with a terminal to answer at."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        command = [sys.executable, "-m", "agentlayers", "journal", "compact", str(directory), "--keep-count", "2"]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stderr


async def _fill(directory: Path, *, met: bool) -> None:
    Identity.load_or_create(directory / "identity")
    async with open_replica(SQLiteJournal(directory, durability="normal")) as replica:
        if met:
            await replica.meet_remote("chat_history", REMOTE)
        for number in range(5):
            await replica.chat.append("s", {"text": str(number)})


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    """Five messages of one session, never sent anywhere."""
    asyncio.run(_fill(tmp_path / "replica", met=False))
    return tmp_path / "replica"


def chat(directory: Path) -> Any:
    """What a compaction that keeps all says of the chat history."""
    return json.loads(compact(directory, "--json", keep="9").stdout)["files"][0]["stores"]["chat_history"]


def test_where_nobody_can_answer_it_stops_before_anything_is_dropped(replica: Path) -> None:
    refused = compact(replica)

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr == (
        "error: no server has what is to be dropped (entries: chat_history 3); "
        f"sync first (agentlayers sync {replica} --to URL), or say --yes\n"
    )
    assert compact(replica, "--json").returncode == 2
    assert chat(replica)["before"] == 5


def test_a_trial_tells_and_yes_drops(replica: Path) -> None:
    trial, done = compact(replica, "--dry-run"), compact(replica, "--yes", "--json")

    assert trial.stdout.startswith("no server has what is to be dropped (entries: chat_history 3); without --dry-run")
    assert trial.returncode == done.returncode == 0
    assert json.loads(done.stdout)["only_here"] == {"chat_history": 3}
    assert chat(replica)["before"] == 2


@pytest.mark.parametrize(("answer", "status", "left"), [("n", 1, 5), ("", 1, 5), ("y", 0, 2)])
def test_at_a_terminal_it_asks(replica: Path, answer: str, status: int, left: int) -> None:
    code, said = answered(replica, answer)

    assert code == status
    assert "chat_history 3). Drop it for good? [y/N]" in said
    assert chat(replica)["before"] == left


def test_nothing_is_asked_where_nothing_goes_or_a_server_was_met(replica: Path, tmp_path: Path) -> None:
    asyncio.run(_fill(tmp_path / "met", met=True))
    nothing, held = compact(replica, "--json", keep="5"), compact(tmp_path / "met", "--json")

    assert (nothing.returncode, held.returncode) == (0, 0)
    assert json.loads(nothing.stdout)["only_here"] == json.loads(held.stdout)["only_here"] == {}
    assert json.loads(held.stdout)["files"][0]["stores"]["chat_history"]["held_back"] == 3
