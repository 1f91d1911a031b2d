"""A payload that is larger than any may be is kept aside, and what came with it is not."""

from __future__ import annotations

from typing import Any

import pytest

from agentlayers.journal import replication
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.memory import MemoryJournal

REMOTE = bytes(16)


def entries(*sizes: int) -> list[RemoteEntry]:
    return [
        RemoteEntry(number, Entry(number.to_bytes(16, "big"), "line", "k", bytes(size)))
        for number, size in enumerate(sizes, 1)
    ]


@pytest.mark.parametrize(
    ("sizes", "kept"), [((5, 100), [1, 2]), ((5, 101, 7), [1, 3]), ((101,), [])], ids=["fits", "one does not", "alone"]
)
async def test_what_is_too_large_is_kept_aside(
    sizes: tuple[int, ...], kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "PAYLOAD_BYTES_MAX", 100)
    async with MemoryJournal() as journal:
        await journal.register(StoreSchema(name="notes"))
        result = await journal.write_from_remote("notes", REMOTE, entries(*sizes))
        held: list[Any] = await journal.entries("notes")

    assert [int.from_bytes(stored.entry.id, "big") for stored in held] == kept
    assert len(result.quarantined) == len(sizes) - len(kept)
