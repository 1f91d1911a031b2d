"""
What retention keeps of a store: strategies as values, and the report of a run.

A strategy is a pure selection over the entries of one scope (a session, a journal), newest first. What may be
dropped at all (nothing a current remote lacks, never part of a key's heads) is decided by the journal.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

from agentlayers.errors import SettingsError
from agentlayers.limits import HORIZON_WINDOW_SECONDS
from agentlayers.settings import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = [
    "ByAge",
    "ByCount",
    "ByKey",
    "BySize",
    "Candidate",
    "Compaction",
    "CompactionReport",
    "CompactionStrategy",
    "Composite",
    "Selector",
]


class Candidate(NamedTuple):
    """
    What a strategy may know of an entry.

    Attributes:
        id: Entry id.
        event: Event tag.
        primary_key: What it is about.
        age_seconds: How long ago it was written, by its id.
        size_bytes: Bytes of its payload, event, key and id.
        is_visible: Append-only, or a head of its key; ``False`` for a superseded version.
        is_deletion: It marks its key as deleted.
    """

    id: bytes
    event: str
    primary_key: str
    age_seconds: float
    size_bytes: int
    is_visible: bool
    is_deletion: bool


Selector = Callable[[Candidate], bool]


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """
    What a run of compaction did.

    Attributes:
        before: Entries of the store before the run.
        after: Entries of the store after it.
        dropped: Entries dropped.
        events: Their event tags, sorted.
        held_back: Entries the strategy would have dropped, but a current remote lacks them.
        timestamp_ms: When the run ended, Unix milliseconds.
    """

    before: int
    after: int
    dropped: int
    events: tuple[str, ...]
    held_back: int
    timestamp_ms: int


class CompactionStrategy(abc.ABC):
    """Selects what retention keeps. Values: equal settings make equal strategies."""

    @abc.abstractmethod
    def selector(self) -> Selector:
        """
        Return a fresh function for one scope: called with each entry, newest first, it says what to keep.

        It may keep state (a count, a sum) but reads no clock; the same entries give the same answers.
        """

    @staticmethod
    def layer_by_age(max_age: str | float) -> Layer:
        """Keep what is younger, such as ``"30 days"``."""
        return _layer(ByAge, max_age=max_age)

    @staticmethod
    def layer_by_count(max_count: int) -> Layer:
        """Keep the newest entries of each scope."""
        return _layer(ByCount, max_count=max_count)

    @staticmethod
    def layer_by_size(max_bytes: str | int) -> Layer:
        """Keep the newest entries of each scope up to a size, such as ``"500 MB"``."""
        return _layer(BySize, max_bytes=max_bytes)

    @staticmethod
    def layer_by_key() -> Layer:
        """Keep no superseded version."""
        return _layer(ByKey)

    @staticmethod
    def layer_composite(*strategies: CompactionStrategy) -> Layer:
        """Apply several strategies in turn."""
        return _layer(Composite, *strategies)


Compaction = CompactionStrategy


def _layer(strategy: Callable[..., CompactionStrategy], *given: Any, **arguments: Any) -> Layer:
    from agentlayers.layer import Layer

    strategy(*given, **arguments)  # an impossible value is told where it is written, not at start
    # Written as what a container or YAML would write, so that the three spellings give one graph.
    return Layer.factory(CompactionStrategy, strategy, *given, **arguments)


@final
@dataclass(frozen=True, slots=True)
class ByAge(CompactionStrategy):
    """
    Keep what is younger than a duration.

    Attributes:
        max_age: Seconds, or a text such as ``"30 days"``; zero keeps nothing.

    >>> ByAge("30 days") == ByAge(30 * 86_400)
    True

    """

    max_age: str | float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_age", parse_seconds(self.max_age, setting="max_age"))

    def selector(self) -> Selector:
        """Keep by age alone."""
        limit = float(self.max_age)
        return lambda candidate: candidate.age_seconds < limit


@final
@dataclass(frozen=True, slots=True)
class ByCount(CompactionStrategy):
    """
    Keep the newest visible entries of each scope; superseded versions do not count.

    Attributes:
        max_count: How many; zero keeps nothing.
    """

    max_count: int

    def __post_init__(self) -> None:
        if isinstance(self.max_count, bool) or not isinstance(self.max_count, int) or self.max_count < 0:
            raise SettingsError(setting="max_count", value=self.max_count, expected="an integer of at least 0")

    def selector(self) -> Selector:
        """Keep until the count is reached, and nothing older."""
        remaining = self.max_count

        def keep(candidate: Candidate) -> bool:
            nonlocal remaining
            if candidate.is_visible:
                remaining -= 1
                return remaining >= 0
            return remaining > 0

        return keep


@final
@dataclass(frozen=True, slots=True)
class BySize(CompactionStrategy):
    """
    Keep the newest visible entries of each scope while they fit, and no superseded version.

    Attributes:
        max_bytes: Bytes, or a text such as ``"500 MB"``; zero keeps nothing.
    """

    max_bytes: str | int

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_bytes", parse_bytes(self.max_bytes, setting="max_bytes"))

    def selector(self) -> Selector:
        """Keep until one does not fit, and nothing older, so that no gap is left in a history."""
        remaining = int(self.max_bytes)

        def keep(candidate: Candidate) -> bool:
            nonlocal remaining
            if not candidate.is_visible or remaining < candidate.size_bytes:
                remaining = remaining if not candidate.is_visible else -1
                return False
            remaining -= candidate.size_bytes
            return True

        return keep


@final
@dataclass(frozen=True, slots=True)
class ByKey(CompactionStrategy):
    """
    Keep every head and drop superseded versions; no visible value changes.

    A deletion mark stays for the horizon window, so that a late version cannot bring its key back.
    """

    def selector(self) -> Selector:
        """Keep what is visible, except deletion marks past the window."""
        return lambda candidate: (
            candidate.is_visible and not (candidate.is_deletion and candidate.age_seconds >= HORIZON_WINDOW_SECONDS)
        )


@final
@dataclass(frozen=True, slots=True, init=False)
class Composite(CompactionStrategy):
    """
    Apply several strategies in turn; each sees what the ones before it keep.

    Attributes:
        strategies: In order.
    """

    strategies: tuple[CompactionStrategy, ...]

    def __init__(self, *strategies: CompactionStrategy) -> None:
        object.__setattr__(self, "strategies", strategies)

    def selector(self) -> Selector:
        """Keep what all keep; a count or size of a later one is not used up by what an earlier one drops."""
        selectors = [strategy.selector() for strategy in self.strategies]
        return lambda candidate: all(keep(candidate) for keep in selectors)
