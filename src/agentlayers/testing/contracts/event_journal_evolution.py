"""The part of the journal's contract about what a release does not know yet, and about those who follow commits."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

from agentlayers.journal.compaction import ByCount
from agentlayers.journal.consumer import (
    Consumer,
    SetAside,
    consumers_of,
    forget_consumer,
    put_consumer,
    put_set_aside,
    set_aside_of,
)
from agentlayers.journal.entry import RemoteEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.testing.contracts.event_journal_world import (
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

__all__ = ["EventJournalEvolutionContract"]


def _old() -> StoreSchema:
    """Return a release that knows nothing but lines."""
    return StoreSchema(name="notes", events=frozenset({"line"}))


def _new() -> StoreSchema:
    return replace(notes(), events=frozenset({"line", "put", "delete"}))


class EventJournalEvolutionContract(JournalContractFixtures):
    """Entries that are not understood, consumers, and commits as they come."""

    async def test_an_event_that_is_not_known_is_kept_and_applied_once_it_is(
        self, medium: Medium, clock: ManualClock
    ) -> None:
        """Keyed events become versions then, conflicts included, as if they had just come; and stay so."""
        now = clock.now_ms()
        first, second = their_put(now - 2, 1, replica="B"), their_put(now - 1, 2, replica="C")
        third = their_put(now, 3, replica="B", seen={"B": first.id}, primary_key="k")
        async with medium() as journal:
            await journal.register(_old())
            batch = [RemoteEntry(number, entry) for number, entry in enumerate((second, entry_at(5), first))]
            await journal.write_from_remote("notes", REMOTE, batch)
            before = await journal.read(lambda tx: tx.unapplied("notes"))
            kept = await journal.entries("notes")
        async with medium() as journal:
            await journal.register(_old())
            again = await journal.read(lambda tx: tx.unapplied("notes"))
        async with medium() as journal:
            await journal.register(_new())
            left = await journal.read(lambda tx: tx.unapplied("notes"))
            heads = await journal.read(lambda tx: [head.id for head in tx.heads("notes", "k")])
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(3, third)])
            (conflict,) = await journal.read(lambda tx: tx.conflicts("notes"))
        async with medium() as journal:
            await journal.register(_new())
            versions = await journal.read(lambda tx: [one.id for one in tx.versions("notes", "k")])
            value = await journal.read(lambda tx: shown(tx, "k"))

        assert [(one.stored.entry, one.attempts) for one in before] == [(second, 0), (first, 0)]
        assert again == before
        assert "'put'; it knows line" in before[0].error
        assert [stored.is_applied for stored in kept] == [False, True, False]
        assert (left, heads) == ([], [first.id, second.id])
        assert [head.id for head in conflict.heads] == [second.id, third.id]
        assert versions == [first.id, second.id, third.id]
        assert value == {"v": 3}

    async def test_what_turns_out_to_be_no_version_stays_unapplied(self, medium: Medium, clock: ManualClock) -> None:
        """It was kept while its event was not known, and harms nothing once it is."""
        bad = entry_at(clock.now_ms(), event="put")._replace(payload=b"\xc1")
        async with medium() as journal:
            await journal.register(_old())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, bad), RemoteEntry(1, stock_put(1, 1))])
        async with medium() as journal:
            await journal.register(_new())
            left = await journal.read(lambda tx: tx.unapplied("notes"))
            value = await journal.read(lambda tx: shown(tx, "k"))

        assert [one.attempts for one in left] in ([1], [])  # a journal may keep bytes that are no payload aside
        assert value == {"v": 1}

    async def test_commits_are_told_at_once_and_as_they_come(self, medium: Medium) -> None:
        """Those of other stores are not; what is committed while the caller is busy counts as one."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.register(notes("other"))
            async with aclosing(journal.commits("notes")) as commits:
                await anext(commits)
                for number in range(3):
                    await journal.write("notes", "line", str(number), {})
                told = await asyncio.wait_for(anext(commits), 5)
                following = asyncio.ensure_future(anext(commits))
                await journal.write("other", "line", "x", {})
                await asyncio.sleep(0.01)
                is_quiet = not following.done() or following.result() <= told
                await journal.write("notes", "line", "y", {})
                await asyncio.wait_for(following, 5)
            ending = journal.commits()
            await anext(ending)
        left = [position async for position in ending]

        assert told >= 1
        assert is_quiet
        assert left == []

    async def test_compaction_leaves_what_a_consumer_has_yet_to_handle(self, medium: Medium) -> None:
        """What it named only, and only until it is forgotten; over a restart."""
        async with medium() as journal:
            await journal.register(notes())
            for number in range(3):
                await journal.write("notes", "line", str(number), {})
            await journal.write("notes", "put", "k", {"v": 1})
            positions = [stored.position for stored in await journal.entries()]
            reader = Consumer("notes", "mail", positions[0], frozenset({"line"}))
            await journal.transact(lambda tx: put_consumer(tx, reader))
            await journal.transact(
                lambda tx: put_set_aside(tx, "notes", "mail", positions[0], SetAside(positions[0], "why", 2))
            )
        async with medium() as journal:
            await journal.register(notes())
            known = await journal.read(lambda tx: (consumers_of(tx, "notes"), set_aside_of(tx, "notes", "mail")))
            held = await journal.compact("notes", ByCount(0))
            was_known = await journal.transact(lambda tx: forget_consumer(tx, "notes", "mail"))
            gone = await journal.compact("notes", ByCount(0))
            nothing = await journal.transact(_forgotten)

        assert known == ([reader], [SetAside(positions[0], "why", 2)])
        assert (held.dropped, held.held_back) == (2, 2)
        assert (was_known, gone.dropped) == (True, 2)
        assert nothing == (False, [], [])


def _forgotten(tx: JournalTransaction) -> tuple[bool, list[Consumer], list[SetAside]]:
    return forget_consumer(tx, "notes", "mail"), consumers_of(tx, "notes"), set_aside_of(tx, "notes", "mail")
