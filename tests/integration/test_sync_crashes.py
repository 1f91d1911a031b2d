"""Servers and replicas that are killed at random moments while they sync lose nothing, and hold nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "helpers" / "sync_crash.py"


def crash(scratch: Path, kills: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), str(scratch), str(kills), *arguments]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def long(*values: object) -> object:
    return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.timeout(900)])


@pytest.mark.parametrize(("kills", "seed"), [(8, 1), long(150, 2)])
@pytest.mark.parametrize("mode", ["", "rewind", "shared"])
def test_two_servers_and_three_replicas_lose_nothing_whoever_is_killed(
    tmp_path: Path, kills: int, seed: int, mode: str
) -> None:
    """They relay, compact, disconnect and send entries in chunks meanwhile; a server may come back as it once was."""
    outcome = crash(tmp_path / "scratch", kills, str(seed), mode)
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    report = json.loads(outcome.stdout.splitlines()[-1])

    assert sum(report["killed"].values()) >= kills
    assert report["durable"] > 10 * kills


@pytest.mark.slow
def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """What was sent is taken for acknowledged."""
    outcome = crash(tmp_path / "scratch", 25, "7", "fault")

    assert outcome.returncode == 1
    assert "AssertionError: " in outcome.stderr
