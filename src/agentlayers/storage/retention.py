"""Retention as compaction strategies: by age and count, and by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from agentlayers.journal.compaction import ByAge, ByCount, CompactionStrategy, Selector

__all__ = ["DropEntries", "kept_by"]


def kept_by(max_age_seconds: float | None, max_count: int | None) -> list[CompactionStrategy]:
    """Return strategies that keep the newest entries of each scope; :obj:`None` sets no bound."""
    strategies: list[CompactionStrategy] = []
    if max_age_seconds is not None:
        strategies.append(ByAge(max_age_seconds))
    if max_count is not None:
        strategies.append(ByCount(max_count))
    return strategies


@final
@dataclass(frozen=True, slots=True)
class DropEntries(CompactionStrategy):
    """
    Drop certain entries and keep everything else.

    Attributes:
        entry_ids: Ids of the entries to drop.
    """

    entry_ids: frozenset[bytes]

    def selector(self) -> Selector:
        """Keep what is not named."""
        return lambda candidate: candidate.id not in self.entry_ids
