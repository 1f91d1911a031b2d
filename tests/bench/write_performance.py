"""
Measure sync and write the tables of ``docs/explanation/performance.md`` anew: the one command for a quiet machine.

    python tests/bench/write_performance.py [--runs 3] [--quick] [--from FIGURES.json] [--keep FIGURES.json]

What stands between the markers of the page is replaced; the text around it is not. With ``--quick`` the tables go to
standard output instead, because figures of little work belong in no page.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- figures: written by tests/bench/write_performance.py -->\n", "<!-- end of figures -->\n"
NOT_PARTS = ("cpus", "load_before", "runs", "stock_missing", "ratios", "goals", "unfinished")


def run(script: str, *options: str) -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, str(HERE / script), "--json", *options], stdout=subprocess.PIPE, text=True, check=True
    )
    report: dict[str, Any] = json.loads(found.stdout)
    return report


def measure(runs: int, *, quick: bool) -> dict[str, Any]:
    short = ["--short"] if quick else []
    stages = run("bench_stages.py", *short)
    sync = run("bench_sync.py", "--runs", str(runs), *short)
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}, {platform.system()}",
        "stages": stages,
        "sync": sync,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def tables(figures: dict[str, Any]) -> str:
    """Write everything as Markdown."""
    sync, stages = figures["sync"], figures["stages"]
    when = f"Measured on {figures['date']}: {figures['machine']}"
    text = [f"{when}; medians of {sync['runs']} runs; 1-minute load before: {sync['load_before']:.1f}."]
    if sync["stock_missing"]:
        text.append(f"Without stock peers: {sync['stock_missing']}")
    text += ["", "### Goals", "", "| what | measured | wanted |", "| --- | ---: | --- |"]
    text += [f"| {name} | {number(value)} | {wanted} |" for name, (value, wanted) in sync["goals"].items()]
    for name, part in sync.items():
        if name not in NOT_PARTS:
            text += ["", f"### {name[0].upper()}{name[1:]}", "", *table(part)]
            text += reasons(sync["unfinished"].get(name, {}))
    text += ["", f"### One entry, stage by stage, in batches of {stages['batch']}", ""]
    text += ["| where | stage | CPU µs | waits µs |", "| --- | --- | ---: | ---: |"]
    text += [
        f"| {row['place']} | {row['stage']} | {row['cpu_us']:.2f} | {row['wait_us']:.2f} |" for row in stages["stages"]
    ]
    return "\n".join([*text, ""])


def table(part: dict[str, dict[str, float]]) -> list[str]:
    keys = list(dict.fromkeys(key for figures in part.values() for key in figures))
    rows = [[name, *(number(figures[key]) if key in figures else "" for key in keys)] for name, figures in part.items()]
    return [
        "| " + " | ".join(["", *keys]) + " |",
        "| " + " | ".join(["---", *["---:"] * len(keys)]) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def reasons(unfinished: dict[str, str]) -> list[str]:
    """Say who has no row, and why."""
    lines = [f"* {name}: {reason.splitlines()[0]}" for name, reason in unfinished.items()]
    return ["", *lines] if lines else []


def number(value: float) -> str:
    """
    Round for reading.

    >>> number(12345.6), number(0.456)
    ('12,346', '0.46')

    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def replaced(page: str, text: str) -> str:
    """Put text between the markers of a page."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="report medians of so many")
    parser.add_argument("--quick", action="store_true", help="little work, and the page stays as it is")
    parser.add_argument("--from", dest="source", type=Path, help="write the figures of an earlier --keep")
    parser.add_argument("--keep", type=Path, help="write the raw figures to a file, too")
    arguments = parser.parse_args()
    if arguments.source:
        figures = json.loads(arguments.source.read_text(encoding="utf-8"))
    else:
        figures = measure(1 if arguments.quick else arguments.runs, quick=arguments.quick)
    if arguments.keep:
        arguments.keep.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    text = tables(figures)
    if arguments.quick:
        print(text)
        return
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
