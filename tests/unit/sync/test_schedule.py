"""Schedules are values: the same random source gives the same pauses."""

import itertools
from random import Random

import pytest

from agentlayers import limits
from agentlayers.errors import SettingsError
from agentlayers.schedule import Schedule, exponential, fixed
from agentlayers.sync.schedule import DEFAULT_SCHEDULE


def test_an_exponential_schedule_multiplies_and_a_cap_holds() -> None:
    """Without jitter the pauses are exact."""
    assert exponential("1 s", factor=3).capped("20 s").delays(5) == [1, 3, 9, 20, 20]
    assert fixed("2 s").limited(3).delays() == [2.0, 2.0, 2.0]
    assert exponential().capped("30s").delays(10) == [0.1 * 2**n for n in range(9)] + [30]


def test_it_never_overflows() -> None:
    """A replica may be offline for years."""
    assert exponential(0.1).capped(5).delay_seconds(10**9, Random(0)) == 5.0


@pytest.mark.parametrize(
    "schedule",
    [exponential("1 s").jittered().capped("4 s"), exponential("1 s").capped("4 s").jittered()],
)
def test_jitter_shortens_and_still_spreads_at_the_cap(schedule: Schedule) -> None:
    """Wherever the cap stands in the chain: capped jitter would bring all clients back at once."""
    pauses = [schedule.delay_seconds(50, Random(seed)) for seed in range(50)]

    assert all(pause is not None and 2 <= pause <= 4 for pause in pauses)
    assert len(set(pauses)) == 50


def test_the_same_seed_gives_the_same_pauses_and_another_does_not() -> None:
    """So a failing run can be replayed."""
    assert DEFAULT_SCHEDULE.delays(10, Random(7)) == DEFAULT_SCHEDULE.delays(10, Random(7))
    assert DEFAULT_SCHEDULE.delays(10, Random(7)) != DEFAULT_SCHEDULE.delays(10, Random(8))


def test_the_default_starts_soon_and_stays_below_its_limit() -> None:
    """The bounds are those of limits.py."""
    pauses = DEFAULT_SCHEDULE.delays(40)

    assert pauses[0] <= limits.RECONNECT_BASE_SECONDS
    assert pauses[-1] >= limits.RECONNECT_MAX_SECONDS / 2
    assert max(pauses) <= limits.RECONNECT_MAX_SECONDS


@pytest.mark.parametrize("outer", [Schedule.jittered, lambda s: s.capped("9 s")])
def test_a_limited_schedule_gives_up(outer: object) -> None:
    """Whatever is put around it."""
    assert callable(outer)
    schedule = outer(exponential("1 s").limited(2))

    assert len(schedule.delays()) == 2
    assert schedule.delay_seconds(3, Random(0)) is None


def test_schedules_are_compared_by_value() -> None:
    """Two spellings of the same graph are equal."""
    made = [exponential("1 s").jittered().capped("30 s").limited(3) for _ in range(2)]

    assert made[0] == made[1]
    assert all(a != b for a, b in itertools.combinations([exponential(1), fixed(1), fixed(2)], 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: exponential(0),
        lambda: exponential("soon"),
        lambda: exponential(1, factor=0.5),
        lambda: exponential(1).limited(-1),
        lambda: exponential(1).capped("later"),
    ],
)
def test_an_impossible_schedule_is_refused(make: object) -> None:
    """With the name of what is wrong."""
    assert callable(make)
    with pytest.raises(SettingsError):
        make()
