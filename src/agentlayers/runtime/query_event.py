"""What happens to queries, as the supervisor publishes it; times are wall-clock seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

__all__ = ["QueryCompleted", "QueryEvent", "QueryQueued", "QueryStartFailed", "QueryStarted"]


@final
@dataclass(frozen=True, slots=True)
class QueryQueued:
    """A query waits for a slot."""

    query_id: str
    submitted_at: float


@final
@dataclass(frozen=True, slots=True)
class QueryStarted:
    """A query's agent runs."""

    query_id: str
    started_at: float


@final
@dataclass(frozen=True, slots=True)
class QueryCompleted:
    """A query's agent is gone."""

    query_id: str
    completed_at: float
    status: Literal["success", "failure", "interrupted"]


@final
@dataclass(frozen=True, slots=True)
class QueryStartFailed:
    """A query's agent could not be started; ``error`` is the code of the error."""

    query_id: str
    failed_at: float
    error: str


QueryEvent = QueryQueued | QueryStarted | QueryCompleted | QueryStartFailed
