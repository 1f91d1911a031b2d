"""How a query is doing, as its caller is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

__all__ = ["QueryState", "QueryStatus"]

QueryState = Literal["starting", "running", "completed", "failed", "interrupted", "timed_out"]


@final
@dataclass(frozen=True, slots=True)
class QueryStatus:
    """
    How a query is doing.

    Attributes:
        state: ``starting``, ``running``, or how it ended.
        session_id: The last session a message named; empty before the first.
        messages: Messages the agent sent so far.
        recording_behind: A message was yielded before it was durable, and still is not.
        recording_pending: Messages not durable yet.
        recording_lost: Messages, artifacts and audit events given up, because their store did not take them before the
            query was closed; each has a log line.
        recording_error: Why the last attempt to record failed; empty when it succeeded.
    """

    state: QueryState
    session_id: str
    messages: int
    recording_behind: bool
    recording_pending: int
    recording_lost: int
    recording_error: str
