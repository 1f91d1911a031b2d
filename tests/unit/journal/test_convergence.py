"""Replicas that hold the same entries show the same values and conflicts, whatever happened on the way."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlayers.journal import projection
from agentlayers.journal.causality import KeyState, with_version
from agentlayers.journal.conflict_policy import (
    ConflictPolicy,
    FirstWriteWins,
    LastWriteWins,
    Merge,
    Reject,
    Resolution,
    Version,
)
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.key_value import SQLiteKeyValueStore
from agentlayers.testing.contracts.event_journal_world import ManualClock
from helpers.journal_world import Step, World
from helpers.key_value_journal import JournalWithStore

POLICIES: list[ConflictPolicy] = [
    LastWriteWins(),
    FirstWriteWins(),
    Reject("busy"),
    Merge(lambda values: {"v": [value.get("v") for value in values]}),
]
KINDS = ("put", "put", "delete", "stock", "sync", "sync", "compact", "tick")
STEPS = st.lists(st.builds(Step, st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 7)), min_size=2, max_size=14)


def memory_world(policy: Callable[[], ConflictPolicy]) -> World:
    """Return three replicas in memory on one clock."""
    clock = ManualClock()
    return World([MemoryJournal(clock=clock, random=random.Random(at)) for at in range(3)], policy, clock)


def play(world: World, steps: Sequence[Step]) -> list[Any]:
    """Run a history to its end."""
    return asyncio.run(world.run(steps))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@given(steps=STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_replicas_converge_under_every_policy(policy: ConflictPolicy, steps: list[Step]) -> None:
    first, *others = play(memory_world(lambda: policy), steps)

    assert [first] * len(others) == others


@contextlib.contextmanager
def disk_journal(kind: str, clock: ManualClock) -> Iterator[EventJournal]:
    """Return a journal of another kind than those in memory."""
    with tempfile.TemporaryDirectory() as directory:
        chance = random.Random(9)
        if kind == "sqlite":
            yield SQLiteJournal(Path(directory), clock=clock, random=chance, durability="normal")
        else:
            store = SQLiteKeyValueStore(directory) if kind == "key_value_sqlite" else None
            yield JournalWithStore(store, clock=clock, random=chance)


@pytest.mark.parametrize("kind", ["sqlite", "key_value_memory", "key_value_sqlite"])
@given(steps=STEPS, policy=st.sampled_from(POLICIES))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_journal_on_disk_converges_with_one_in_memory(kind: str, steps: list[Step], policy: ConflictPolicy) -> None:
    clock = ManualClock()
    with disk_journal(kind, clock) as disk:
        world = World([disk, MemoryJournal(clock=clock, random=random.Random(1))], lambda: policy, clock)
        disk_view, memory_view, meaning = play(world, steps)

    assert disk_view == memory_view == meaning


# -- faults that the property above has to find -----------------------------------------------------------------
class ByArrival(ConflictPolicy):
    """Fault R3: the result depends on what was shown before, that is on arrival."""

    def __init__(self) -> None:
        self.shown: list[bytes] = []

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Keep showing what was shown first."""
        for head in heads:
            if head.id in self.shown:
                return Resolution(head.value, head.id, "accept")
        self.shown.append(heads[-1].id)
        return Resolution(heads[-1].value, heads[-1].id, "accept")


class ByMillisecond(ConflictPolicy):
    """Same-millisecond ties decided by chance, as when the last of equals in a list wins."""

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Show any of those with the highest millisecond."""
        top = [head for head in heads if head.id[:6] == heads[-1].id[:6]]
        chosen = random.choice(top)
        return Resolution(chosen.value, chosen.id, "accept")


def skip_first_candidate(state: KeyState, version: Version) -> KeyState:
    """Fault W13: the scan for what a version supersedes skips the first candidate."""
    result = with_version(state, version)
    kept = state.heads[:1]
    return result._replace(heads=tuple(sorted({*kept, *result.heads})))


def conflict_with_itself(state: KeyState, version: Version) -> KeyState:
    """Fault W17: the version is inserted before conflicts are looked for, so it finds itself."""
    result = with_version(state, version)
    return result._replace(heads=tuple(sorted((*result.heads, *result.heads[-1:]))))


def finds_a_fault(world: Any, tries: int = 150) -> bool:
    """Tell whether random histories show a difference between replicas, or an error."""
    chance = random.Random(5)
    for _ in range(tries):
        steps = [
            Step(chance.choice(KINDS), chance.randrange(3), chance.randrange(8)) for _ in range(chance.randint(2, 14))
        ]
        try:
            first, *others = play(world(), steps)
        except Exception:
            return True
        if any(other != first for other in others):
            return True
    return False


def test_the_property_holds_for_the_histories_that_find_the_faults() -> None:
    assert not finds_a_fault(lambda: memory_world(LastWriteWins))


def test_a_policy_that_depends_on_arrival_is_found() -> None:
    assert finds_a_fault(lambda: memory_world(ByArrival))


def test_a_configured_policy_that_is_ignored_is_found() -> None:
    """Fault R4: the store runs the default, whatever was chosen."""

    class Ignored(World):
        async def run(self, steps: Sequence[Step]) -> list[Any]:
            chosen, self.policy = self.policy, LastWriteWins
            try:
                *views, _ = await super().run(steps)
            finally:
                self.policy = chosen
            return [*views, self.meaning()]

    def world() -> World:
        made = memory_world(FirstWriteWins)
        return Ignored(made.journals, made.policy, made.clock)

    assert finds_a_fault(world)


def test_ties_within_a_millisecond_decided_by_chance_are_found() -> None:
    assert finds_a_fault(lambda: memory_world(ByMillisecond))


@pytest.mark.parametrize("fault", [skip_first_candidate, conflict_with_itself], ids=["W13", "W17"])
def test_a_faulty_scan_for_conflicts_is_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "with_version", fault)

    assert finds_a_fault(lambda: memory_world(LastWriteWins))
