"""How a replica returns to its server; schedules themselves are in :mod:`agentlayers.schedule`."""

from __future__ import annotations

from typing import Final

from agentlayers import limits
from agentlayers.schedule import Schedule, exponential

__all__ = ["DEFAULT_SCHEDULE"]

DEFAULT_SCHEDULE: Final[Schedule] = (
    exponential(limits.RECONNECT_BASE_SECONDS).jittered().capped(limits.RECONNECT_MAX_SECONDS)
)
"""How a replica returns to its server."""
