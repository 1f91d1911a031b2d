"""The quick form of the runtime benchmark runs, and its hundred queries are recorded, synced and equal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.bench
def test_the_quick_form_gives_figures(tmp_path: Path) -> None:
    script = Path(__file__).with_name("bench_runtime.py")
    outcome = subprocess.run(
        [sys.executable, str(script), "--quick", "--json"],
        capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads(outcome.stdout)

    assert {"recorded: added", "recorded, strict: added", "one bare commit"} <= set(report["a message every 2 ms"])
    assert report["ten slots"]["scripted_queries_per_second"] > 0
    many = report["queries at once, recorded and synced"]
    assert (100, 500) == (many["queries"], many["messages"])
    assert [] == list(tmp_path.iterdir())
