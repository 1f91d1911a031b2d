"""
Sync in a world where time, network, disks and misfortunes are decided by a seed.

A seed that fails is repeated, with all of its log, by ``cd tests && python -m simulation --seed SEED --steps STEPS``.
"""

from __future__ import annotations

import os

import pytest

from simulation.episode import run_episode
from simulation.planted_faults import PLANTED, planted
from simulation.run_log import RunLog

QUICK = ("dropped entry", "applied twice", "pending miscounted")
QUICK_SEEDS = range(1, 7)
QUICK_STEPS = 10
SLOW_SEEDS = int(os.environ.get("AGENTLAYERS_SIMULATION_SEEDS", "40"))
SLOW_START = int(os.environ.get("AGENTLAYERS_SIMULATION_START", "1000"))
SLOW_STEPS = 40
LINES_SHOWN = 120


def told(seed: int, steps: int, log: RunLog) -> str:
    """Return what was found and how to see it again."""
    found = "\n".join(log.violations)
    again = f"cd tests && python -m simulation --seed {seed} --steps {steps}"
    return f"seed {seed}: {found}\n\nrepeat with: {again}\n\n{log.tail(LINES_SHOWN)}"


@pytest.mark.parametrize("seed", QUICK_SEEDS)
def test_all_replicas_and_servers_end_equal_and_say_so(seed: int) -> None:
    log = run_episode(seed, steps=QUICK_STEPS)

    assert not log.violations, told(seed, QUICK_STEPS, log)


def test_one_seed_is_one_run() -> None:
    """Byte for byte: what every message carried is in the log, too."""
    one, other = run_episode(6, steps=QUICK_STEPS), run_episode(6, steps=QUICK_STEPS)

    assert one.lines == other.lines
    assert len(one.lines) > 500


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PLANTED]
)
def test_a_planted_fault_is_found(name: str) -> None:
    """Some seed finds it soon; none does if what looks for it is broken."""
    found: list[str] = []
    steps = QUICK_STEPS if name in QUICK else 30  # some need more to happen
    for seed in range(1, 21):
        with planted(name):
            found += run_episode(seed, steps=steps).violations
        if found:
            break

    assert any(not text.startswith(("episode:", "log:", "loop:")) for text in found), found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_seed_finds_anything() -> None:
    for seed in range(SLOW_START, SLOW_START + SLOW_SEEDS):
        log = run_episode(seed, steps=SLOW_STEPS)

        assert not log.violations, told(seed, SLOW_STEPS, log)
