"""Bounds made so small that little traffic reaches them: windows, credit, batches, queues."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from random import Random
from typing import Any, Final

from agentlayers.transport import loop_share

__all__ = ["cramped", "untimed"]

_BOUNDS: Final[dict[str, tuple[int, ...]]] = {
    "PULL_CREDIT_BYTES": (600, 5_000),
    "PUSH_BATCH_ENTRIES_MAX": (1, 3),
    "PUSH_BATCH_BYTES_MAX": (1, 1_000),
    "PUSH_WINDOW_MESSAGES": (1, 2),
    "FIRST_BATCH_ENTRIES": (1, 2),
    "FETCH_ENTRIES_MAX": (1, 3),
    "_ENTRIES_PER_TRANSACTION_MAX": (1, 5),
    "CHANGES_BATCH_ENTRIES_MAX": (1, 3),
    "CHANGES_BATCH_BYTES_MAX": (1, 1_000),
    "SLICE_SUBSCRIBERS": (1, 2),
    "APPEND_ENTRIES_MAX": (1, 5),
    "WRITES_IN_FLIGHT_MAX": (1, 2),
    "LIVE_BYTES_MAX": (1, 1_000),
    "CATCH_UP_BYTES_MAX": (1, 500),
    "FETCH_BYTES_MAX": (1, 500),
    "_MESSAGES_MAX": (1, 2),
}
"""By name, wherever in the package it is used: modules move."""


@contextlib.contextmanager
def cramped(random: Random) -> Iterator[dict[str, int]]:
    """Make some bounds small for as long as the context lasts; yields which."""
    chosen = {name: random.choice(values) for name, values in _BOUNDS.items() if random.random() < 0.5}
    before: list[tuple[Any, str, int]] = []
    for name, value in chosen.items():
        users = [
            module
            for path, module in sorted(sys.modules.items())
            if path.startswith("agentlayers.") and hasattr(module, name)
        ]
        assert users, f"there is no bound {name} any more"
        for module in users:
            before.append((module, name, getattr(module, name)))
            setattr(module, name, value)
    try:
        yield chosen
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@contextlib.contextmanager
def untimed(random: Random) -> Iterator[None]:
    """Let readers make room for others after each message or never, where else the wall clock decides."""
    before = loop_share.SECONDS_MAX
    loop_share.SECONDS_MAX = random.choice((0.0, math.inf))  # type: ignore[misc]
    try:
        yield
    finally:
        loop_share.SECONDS_MAX = before  # type: ignore[misc]
