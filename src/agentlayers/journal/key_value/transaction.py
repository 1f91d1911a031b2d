"""One transaction over a key-value store: all of its ranges."""

from __future__ import annotations

from agentlayers.journal.key_value.text_ranges import TextRanges

__all__ = ["KeyValueTransaction"]


class KeyValueTransaction(TextRanges):
    """Stores, read models, entries, remotes and texts as ranges of keys."""
