"""
Which sequences of a stock server were seen beyond the cursor.

Its numbers may have gaps, and it may hide another writer's entry for the rest of a connection when one of
ours was numbered behind it. Both look the same from here, so a cursor never crosses a gap unless the
server itself skipped it while it listed its backlog.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final

__all__ = ["SequenceRuns"]

_RUNS_MAX: Final = 1024
"""Runs remembered; forgetting the highest only means that they are read again once."""


class SequenceRuns:
    """
    Sorted, disjoint half-open runs of numbers.

    >>> runs = SequenceRuns()
    >>> runs.add([7, 5, 6, 9])
    >>> runs.advance(5), runs.has_gap
    (8, True)

    """

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []

    @property
    def has_gap(self) -> bool:
        """Whether something was seen behind a number that was not."""
        return bool(self._runs)

    def add(self, sequences: Iterable[int]) -> None:
        """Note numbers as seen, in any order and more than once."""
        for sequence in sequences:
            self._add(sequence)
        del self._runs[_RUNS_MAX:]

    def advance(self, cursor: int) -> int:
        """Return the first number from ``cursor`` on that was not seen, and forget all below it."""
        while self._runs and self._runs[0][0] <= cursor:
            cursor = max(cursor, self._runs.pop(0)[1])
        return cursor

    def _add(self, sequence: int) -> None:
        index = bisect_left(self._runs, (sequence + 1,))
        start, stop = sequence, sequence + 1
        if index and self._runs[index - 1][1] >= sequence:
            index -= 1
            start, known_stop = self._runs.pop(index)
            stop = max(stop, known_stop)
        if index < len(self._runs) and self._runs[index][0] == stop:
            stop = self._runs.pop(index)[1]
        insort(self._runs, (start, stop))
