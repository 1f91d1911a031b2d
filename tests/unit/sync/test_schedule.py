"""Schedules are values: the same random source gives the same pauses."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        lambda: exponential(1, factor="2"),  # type: ignore[arg-type]
        lambda: exponential(1).limited(-1),
        lambda: exponential(1).limited(2.5),  # type: ignore[arg-type]
        lambda: exponential(10**400),
        lambda: fixed("9" * 400 + "s"),
        lambda: exponential(1).capped("later"),
    ],
)
def test_an_impossible_schedule_is_refused(make: object) -> None:
    """With the name of what is wrong."""
    assert callable(make)
    with pytest.raises(SettingsError):
        make()


# -- as text --------------------------------------------------------------------------------------------
DURATIONS = st.one_of(
    st.sampled_from([0.001, 0.1, 0.25, 1, 1.5, 5, 30, 3600]), st.floats(1e-9, 1e9), st.integers(1, 10**20)
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any chain of up to six steps."""
    made = draw(
        st.builds(exponential, DURATIONS, st.sampled_from([1, 1.0, 1.5, 2, 2.0, 10])) | st.builds(fixed, DURATIONS)
    )
    for step in draw(st.lists(st.sampled_from(["jittered", "capped", "limited"]), max_size=6)):
        arguments = {"jittered": st.tuples(), "capped": st.tuples(DURATIONS), "limited": st.tuples(st.integers(0, 99))}
        made = getattr(made, step)(*draw(arguments[step]))
    return made


@given(schedules())
def test_what_a_schedule_says_of_itself_is_read_as_the_same_schedule(schedule: Schedule) -> None:
    """As text in a file, and as Python."""
    text = repr(schedule)

    assert schedule == Schedule.from_text(text) == eval(text, {"exponential": exponential, "fixed": fixed})
    assert text == schedule.to_text() == repr(Schedule.from_text(text))


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (exponential("100 ms").jittered().capped("30s"), "exponential('100ms').jittered().capped('30s')"),
        (exponential(1, factor=3).capped(90).jittered(), "exponential('1s', factor=3).jittered().capped('90s')"),
        (fixed("5s").limited(10), "fixed('5s').limited(10)"),
        (fixed(1.5).limited(2).capped(0), "fixed('1.5s').limited(2).capped(0.0)"),
        (exponential(0.123456789), "exponential(0.123456789)"),
    ],
)
def test_a_schedule_shows_itself_as_people_write_it(schedule: Schedule, text: str) -> None:
    """A cap stands behind the jitter, wherever it was given."""
    assert text == repr(schedule)


@pytest.mark.parametrize(
    "text",
    [
        'exponential("100ms").jittered().capped("30s")',
        "exponential(base=0.1)\n  .jittered()\n  .capped(longest=30)",
        " exponential ( ).jittered( ).capped('30 seconds', ) ",
    ],
)
def test_the_same_schedule_is_written_in_several_ways(text: str) -> None:
    """Whatever Python allows in such a chain."""
    assert exponential("100ms").jittered().capped("30s") == Schedule.from_text(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('exponental("1s")', "at character 1: it begins with exponential(base, factor) or fixed(pause)"),
        ("exponential", "at character 1: it begins with"),
        ("5s", "at character 1: this cannot be read"),
        ("", "at character 1: this cannot be read"),
        ("jittered()", "at character 1: it begins with"),
        ('schedule.fixed("1s")', "at character 1: it begins with"),
        ('exponential("1s").jitered()', "at character 19: it goes on with jittered(), capped(longest) or limited("),
        ("fixed(1)()", "at character 9: it goes on with"),
        ("fixed(1).capped", "at character 1: it begins with"),
        ("fixed(1).delays()", "at character 10: it goes on with"),
        ('fixed("soon")', "at character 1: fixed takes a duration such as '30 days'"),
        ('fixed("0s")', "at character 1: fixed takes a pause longer than 0"),
        ('exponential("1s", "2")', "at character 1: factor takes a number from 1 to 10"),
        ('fixed("1s").limited("5")', "at character 13: limited takes a whole number, 0 or more"),
        ('fixed("1s").limited(True)', "at character 21: only plain texts and numbers may stand here"),
        ('fixed("1s").limited(2 + 3)', "at character 21: only plain texts and numbers may stand here"),
        ("fixed(-1)", "at character 7: only plain texts and numbers may stand here"),
        ("fixed(*[1])", "at character 7: only plain texts and numbers may stand here"),
        ('fixed(**{"pause": 1})', "at character 9: only plain texts and numbers may stand here"),
        ("fixed()", "at character 1: it is written fixed(pause)"),
        ("fixed(1, 2)", "at character 1: it is written fixed(pause)"),
        ("fixed(pause=1, pause=2)", "at character 1: it is written fixed(pause)"),
        ("fixed(1).jittered(1)", "at character 10: it is written jittered()"),
        ('__import__("os").system("true")', "at character 1: it begins with"),
        ('fixed(__import__("os").system("true"))', "at character 7: only plain texts and numbers may stand here"),
        ("fixed(\0)", "at character 1: this cannot be read"),
        (f"fixed({'9' * 900})", "at character 1: fixed takes a duration"),
        ("(" * 999, "this cannot be read"),
        (f"{'-' * 900}1", "at character"),
        (f"fixed(1){'.jittered()' * 100}", "a text of at most 1000 characters is wanted"),
    ],
)
def test_a_text_that_is_no_schedule_is_refused_with_the_place_and_what_would_be_right(text: str, said: str) -> None:
    """Nothing of it is evaluated."""
    with pytest.raises(SettingsError, match=r"^schedule: .*expected a schedule such as 'exponential") as refused:
        Schedule.from_text(text)

    assert said in str(refused.value)
    assert len(str(refused.value)) < 1500


def test_what_is_no_text_is_refused_too() -> None:
    """As a file gives it."""
    with pytest.raises(SettingsError, match="schedule: 5 cannot be used"):
        Schedule.from_text(5)  # type: ignore[arg-type]
