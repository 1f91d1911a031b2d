"""The journal in memory, for tests and simulations."""

from __future__ import annotations

from agentlayers.journal.memory.journal import MemoryJournal

__all__ = ["MemoryJournal"]
