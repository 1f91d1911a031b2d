"""The short form of the sync benchmark runs: ours and the limit always, the stock peers where Node is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def report_of(*arguments: str) -> dict[str, Any]:
    script = Path(__file__).with_name("bench_sync.py")
    outcome = subprocess.run(
        [sys.executable, str(script), "--quick", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    report: dict[str, Any] = json.loads(outcome.stdout)
    return report


@pytest.mark.bench
def test_the_short_form_gives_figures_beside_the_bare_pipeline() -> None:
    report = report_of("--only", "throughput", "fan-out", "memory", "--peers", "agentlayers", "bare")

    assert {"agentlayers", "bare pipeline"} == set(report["A -> server -> B, 200 entries"])
    assert report["fan-out to 20, 1 in flight"]["agentlayers"]["deliveries/s"] > 0
    assert report["memory of the server"]["agentlayers"]["floods, 20 never read: entries/s"] > 0
    assert all(ratio > 0 for row in report["ratios"].values() for ratio in row.values())


@pytest.mark.bench
@pytest.mark.interop
def test_the_short_form_gives_figures_beside_a_stock_peer_that_can_be_had() -> None:
    report = report_of("--only", "throughput", "--peers", "agentlayers", "v4, memory")
    if report["stock_missing"] and len(report["ratios"]) == 0:
        pytest.skip(report["stock_missing"])

    assert report["ratios"]["A -> server -> B, 200 entries: end to end/s"]["Effect v4, memory"] > 0
