"""'What sync costs': its code runs, and its tables can be written anew without touching the text."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")

FIGURES = {
    "date": "2026-11-23",
    "machine": "2 cores",
    "stages": {"batch": 512, "stages": [{"place": "A", "stage": "seal", "cpu_us": 1.141, "wait_us": 0.0}]},
    "sync": {
        "runs": 3,
        "load_before": 0.1,
        "stock_missing": "",
        "goals": {"fan-out: deliveries/s": [123456.7, ">= 80,000"]},
        "fan-out": {"agentlayers": {"deliveries/s": 123456.7}, "bare pipeline": {"peak MB server": 45.13}},
        "unfinished": {"fan-out": {"Effect v4, memory": "not finished in 180 s\nand its log"}},
    },
}


@pytest.fixture
def script() -> ModuleType:
    path = ROOT / "tests" / "bench" / "write_performance.py"
    spec = importlib.util.spec_from_file_location("write_performance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_code_of_the_page_runs(block: str) -> None:
    outcome = subprocess.run([sys.executable, "-W", "error", "-c", block], capture_output=True, text=True, check=False)

    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_the_tables_are_replaced_and_the_text_stays(script: ModuleType) -> None:
    text = script.tables(FIGURES)
    page = script.replaced(script.replaced(PAGE, "old"), text)

    assert page.count(text) == 1
    assert "| agentlayers | 123,457 |  |" in page
    assert "| bare pipeline |  | 45.1 |" in page
    assert "* Effect v4, memory: not finished in 180 s\n" in page
    assert page.split(script.BEGIN)[0] == PAGE.split(script.BEGIN)[0]
    assert page.split(script.END)[1] == PAGE.split(script.END)[1]
