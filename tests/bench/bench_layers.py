"""
The layer framework beside other libraries, on the six-node graph of ``layer_contenders.py``.

    python tests/bench/bench_layers.py [--short] [--json] [--rounds N] [--python INTERPRETER] [--only WORD]

Each library runs in a process of its own, the rounds are interleaved, and medians are shown. The other libraries
are not dependencies of this project; those that the interpreter cannot import are left out and named. To have
them all::

    python -m venv bench && bench/bin/pip install . dishka wireup that-depends modern-di svcs
    python tests/bench/bench_layers.py --python bench/bin/python

Not every library does the same work: "objects" says how many one request makes (5 where Repo is made twice because
there is no request scope). modern-di and svcs do not open the pool asynchronously here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHILD = HERE / "layer_contenders.py"
NAMES = {
    "by hand": "",
    "agentlayers get": "agentlayers",
    "agentlayers scope": "agentlayers",
    "agentlayers async scope": "agentlayers",
    "dependency-injector sync": "dependency_injector",
    "dependency-injector async": "dependency_injector",
    "dishka sync": "dishka",
    "dishka async": "dishka",
    "wireup sync": "wireup",
    "wireup async": "wireup",
    "that-depends async": "that_depends",
    "modern-di": "modern_di",
    "svcs async": "svcs",
}
COLUMNS = {
    "import_ms": "import ms",
    "build_us": "build us",
    "cold_us": "cold us",
    "warm_k_per_s": "warm k/s",
    "request_k_per_s": "request k/s",
    "objects_per_request": "objects",
    "rss_mb": "RSS MB",
}
OURS_GET, OURS_SCOPE = "agentlayers get", "agentlayers scope"
SYNC, ASYNC = "dependency-injector sync", "dependency-injector async"
REQUEST = "request_k_per_s"
REQUEST_GOAL, ASYNC_GOAL, CHAIN_GOAL_MS, IMPORT_GOAL_MS = 0.95, 40, 50, 20

Figures = dict[str, float]


class Bench:
    """Runs the child processes, with a bytecode cache of their own so that no import is a compilation."""

    def __init__(self, python: str, cache: str) -> None:
        self.python = python
        dropped = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
        self.environment = {key: value for key, value in os.environ.items() if key not in dropped}
        self.environment["PYTHONPYCACHEPREFIX"] = cache
        if self.can_import("agentlayers") is False:
            self.environment["PYTHONPATH"] = str(HERE.parents[1] / "src")

    def can_import(self, package: str) -> bool:
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
        return subprocess.run([self.python, "-c", code], env=self.environment, check=False).returncode == 0

    def run(self, name: str, scale: float) -> Figures:
        command = [self.python, "-W", "ignore", str(CHILD), name, str(scale)]
        outcome = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if outcome.returncode:
            sys.stderr.write(outcome.stderr)
            raise SystemExit(f"{name} failed")
        figures: Figures = json.loads(outcome.stdout.splitlines()[-1])
        return figures


def medians(runs: list[Figures]) -> Figures:
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if REQUEST in found:
        found["request_min"] = min(run[REQUEST] for run in runs)
        found["request_max"] = max(run[REQUEST] for run in runs)
    return found


def compare(libraries: dict[str, Figures], chain: Figures | None) -> dict[str, Figures]:
    """Where ours stands: the figure and its goal."""
    goals: dict[str, Figures] = {}

    def rate(name: str) -> float:
        return libraries[name][REQUEST]

    others = {name: rate(name) for name in libraries if not name.startswith(("agentlayers", "by hand"))}
    for ours in (OURS_GET, OURS_SCOPE):
        if ours in libraries and others:
            fastest = max(others, key=lambda name: others[name])
            value = rate(ours) / others[fastest]
            goals[f"{ours} / fastest other ({fastest})"] = {"value": value, "at least": REQUEST_GOAL}
        if ours in libraries and ASYNC in libraries:
            value = rate(ours) / rate(ASYNC)
            goals[f"{ours} / {ASYNC}"] = {"value": value, "at least": ASYNC_GOAL}
    if OURS_GET in libraries and SYNC in libraries:
        extra = libraries[OURS_GET]["import_ms"] - libraries[SYNC]["import_ms"]
        goals["import, beyond dependency-injector, ms"] = {"value": extra, "at most": IMPORT_GOAL_MS}
    if chain:
        total = chain["start_ms"] + chain["stop_ms"]
        goals["chain of 400, start and stop, ms"] = {"value": total, "at most": CHAIN_GOAL_MS}
    return goals


def show(libraries: dict[str, Figures], chain: Figures | None, skipped: list[str]) -> None:
    print(f"{'library':26}" + "".join(f"{title:>12}" for title in COLUMNS.values()) + "  request min..max")
    for name, figures in libraries.items():
        cells = "".join(f"{figures[key]:>12,.1f}" for key in COLUMNS)
        print(f"{name:26}{cells}  {figures['request_min']:,.0f}..{figures['request_max']:,.0f}")
    if chain:
        print("\nchain of 400 resources: " + ", ".join(f"{key} {value:.1f}" for key, value in chain.items()))
    print()
    for name, goal in compare(libraries, chain).items():
        bound, limit = next((key, value) for key, value in goal.items() if key != "value")
        met = goal["value"] >= limit if bound == "at least" else goal["value"] <= limit
        print(f"{'ok ' if met else 'NO '} {name}: {goal['value']:.2f} ({bound} {limit:g})")
    if skipped:
        print(f"\nnot installed, left out: {', '.join(skipped)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one round of a tenth of the work, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (5; 1 with --short)")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the other libraries")
    parser.add_argument("--only", help="only libraries with this word in the name, and no chain")
    arguments = parser.parse_args()
    scale = 0.05 if arguments.short else 1.0
    rounds = arguments.rounds or (1 if arguments.short else 5)
    with tempfile.TemporaryDirectory(prefix="agentlayers-bench-") as cache:
        bench = Bench(arguments.python, cache)
        chosen = [name for name in NAMES if not arguments.only or arguments.only in name]
        absent = {package for package in NAMES.values() if package and not bench.can_import(package)}
        present = [name for name in chosen if NAMES[name] not in absent]
        for name in present:
            bench.run(name, 0.01)  # fills the bytecode cache
        runs: dict[str, list[Figures]] = {name: [] for name in present}
        chains: list[Figures] = []
        for _ in range(rounds):
            for name in present:
                runs[name].append(bench.run(name, scale))
            if not arguments.only:
                chains.append(bench.run("chain", scale))
    libraries = {name: medians(each) for name, each in runs.items()}
    chain = medians(chains) if chains else None
    if arguments.json:
        goals = compare(libraries, chain)
        report = {"cpus": os.cpu_count(), "rounds": rounds, "libraries": libraries, "chain": chain, "goals": goals}
        print(json.dumps({**report, "skipped": sorted(absent)}, indent=2))
    else:
        show(libraries, chain, sorted(absent))


if __name__ == "__main__":
    main()
