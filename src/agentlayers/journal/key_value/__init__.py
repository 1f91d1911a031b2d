"""The journal over any key-value store with ordered scans and batches that are atomic and conditional."""

from __future__ import annotations

from agentlayers.journal.key_value.journal import KeyValueJournal

__all__ = ["KeyValueJournal"]
