"""
Run episodes: ``cd tests && python -m simulation --seed 42`` repeats one and prints its log.

``--seed 1 --count 1000`` counts up and tells which seeds found something.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

from simulation.episode import run_episode

__all__ = ["main"]


def main() -> int:
    """Run what was asked for; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--count", type=int, default=1, help="how many, counting up")
    parser.add_argument("--steps", type=int, default=40, help="how much each replica does")
    parser.add_argument("--stop", action="store_true", help="stop at the first that finds something")
    parser.add_argument("--lines", type=int, default=100_000, help="lines of the log to be shown for a single seed")
    options = parser.parse_args()
    warnings.simplefilter("error")
    found, began = 0, time.perf_counter()
    for seed in range(options.seed, options.seed + options.count):
        log = run_episode(seed, steps=options.steps)
        if options.count == 1:
            sys.stdout.write(f"{log.tail(options.lines)}\n")
            sys.stdout.write(f"{len(log.lines)} lines, {log.digest()}\n")
        for violation in log.violations:
            sys.stdout.write(f"seed {seed}: {violation[:300]}\n")
        sys.stdout.flush()
        found += bool(log.violations)
        if options.count > 1 and seed % 20 == 0:
            sys.stdout.write(f"... {seed}, {time.perf_counter() - began:.0f} s\n")
            sys.stdout.flush()
        if found and options.stop:
            break
    seconds = time.perf_counter() - began
    sys.stdout.write(f"{options.count} seeds, {found} found something, {seconds:.1f} s\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
