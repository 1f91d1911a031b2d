"""What a stock SQL journal has worked off is estimated from time, and from what it is known to have read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.server.intake import (
    BURST_ENTRIES_MAX,
    ENTRIES_MAX,
    ENTRY_SECONDS,
    FIRST_WRITE_SECONDS_MAX,
    RESUME_ENTRIES,
    Intake,
)

STATEMENT_ENTRIES_MAX = 32_766 // 5
"""Variables that SQLite takes, and those of an entry."""


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def intake(clock: Clock) -> Intake:
    made = Intake(clock)
    made.open()
    return made


def test_three_times_what_is_outstanding_fits_into_one_statement() -> None:
    assert 3 * ENTRIES_MAX <= BURST_ENTRIES_MAX <= STATEMENT_ENTRIES_MAX


def test_what_was_sent_leaves_less_room(intake: Intake) -> None:
    assert intake.room(0) == ENTRIES_MAX
    assert intake.room_at_once(0) == BURST_ENTRIES_MAX

    intake.take(100, in_changes=False)

    assert intake.room(0) == intake.room_at_once(0) == ENTRIES_MAX - 100


def test_what_was_read_is_worked_off_in_time(intake: Intake, clock: Clock) -> None:
    intake.take(1000, in_changes=True)
    intake.received(1000, 0)
    clock.now += 250 * ENTRY_SECONDS
    assert intake.room(0) == pytest.approx(ENTRIES_MAX - 750, abs=1)

    clock.now += 3600
    assert intake.room(0) == ENTRIES_MAX
    assert intake.room_at_once(0) == BURST_ENTRIES_MAX


def test_time_alone_gives_no_room(intake: Intake, clock: Clock) -> None:
    """A machine that sleeps, or a network that stands still, will give the peer everything at once."""
    intake.take(ENTRIES_MAX, in_changes=True)
    clock.now += 3600

    assert intake.room(0) == 0
    assert intake.seconds_until_resuming(0) is None


def test_the_time_before_entries_were_read_does_not_count(intake: Intake, clock: Clock) -> None:
    intake.take(1000, in_changes=True)
    clock.now += 3600
    intake.received(1000, 0)

    assert intake.room(0) == ENTRIES_MAX - 1000


def test_idle_time_is_not_saved_up(intake: Intake, clock: Clock) -> None:
    clock.now += 3600
    intake.take(1000, in_changes=True)
    intake.received(1000, 0)

    assert intake.room(0) == ENTRIES_MAX - 1000


def test_nothing_is_worked_off_before_the_first_write(clock: Clock) -> None:
    """The journal waits for that write's Ack and stores nothing."""
    intake = Intake(clock)
    intake.take(1000, in_changes=True)
    intake.received(1000, 0)
    clock.now += FIRST_WRITE_SECONDS_MAX - 1
    assert intake.room(0) == ENTRIES_MAX - 1000

    intake.open()
    assert intake.room(0) == ENTRIES_MAX - 1000
    clock.now += 1
    assert intake.room(0) == ENTRIES_MAX


def test_a_client_that_never_writes_is_waited_for_a_minute_only(clock: Clock) -> None:
    intake = Intake(clock)
    intake.take(ENTRIES_MAX, in_changes=True)
    intake.received(ENTRIES_MAX, 0)
    seconds = intake.seconds_until_resuming(0)
    assert seconds is not None

    clock.now += FIRST_WRITE_SECONDS_MAX + 1

    assert FIRST_WRITE_SECONDS_MAX <= seconds < FIRST_WRITE_SECONDS_MAX + 1
    assert intake.room(0) == ENTRIES_MAX


def test_a_longer_journal_takes_longer(intake: Intake) -> None:
    intake.take(ENTRIES_MAX, in_changes=True)
    intake.received(ENTRIES_MAX, 0)

    short, long = intake.seconds_until_resuming(0), intake.seconds_until_resuming(50_000)

    assert short == pytest.approx(RESUME_ENTRIES * 0.0002)
    assert long == pytest.approx(RESUME_ENTRIES * 0.0072)


def test_changes_are_on_their_way_until_they_are_worked_off(intake: Intake, clock: Clock) -> None:
    assert not intake.has_changes(0)
    intake.take(10, in_changes=True)
    intake.take(500, in_changes=False)
    intake.received(510, 0)
    assert intake.has_changes(0)

    clock.now += 11 * ENTRY_SECONDS

    assert not intake.has_changes(0)
    assert intake.room(0) < ENTRIES_MAX


def test_no_more_is_read_than_was_sent(intake: Intake, clock: Clock) -> None:
    intake.take(10, in_changes=True)
    intake.received(1_000_000, 0)
    clock.now += 3600

    assert intake.room(0) == ENTRIES_MAX
    assert intake.unread == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 3000), st.integers(0, 6000), st.floats(0, 3), st.integers(0, 200_000)), max_size=30
    )
)
def test_after_the_time_it_names_there_is_room(steps: list[tuple[int, int, float, int]]) -> None:
    clock = Clock()
    intake = Intake(clock)
    intake.open()
    for sent, received, seconds, sequence in steps:
        intake.take(min(sent, max(intake.room(sequence), 0)), in_changes=True)
        intake.received(received, sequence)
        clock.now += seconds
        assert 0 <= intake.room(sequence) <= ENTRIES_MAX

        wait = intake.seconds_until_resuming(sequence)
        if wait is not None:
            clock.now += wait + 1e-6
            assert intake.room(sequence) >= RESUME_ENTRIES
