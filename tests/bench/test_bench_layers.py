"""The short form of the layers benchmark runs, whichever libraries are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.bench
def test_the_short_form_gives_figures_for_ours_and_for_what_is_installed() -> None:
    script = Path(__file__).with_name("bench_layers.py")
    outcome = subprocess.run(
        [sys.executable, str(script), "--short", "--json"], capture_output=True, text=True, timeout=100, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads(outcome.stdout)

    assert {"agentlayers get", "agentlayers scope", "dependency-injector sync"} <= set(report["libraries"])
    assert all(figures["request_k_per_s"] > 0 for figures in report["libraries"].values())
    assert report["chain"]["start_ms"] > 0
    assert {"chain of 400, start and stop, ms", "import, beyond dependency-injector, ms"} <= set(report["goals"])
