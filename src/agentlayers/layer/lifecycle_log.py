"""
Log what happens to parts: starts and stops at debug level, what ends by itself as a warning.

structlog is loaded only when there is somebody to hear.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

__all__ = ["log_ended_by_itself", "log_phase"]


def log_phase(event: str, app: str, seconds: Mapping[str, float], total: float) -> None:
    """Say that an app has started or stopped, and what took longest."""
    if not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        return
    from agentlayers.logs import get_logger

    slowest = max(seconds, key=lambda name: seconds[name], default="")
    for name, took in seconds.items():
        get_logger(__name__).debug(f"layer_{event}", layer=name, seconds=round(took, 6))
    get_logger(__name__).debug(f"app_{event}", app=app, parts=len(seconds), seconds=round(total, 6), slowest=slowest)


def log_ended_by_itself(layer: str, error: BaseException | None) -> None:
    """Say that a resource has ended while the app was running, such as a task group whose child failed."""
    from agentlayers.logs import get_logger

    get_logger(__name__).warning("layer_ended_by_itself", layer=layer, error=type(error).__name__ if error else None)
