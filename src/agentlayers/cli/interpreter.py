"""How the interpreter is set in processes that are ours: the library never changes one it does not own."""

from __future__ import annotations

import gc
import sys
from typing import Final

__all__ = ["tune_interpreter"]

SWITCH_INTERVAL_SECONDS: Final = 0.0005
"""
How long a thread waits for the interpreter lock.

SQLite's threads give up the lock at every step; with Python's 5 ms each step may wait that long while the event
loop computes (measured: a factor of 3 to 5 under load).
"""

GARBAGE_THRESHOLDS: Final = (20_000, 20, 100)
"""
When the garbage collector looks for cycles: a batch of entries is thousands of tuples that are in none.

With Python's 700 a tenth to a fifth of the time of a sync goes into looking at them.
"""


def tune_interpreter() -> None:
    """Set the interpreter for a process that moves many entries; to be called when all modules are loaded."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    # What is here now stays till the end, so it need not be looked at each time.
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
