"""The demo, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "agentlayers", "demo", "--messages", "20"]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize("transport", ["websocket", "tcp"])
def test_the_demo_loses_nothing_and_converges_over(transport: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    outcome = run_demo("--json", "--transport", transport, "--keep", str(kept), "--seed", "7")

    assert outcome.returncode == 0, outcome.stderr + outcome.stdout
    report = json.loads(outcome.stdout)
    assert report["converged"] is True
    assert report["lost"] == 0
    assert report["plaintext_on_server"] is False
    assert [replica["missing"] for replica in report["replicas"]] == [0, 0]
    assert [replica["repeated"] for replica in report["replicas"]] == [0, 0]
    ended = [(process["name"], process["ended"]) for process in report["processes"]]
    assert ("server", "SIGKILL") in ended
    assert ("A", "SIGKILL") in ended
    assert all(how in {"SIGKILL", "exit 0"} for _, how in ended), ended
    assert report["acknowledged"] >= 20 * 7
    assert (kept / "acknowledged.jsonl").exists()


def test_the_demo_prints_tables_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    outcome = subprocess.run(DEMO, capture_output=True, text=True, timeout=110, check=False, env=environment)

    assert outcome.returncode == 0, outcome.stderr + outcome.stdout
    assert "0 lost, converged: yes" in outcome.stdout
    assert "\x1b" not in outcome.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_lost_an_entry_says_so_and_fails(tmp_path: Path) -> None:
    """Guard the guard: a report over files from which one entry was taken away must not be good."""
    import sqlite3

    from agentlayers.cli.demo.report import make_report
    from agentlayers.cli.demo.story import AcknowledgedLog, Story

    kept = tmp_path / "kept"
    assert run_demo("--keep", str(kept)).returncode == 0
    story = Story(directory=kept, transport="websocket", messages=20, seed=1, progress=lambda line: None)
    story.reopen()
    assert make_report(story, seconds=0).is_good
    with sqlite3.connect(kept / "replica-b" / "journal.sqlite") as database:
        database.execute("DELETE FROM entry WHERE position = (SELECT max(position) FROM entry)")
    database.close()

    report = make_report(story, seconds=0)

    assert not report.is_good
    assert report.lost == 1
    assert not report.converged
    assert isinstance(story.log, AcknowledgedLog)


def test_a_directory_with_files_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    outcome = run_demo("--keep", str(tmp_path))

    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: --keep: ")
    assert "Traceback" not in outcome.stderr
    assert (tmp_path / "precious").read_text() == "mine"
