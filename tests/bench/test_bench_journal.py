"""The short form of the journal benchmark runs, with or without the library it compares with."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.bench
def test_the_short_form_gives_figures_ratios_and_goals() -> None:
    script = Path(__file__).with_name("bench_journal.py")
    outcome = subprocess.run(
        [sys.executable, str(script), "--quick", "--json"], capture_output=True, text=True, timeout=100, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    contenders = {"agentlayers", "sqlite3"}
    if importlib.util.find_spec("eventsourcing"):
        contenders |= {"eventsourcing recorder", "eventsourcing application"}

    assert set(report["entries"]) == {"500", "2000"}
    for found in report["entries"].values():
        assert set(found) == contenders
        assert all(figures["single_per_second"] > 0 for figures in found.values())
    assert report["ratios"]["agentlayers / sqlite3, single"]["500"] > 0
    assert report["ours alone"]["append_longest_ms"] > 0
    assert {"single appends per second, least", "chat appends per second"} <= set(report["goals"])
