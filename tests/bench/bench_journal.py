"""
The journal on disk beside bare ``sqlite3`` and the library ``eventsourcing``, at several sizes, all equally durable.

    python tests/bench/bench_journal.py [--entries 1000,100000,1000000] [--rounds N] [--quick] [--json]

Each contender has a process of its own for every measurement; rounds are interleaved and medians are shown. What is not
installed (extra ``bench``) is left out and named. The full run fills three files with a million entries: it takes some
minutes and 2 GB of disk. Figures depend on the disk; ratios within one run are what to compare.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("journal_contenders.py")
OURS, BARE = "agentlayers", "sqlite3"
RECORDER, APPLICATION = "eventsourcing recorder", "eventsourcing application"
SHARES_FILE_OF = {APPLICATION: RECORDER}
SINGLE, BATCHED = "single_per_second", "batched_per_second"

Figures = dict[str, float]


class Bench:
    """Runs the contenders in a scratch directory."""

    def __init__(self, root: Path, *, scale: int) -> None:
        self.root, self.scale = root, scale
        self.names = [OURS, BARE]
        self.skipped: list[str] = []
        peers = self.names if importlib.util.find_spec("eventsourcing") else self.skipped
        peers += [RECORDER, APPLICATION]

    def run(self, name: str, action: str, directory: str, **arguments: int) -> Figures:
        """Run one action of one contender to its end."""
        # What was written before must not be on its way to the disk while something else is measured.
        os.sync()
        command = [sys.executable, str(CHILD), name, action, str(self.root / directory), json.dumps(arguments)]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        if outcome.returncode:
            sys.stderr.write(outcome.stderr)
            raise SystemExit(f"{name}: {action} failed")
        figures: Figures = json.loads(outcome.stdout.splitlines()[-1])
        return figures

    def at_size(self, entries: int, rounds: int) -> dict[str, Figures]:
        """Return each contender's figures at one size."""
        for name in self.names:
            if name not in SHARES_FILE_OF:
                self.run(name, "fill", f"{name}-{entries}", entries=entries)
        runs: dict[str, list[Figures]] = {name: [] for name in self.names}
        for _ in range(rounds):
            for name in self.names:
                directory = f"{SHARES_FILE_OF.get(name, name)}-{entries}"
                figures = self.run(name, "measure", directory, singles=3000 // self.scale, batches=300 // self.scale)
                runs[name].append(figures)
        return {name: medians(each) for name, each in runs.items()}

    def others(self, entries: int) -> Figures:
        """Return what only ours does: chat, compaction and conflicts."""
        versions = 10_000 // self.scale
        chat = self.run(OURS, "chat", "chat", messages=3000 // self.scale)
        compaction = self.run(OURS, "compact", f"{OURS}-{entries}", keep=entries // 2)
        few = self.run(OURS, "conflicts", "few", versions=versions, replicas=10)
        many = self.run(OURS, "conflicts", "many", versions=versions, replicas=versions)
        conflicts = {f"10_replicas_{key}": value for key, value in few.items()}
        conflicts |= {f"{versions}_replicas_{key}": value for key, value in many.items()}
        return chat | compaction | conflicts


def medians(runs: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def ratios(sizes: dict[int, dict[str, Figures]]) -> dict[str, Figures]:
    """Return ours divided by each other's, per size."""
    return {
        f"{OURS} / {name}, {kind.partition('_')[0]}": {
            str(size): found[OURS][kind] / found[name][kind] for size, found in sizes.items()
        }
        for name in next(iter(sizes.values()))
        if name != OURS
        for kind in (SINGLE, BATCHED)
    }


def goals(sizes: dict[int, dict[str, Figures]], others: Figures) -> dict[str, Figures]:
    """Return where ours stands: the figure and its goal."""
    ours = {size: found[OURS] for size, found in sizes.items()}
    small, large = min(ours), max(ours)
    middle = sorted(ours)[-2] if len(ours) > 1 else large
    return {
        "single appends per second, least": at_least(3000, (each[SINGLE] for each in ours.values())),
        f"single at {large} / at {small}": at_least(0.8, [ours[large][SINGLE] / ours[small][SINGLE]]),
        "batched appends per second, least": at_least(20_000, (each[BATCHED] for each in ours.values())),
        f"batched at {large} / at {middle}": at_least(0.5, [ours[large][BATCHED] / ours[middle][BATCHED]]),
        f"opening at {large}, ms": {"value": ours[large]["open_ms"], "at most": 1000},
        f"memory at {large} beyond {small}, MB": {
            "value": ours[large]["peak_mb"] - ours[small]["peak_mb"],
            "at most": 30,
        },
        "chat appends per second": at_least(2000, [others["chat_per_second"]]),
    }


def at_least(goal: float, values: Iterable[float]) -> Figures:
    """Return the lowest of the values beside its goal."""
    return {"value": min(values), "at least": goal}


def show(report: dict[str, dict[str, Figures]], sizes: dict[int, dict[str, Figures]]) -> None:
    """Print tables."""
    for size, found in sizes.items():
        print(f"{size:,} entries")
        for name, figures in found.items():
            print(f"  {name:26}" + "  ".join(f"{key} {value:,.1f}" for key, value in figures.items()))
    for part in ("ours alone", "ratios"):
        print(f"\n{part}")
        for name, value in report[part].items():
            shown = value if isinstance(value, dict) else {"": value}
            print(f"  {name:46}" + "  ".join(f"{key} {figure:,.2f}" for key, figure in shown.items()))
    print()
    for name, goal in report["goals"].items():
        bound, limit = next((key, value) for key, value in goal.items() if key != "value")
        is_met = goal["value"] >= limit if bound == "at least" else goal["value"] <= limit
        print(f"{'ok ' if is_met else 'NO '} {name}: {goal['value']:,.2f} ({bound} {limit:,g})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="", help="sizes, ascending (1000,100000,1000000; 500,2000 with --quick)")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work, to see that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = arguments.entries or ("500,2000" if arguments.quick else "1000,100000,1000000")
    entries = [int(each) for each in chosen.split(",")]
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    root = Path(tempfile.mkdtemp(prefix="agentlayers-bench-"))
    try:
        bench = Bench(root, scale=20 if arguments.quick else 1)
        sizes = {size: bench.at_size(size, rounds) for size in entries}
        others = bench.others(max(entries))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    report: dict[str, Any] = {"ours alone": others, "ratios": ratios(sizes), "goals": goals(sizes, others)}
    if arguments.json:
        head = {"cpus": os.cpu_count(), "rounds": rounds, "skipped": bench.skipped}
        print(json.dumps({**head, "entries": sizes, **report}, indent=2))
        return
    show(report, sizes)
    if bench.skipped:
        print(f"\nnot installed, left out: {', '.join(bench.skipped)}")


if __name__ == "__main__":
    main()
