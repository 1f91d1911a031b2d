"""The part of the journal's contract that is about compaction."""

from __future__ import annotations

from agentlayers.journal.compaction import ByAge, ByCount, ByKey, BySize, Composite
from agentlayers.journal.entry import RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement, EventJournal, Observation
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import HORIZON_WINDOW_SECONDS
from agentlayers.testing.contracts.event_journal_world import (
    OTHER_REMOTE,
    REMOTE,
    JournalContractFixtures,
    ManualClock,
    Medium,
    entry_at,
    notes,
    shown,
    stock_put,
    their_put,
)

__all__ = ["EventJournalRetentionContract"]

DAY = 86_400.0


async def _keys(journal: EventJournal) -> list[str]:
    return [stored.entry.primary_key for stored in await journal.entries("notes", entries_max=10_000)]


async def _lines(journal: EventJournal) -> int:
    return len(await journal.read(lambda tx: list(tx.scan(b"notes\x00line", b"notes\x00linf"))))


class EventJournalRetentionContract(JournalContractFixtures):
    """What compaction drops, what it never drops, and that nothing comes back."""

    async def test_by_age_drops_what_is_older(self, medium: Medium, clock: ManualClock) -> None:
        """Entries and their part of the read model."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "old", {})
            clock.advance(40 * DAY)
            await journal.write("notes", "line", "new", {})
            report = await journal.compact("notes", ByAge("30 days"))

            assert await _keys(journal) == ["new"]
            assert await _lines(journal) == 1
        assert (report.before, report.after, report.dropped, report.events) == (2, 1, 1, ("line",))

    async def test_by_count_keeps_the_newest_of_each_scope(self, medium: Medium) -> None:
        """A busy session does not evict another."""
        async with medium() as journal:
            await journal.register(notes())
            for key in ("a:1", "a:2", "b:1", "a:3", "a:4"):
                await journal.write("notes", "line", key, {})
            await journal.compact("notes", ByCount(2))

            assert await _keys(journal) == ["b:1", "a:3", "a:4"]

    async def test_by_size_stops_at_the_first_that_does_not_fit(self, medium: Medium) -> None:
        """No gap is left in a history."""
        async with medium() as journal:
            await journal.register(notes())
            for key, size in (("a:1", 10), ("a:2", 5000), ("a:3", 10)):
                await journal.write("notes", "line", key, {"text": "x" * size})
            await journal.compact("notes", BySize("1 KB"))

            assert await _keys(journal) == ["a:3"]

    async def test_composite_applies_strategies_in_turn(self, medium: Medium, clock: ManualClock) -> None:
        """What one drops does not use up another's count."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "a:old", {})
            clock.advance(40 * DAY)
            for key in ("a:1", "a:2", "a:3"):
                await journal.write("notes", "line", key, {})
            await journal.compact("notes", Composite(ByAge("30 days"), ByCount(2)))

            assert await _keys(journal) == ["a:2", "a:3"]

    async def test_what_a_current_remote_lacks_is_held_back(self, medium: Medium) -> None:
        """Until it acknowledges or is retired."""
        async with medium() as journal:
            await journal.register(notes())
            for key in ("1", "2", "3"):
                await journal.write("notes", "line", key, {})
            positions = [stored.position for stored in await journal.entries()]
            await journal.acknowledge("notes", REMOTE, Acknowledgement([positions[0], positions[2]]))
            held = await journal.compact("notes", ByAge(0))
            left = await _keys(journal)
            await journal.transact(lambda tx: tx.retire_remote("notes", REMOTE))
            await journal.compact("notes", ByAge(0))

            assert (held.dropped, held.held_back, left) == (2, 1, ["2"])
            assert await _keys(journal) == []

    async def test_a_new_remote_at_the_same_address_retires_the_old(self, medium: Medium) -> None:
        """The old one's missing Acks hold nothing back any more."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "1", {})
            (stored,) = await journal.entries()

            def replace(tx: JournalTransaction) -> list[bool]:
                tx.remember_remote("notes", REMOTE, url="ws://here")
                tx.remember_remote("notes", OTHER_REMOTE, url="ws://here")
                return [remote.is_retired for remote in tx.remotes("notes")]

            retired = await journal.transact(replace)
            await journal.acknowledge("notes", OTHER_REMOTE, Acknowledgement([stored.position]))
            report = await journal.compact("notes", ByAge(0))

        assert retired == [True, False]
        assert report.dropped == 1

    async def test_nothing_compacted_comes_back(self, medium: Medium) -> None:
        """Not from the remote, not from another, not after a restart."""
        entry = entry_at(1)
        async with medium() as journal:
            await journal.register(notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry)])
            await journal.compact("notes", ByAge(0))
        async with medium() as journal:
            await journal.register(notes())
            result = await journal.write_from_remote("notes", OTHER_REMOTE, [RemoteEntry(0, entry)])

            assert (result.written, result.duplicates) == ((), 1)
            assert await _keys(journal) == []

    async def test_what_is_older_than_a_forgotten_id_is_quarantined(self, medium: Medium, clock: ManualClock) -> None:
        """Past the window it cannot be told whether it was compacted; it is neither taken nor lost."""
        dropped, late, young = (
            entry_at(5),
            entry_at(4, primary_key="late"),
            entry_at(6, primary_key="young"),
        )
        async with medium() as journal:
            await journal.register(notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, dropped)])
            await journal.compact("notes", ByAge(0))
            clock.advance(HORIZON_WINDOW_SECONDS + 2 * DAY)
            await journal.compact("notes", ByAge("1 day"))
            result = await journal.write_from_remote(
                "notes",
                REMOTE,
                [RemoteEntry(0, dropped), RemoteEntry(1, late), RemoteEntry(2, young)],
            )
            kept = await journal.read(lambda tx: [item.id for item in tx.quarantined("notes")])

        assert result.quarantined == (dropped.id, late.id)
        assert sorted([dropped.id, late.id]) == kept
        assert result.written == (young,)

    async def test_a_key_goes_whole_or_keeps_all_its_heads(self, medium: Medium, clock: ManualClock) -> None:
        """Its newest head decides, so no visible value changes while the key is there."""
        async with medium() as journal:
            await journal.register(notes())
            batch = [
                RemoteEntry(0, their_put(1, 1, replica="A")),
                RemoteEntry(1, their_put(clock.now_ms(), 2, replica="B")),
                RemoteEntry(2, their_put(1, 3, replica="A", primary_key="gone")),
                RemoteEntry(3, their_put(2, 4, replica="B", primary_key="gone")),
            ]
            await journal.write_from_remote("notes", REMOTE, batch)
            await journal.compact("notes", ByAge("1 day"))
            kept, gone = await journal.read(lambda tx: (tx.heads("notes", "k"), tx.versions("notes", "gone")))
            value = await journal.read(lambda tx: shown(tx, "gone"))

        assert [dict(head.value) for head in kept] == [{"v": 1}, {"v": 2}]
        assert gone == []
        assert value is None

    async def test_by_key_drops_superseded_versions_alone(self, medium: Medium) -> None:
        """Values and deletion marks stay."""
        async with medium() as journal:
            await journal.register(notes())
            for event, key, value in (
                ("put", "a", 1),
                ("put", "a", 2),
                ("put", "b", 3),
                ("delete", "b", 0),
            ):
                await journal.write("notes", event, key, {"v": value})
            report = await journal.compact("notes", ByKey())
            values = await journal.read(lambda tx: (shown(tx, "a"), shown(tx, "b")))
            events = [stored.entry.event for stored in await journal.entries()]

        assert report.dropped == 2
        assert values == ({"v": 2}, None)
        assert events == ["put", "delete"]

    async def test_what_was_superseded_stays_so_after_compaction(self, medium: Medium) -> None:
        """A version that arrives late finds what superseded it compacted, and yet is no head."""
        late = their_put(1, 1, replica="A")
        middle = their_put(2, 2, replica="B", seen={"A": late.id})
        last = their_put(3, 3, replica="C", seen={"B": middle.id})
        async with medium() as journal:
            await journal.register(notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(1, middle), RemoteEntry(2, last)])
            await journal.compact("notes", ByKey())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, late)])
            heads = await journal.read(lambda tx: tx.heads("notes", "k"))

        assert [head.id for head in heads] == [last.id]

    async def test_a_version_from_the_far_future_does_not_come_back(self, medium: Medium) -> None:
        """It was superseded by one that a stock peer's entry superseded in turn, and that one is compacted."""
        hours = 3_600_000
        future = their_put(9 * hours, 1, replica="A")
        middle = their_put(1 * hours, 2, replica="B", seen={"A": future.id})
        stock = stock_put(2 * hours, 3)
        async with medium() as journal:
            await journal.register(notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(1, middle), RemoteEntry(2, stock)])
            await journal.compact("notes", ByKey())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, future)])
            heads = await journal.read(lambda tx: tx.heads("notes", "k"))

        assert [head.id for head in heads] == [stock.id]

    async def test_compaction_is_reported(self, medium: Medium, clock: ManualClock) -> None:
        """With the fields of the audit event; a run that drops nothing is silent."""
        seen: list[Observation] = []
        async with medium() as journal:
            await journal.register(notes())
            journal.observe(lambda _tx, observation: seen.append(observation))
            await journal.write("notes", "line", "a", {})
            await journal.compact("notes", ByAge("1 day"))
            await journal.compact("notes", ByAge(0))

        (observation,) = seen
        assert (observation.kind, observation.store) == ("sync_compaction", "notes")
        assert observation.fields == {
            "remoteId": "", "before": 1, "after": 0, "events": ["line"], "timestamp": clock.now_ms(),
        }  # fmt: skip

    async def test_a_large_store_is_compacted_in_steps(self, medium: Medium) -> None:
        """More entries than one step drops; none is left over or dropped by mistake."""
        async with medium() as journal:
            await journal.register(notes())
            for start in range(0, 5000, 500):
                await journal.transact(
                    lambda tx, start=start: [  # type: ignore[misc]
                        tx.write("notes", "line", f"a:{start + n}", {}) for n in range(500)
                    ]
                )
            report = await journal.compact("notes", ByCount(123))

            assert [f"a:{n}" for n in range(4877, 5000)] == await _keys(journal)
            assert await _lines(journal) == 123
        assert (report.before, report.dropped, report.after) == (5000, 4877, 123)
