"""Journals, policies and strategies as layers."""

from __future__ import annotations

from pathlib import Path

from agentlayers.journal import (
    ByAge,
    ByCount,
    Compaction,
    CompactionStrategy,
    Composite,
    ConflictPolicy,
    EventJournal,
    FirstWriteWins,
    LastWriteWins,
    MemoryJournal,
    Merge,
    Reject,
    SQLiteJournal,
)
from agentlayers.testing.contracts.event_journal_world import notes


async def test_a_journal_layer_opens_and_closes_the_journal(tmp_path: Path) -> None:
    async with EventJournal.layer_sqlite(tmp_path, durability="normal").build(EventJournal) as journal:
        assert isinstance(journal, SQLiteJournal)
        await journal.register(notes())
        await journal.write("notes", "line", "a", {})
    async with EventJournal.layer_sqlite(tmp_path).build(EventJournal) as journal:
        assert [stored.entry.primary_key for stored in await journal.entries()] == ["a"]


async def test_the_memory_layer_opens_a_new_journal_each_time() -> None:
    layer = EventJournal.layer_memory()
    async with layer.build(EventJournal) as first, layer.build(EventJournal) as second:
        assert isinstance(first, MemoryJournal)
        assert first is not second


async def test_policies_and_strategies_are_values_in_the_graph() -> None:
    def join(values: object) -> dict[str, object]:
        return {"all": values}

    for layer, expected in (
        (ConflictPolicy.layer_last_write_wins(), LastWriteWins()),
        (ConflictPolicy.layer_first_write_wins(), FirstWriteWins()),
        (ConflictPolicy.layer_merge(join), Merge(join)),
        (ConflictPolicy.layer_reject(), Reject()),
        (ConflictPolicy.layer_reject("busy"), Reject("busy")),
    ):
        async with layer.build(ConflictPolicy) as policy:
            assert policy == expected
    composite = Compaction.layer_composite(ByAge("1 day"), ByCount(5))
    async with composite.build(CompactionStrategy) as strategy:
        assert strategy == Composite(ByAge("1 day"), ByCount(5))
