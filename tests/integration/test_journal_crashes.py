"""A replica that is killed at random moments loses nothing it acknowledged, and keeps nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.journal_crash import FAULTS

PROGRAM = Path(__file__).parents[1] / "helpers" / "journal_crash.py"
EVERYTHING = {"open", "append0", "batch", "receive", "acknowledge", "compact", "import", "rebuild"}


def crash(scratch: Path, kills: int, *fault: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), str(scratch), str(kills), *fault]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def journal_verify(directory: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "agentlayers", "journal", "verify", str(directory), "--json"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    report: dict[str, Any] = json.loads(outcome.stdout)
    return report


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice(tmp_path: Path, kills: int) -> None:
    """Checked after every kill: entries, read models, heads, texts, cursors and what is pending."""
    outcome = crash(tmp_path / "scratch", kills)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    report = json.loads(outcome.stdout)
    verified = journal_verify(tmp_path / "scratch" / "replica")

    assert report["under_way"]["kills"] == kills
    assert report["durable"] > 10 * kills
    assert verified["good"]
    assert verified["findings"] == []
    if kills > 100:
        # A kind of work that was never hit would not have been tested.
        assert set(report["under_way"]) >= EVERYTHING


@pytest.mark.parametrize(
    "fault", [fault if fault == "early" else pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS]
)
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    outcome = crash(tmp_path / "scratch", 80, fault)

    assert outcome.returncode == 1
    assert "AssertionError: " in outcome.stderr
