"""How long a thread waits for the interpreter lock, in processes that are ours."""

from __future__ import annotations

from typing import Final

__all__ = ["SWITCH_INTERVAL_SECONDS"]

SWITCH_INTERVAL_SECONDS: Final = 0.0005
"""
For :func:`sys.setswitchinterval`, in commands only: the library never changes a process it does not own.

SQLite's threads give up the lock at every step; with Python's 5 ms each step may wait that long while the event
loop computes (measured: a factor of 3 to 5 under load).
"""
