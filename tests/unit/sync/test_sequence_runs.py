"""Runs of seen sequences against a plain set."""

from hypothesis import given
from hypothesis import strategies as st

from agentlayers.sync import sequence_runs
from agentlayers.sync.sequence_runs import SequenceRuns


@given(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=8), st.integers(0, 5))
def test_they_advance_as_a_set_would(batches: list[list[int]], start: int) -> None:
    """Whatever the order, and with repeats."""
    runs, seen, cursor, expected = SequenceRuns(), set[int](), start, start
    for batch in batches:
        runs.add(batch)
        seen.update(batch)
        while expected in seen:
            expected += 1
        cursor = runs.advance(cursor)

        assert cursor == expected
        assert runs.has_gap == any(number > expected for number in seen)


def test_their_number_is_bounded() -> None:
    """A server that leaves gaps everywhere costs a second reading, not memory."""
    runs = SequenceRuns()
    runs.add(range(1, 10_000, 2))

    assert len(runs._runs) == sequence_runs._RUNS_MAX
    assert runs.advance(1) == 2
