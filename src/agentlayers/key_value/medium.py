"""What a blocking medium does for :class:`~agentlayers.key_value.threaded_store.ThreadedKeyValueStore`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from agentlayers.key_value.expectation import Expectation
from agentlayers.key_value.key_range import KeyRange
from agentlayers.key_value.key_value_store import Changes, Pair

__all__ = ["Medium"]


class Medium(Protocol):
    """
    Files that block: one thread opens and closes, one at a time writes; several threads read in between.

    Attributes:
        shares_commits: Concurrent writes are handed over as one, because they cost hardly more than one.
    """

    shares_commits: bool

    def open(self) -> None:
        """Create what is missing, and repair what a crash left behind."""

    def close(self) -> None:
        """Let go of everything; nobody reads any more."""

    def home(self) -> str:
        """Say what a copy does not share with these files."""

    def write(self, changes: Changes, expected: Expectation) -> None:
        """
        Make all changes durable, or none.

        Raises:
            StorageConflictError: The medium does not hold what is expected; nobody else writes in between.
        """

    def read(self, key: bytes) -> bytes | None:
        """Return one value."""

    def pages(self, key_range: KeyRange, limit: int | None) -> Iterator[list[Pair]]:
        """Yield pages; each step may run in another thread."""
