"""Find entries by a text in their payloads, reading one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from agentlayers.journal.entry import StoredEntry
from agentlayers.storage.inspection import readable_payload
from agentlayers.storage.journal_file import journal_files
from agentlayers.storage.snapshot import open_snapshot

__all__ = ["Match", "search_entries"]


class Match(NamedTuple):
    """
    One entry that has the text.

    Attributes:
        stored: The entry.
        field: Where in the payload, such as ``message.text``.
        text: The whole text of that field.
        start: Where in the text the first match begins.
        end: Where it ends.
    """

    stored: StoredEntry
    field: str
    text: str
    start: int
    end: int


def search_entries(directory: Path, text: str, *, stores: Collection[str] | None = None) -> Iterator[Match]:
    """
    Iterate over the entries with a text in any text or number of their payload, in local arrival order.

    Upper and lower case are the same. The cost grows with the journal, memory does not.

    Args:
        directory: The replica's directory, or one journal file.
        text: What to look for.
        stores: Only these; all if not given.

    Raises:
        StorageUnavailableError: There is no journal, or it cannot be read.
        StorageCorruptionError: A file is damaged, or no journal.
        MigrationError: A newer release wrote a file.
    """
    wanted = text.casefold()
    for path in journal_files(directory):
        with open_snapshot(path) as snapshot:
            for stored in snapshot.entries():
                if stores is None or stored.store in stores:
                    match = _match(stored, wanted)
                    if match is not None:
                        yield match


def _match(stored: StoredEntry, wanted: str) -> Match | None:
    payload = readable_payload(stored.entry.payload)
    for field, text in _texts(payload, ""):
        if wanted in text.casefold():
            start, end = _place(text, wanted)
            return Match(stored, field, text, start, end)
    return None


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{field}.{name}" if field else str(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{field}[{number}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield field, str(value)
    elif isinstance(value, datetime):
        yield field, value.isoformat()


def _place(text: str, wanted: str) -> tuple[int, int]:
    """Return where the match is in the text as written: folding case may change how long it is."""
    start = text.lower().find(wanted)
    if len(text.lower()) == len(text) and start >= 0:
        return start, start + len(wanted)
    position, folded = 0, text.casefold().find(wanted)
    for position, character in enumerate(text):  # noqa: B007
        if folded <= 0:
            break
        folded -= len(character.casefold())
    return position, min(len(text), position + len(wanted))
