"""The part of the journal's contract that is about several remotes: who is sent what came from whom."""

from __future__ import annotations

import asyncio

from agentlayers.journal.compaction import ByAge
from agentlayers.journal.entry import RemoteEntry, StoredEntry
from agentlayers.journal.event_journal import Acknowledgement, Commit, EventJournal, RelayMode
from agentlayers.testing.contracts.event_journal_world import (
    OTHER_REMOTE,
    REMOTE,
    JournalContractFixtures,
    Medium,
    entry_at,
    notes,
)

__all__ = ["EventJournalRelayContract"]


async def _pending(
    journal: EventJournal, remote_id: bytes = REMOTE, *, relayed: bool | None = None
) -> list[StoredEntry]:
    return await journal.uncommitted("notes", remote_id, entries_max=10_000, bytes_max=1 << 30, relayed=relayed)


async def _relay(
    journal: EventJournal, remote_id: bytes, mode: RelayMode = RelayMode.WHEN_SEVERAL, *, url: str | None = None
) -> None:
    await journal.transact(lambda tx: tx.remember_remote("notes", remote_id, url=url, relay=mode))


class EventJournalRelayContract(JournalContractFixtures):
    """Relaying, and what a commit says of where its entries came from."""

    async def test_what_came_from_one_remote_is_pending_for_another_that_is_relayed_to(self, medium: Medium) -> None:
        """Not for the one it came from, nor for one that gets own entries only; own and relayed ones can be told."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(1))])
            await journal.write("notes", "observed", "a", {})
            await journal.write("notes", "line", "b", {})
            await _relay(journal, OTHER_REMOTE, RelayMode.ALWAYS)
            await _relay(journal, REMOTE, RelayMode.ALWAYS)
            both, own, relayed = [
                [item.is_local for item in await _pending(journal, OTHER_REMOTE, relayed=kind)]
                for kind in (None, False, True)
            ]
            back = await _pending(journal, REMOTE)
            state = await journal.remote_state("notes", OTHER_REMOTE)
            await _relay(journal, OTHER_REMOTE, RelayMode.NEVER)
            never = await _pending(journal, OTHER_REMOTE)

        assert (both, own, relayed) == ([False, True], [True], [False])
        assert [item.is_local for item in back] == [True]
        assert (state.pending, state.relayed) == (2, 1)
        assert [item.is_local for item in never] == [True]

    async def test_a_remote_is_relayed_to_once_there_are_several(self, medium: Medium) -> None:
        """Those that were there before get what comes with the new one, and the new one gets all that is held."""
        async with medium() as journal:
            await journal.register(notes())
            await _relay(journal, REMOTE)
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(1))])
            alone = await journal.read(lambda tx: [remote.relays for remote in tx.remotes("notes")])
            await _relay(journal, OTHER_REMOTE)
            await journal.write_from_remote("notes", OTHER_REMOTE, [RemoteEntry(0, entry_at(2))])
            both = await journal.read(lambda tx: [remote.relays for remote in tx.remotes("notes")])
            pending = [[item.entry for item in await _pending(journal, one)] for one in (REMOTE, OTHER_REMOTE)]

        assert (alone, both) == ([False], [True, True])
        assert pending == [[entry_at(2)], [entry_at(1)]]

    async def test_what_a_remote_is_known_to_have_is_not_sent_to_it(self, medium: Medium) -> None:
        """It acknowledged it or sent it too, in any order, before relaying was switched on or after, over a restart."""
        entries = [entry_at(number) for number in range(6)]
        async with medium() as journal:
            await journal.register(notes())
            batch = [RemoteEntry(number, entry) for number, entry in enumerate(entries)]
            await journal.write_from_remote("notes", REMOTE, batch)
            await journal.write_from_remote("notes", OTHER_REMOTE, [RemoteEntry(0, entries[4])])
            await _relay(journal, OTHER_REMOTE)
            await journal.write_from_remote("notes", OTHER_REMOTE, [RemoteEntry(1, entries[1]), batch[0]])
            positions = [item.position for item in await _pending(journal, OTHER_REMOTE)]
            await journal.acknowledge("notes", OTHER_REMOTE, Acknowledgement(positions[2:]))
        async with medium() as journal:
            await journal.register(notes())
            left = [item.entry for item in await _pending(journal, OTHER_REMOTE)]
            await journal.acknowledge("notes", OTHER_REMOTE, Acknowledgement(positions))
            done = await journal.remote_state("notes", OTHER_REMOTE)

        assert len(positions) == 3
        assert left == entries[2:4]
        assert done.pending == 0

    async def test_own_and_relayed_entries_are_acknowledged_together(self, medium: Medium) -> None:
        """In one Ack, in any order; neither kind hides one of the other."""
        async with medium() as journal:
            await journal.register(notes())
            await _relay(journal, OTHER_REMOTE)
            for number in range(4):
                await journal.write_from_remote("notes", REMOTE, [RemoteEntry(number, entry_at(number))])
                await journal.write("notes", "line", "b", {})
            positions = [item.position for item in await _pending(journal, OTHER_REMOTE)]
            await journal.acknowledge("notes", OTHER_REMOTE, Acknowledgement([positions[at] for at in (6, 3, 0, 1)]))
            left = [item.position for item in await _pending(journal, OTHER_REMOTE)]
            state = await journal.remote_state("notes", OTHER_REMOTE)
            await journal.acknowledge("notes", OTHER_REMOTE, Acknowledgement(left))
            done = await _pending(journal, OTHER_REMOTE)

        assert left == [positions[at] for at in (2, 4, 5, 7)]
        assert (state.pending, state.relayed) == (4, 2)
        assert done == []

    async def test_a_mixed_list_of_what_is_pending_leaves_nothing_out(self, medium: Medium) -> None:
        """However it is cut by number and bytes."""
        async with medium() as journal:
            await journal.register(notes())
            await _relay(journal, OTHER_REMOTE)
            for number in range(12):
                size = 10 + 90 * (number % 3)
                if number % 4 < 2:
                    entry = entry_at(number, payload={"x": "x" * size})
                    await journal.write_from_remote("notes", REMOTE, [RemoteEntry(number, entry)])
                else:
                    await journal.write("notes", "line", "k", {"x": "x" * size})
            everything = [item.position for item in await _pending(journal, OTHER_REMOTE)]
            for entries_max, bytes_max in ((1, 1), (3, 1 << 20), (100, 150), (2, 100), (5, 400)):
                found: list[int] = []
                while page := await journal.uncommitted(
                    "notes",
                    OTHER_REMOTE,
                    after=found[-1] if found else 0,
                    entries_max=entries_max,
                    bytes_max=bytes_max,
                ):
                    assert len(page) <= entries_max
                    assert len(page) == 1 or sum(len(item.entry.payload) for item in page) <= bytes_max
                    found += [item.position for item in page]

                assert found == everything
        assert len(everything) == 12

    async def test_a_remote_that_lost_its_data_gets_everything_back(self, medium: Medium) -> None:
        """Also what it sent itself, unless it sends it again; then it is as any other single remote."""
        entries = [entry_at(number) for number in range(3)]
        batch = [RemoteEntry(number, entry) for number, entry in enumerate(entries)]
        async with medium() as journal:
            await journal.register(notes())
            await journal.reset_remote("notes", REMOTE, incarnation=b"first")
            await _relay(journal, REMOTE)
            await journal.write_from_remote("notes", REMOTE, batch)
            before = await _pending(journal)
            await journal.reset_remote("notes", REMOTE, incarnation=b"second")
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entries[1]), RemoteEntry(1, entry_at(9))])
            lost = await _pending(journal)
            await journal.acknowledge("notes", REMOTE, Acknowledgement([item.position for item in lost]))
            after = await journal.remote_state("notes", REMOTE)
            (remote,) = await journal.read(lambda tx: tx.remotes("notes"))

        assert before == []
        assert [item.entry for item in lost] == [entries[0], entries[2]]
        assert (after.pending, remote.relays) == (0, False)

    async def test_another_server_at_the_same_address_gets_everything(self, medium: Medium) -> None:
        """The one before is retired, and what it sent is pending for the new one."""
        async with medium() as journal:
            await journal.register(notes())
            await _relay(journal, REMOTE, url="ws://one")
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(1))])
            await _relay(journal, OTHER_REMOTE, url="ws://one")
            pending = [item.entry for item in await _pending(journal, OTHER_REMOTE)]

        assert pending == [entry_at(1)]

    async def test_what_is_to_be_relayed_is_held_back_from_compaction(self, medium: Medium) -> None:
        """Until the other remote has it or is retired; what is dropped then comes back from neither."""
        entries = [entry_at(number) for number in range(3)]
        batch = [RemoteEntry(number, entry) for number, entry in enumerate(entries)]
        async with medium() as journal:
            await journal.register(notes())
            await _relay(journal, REMOTE)
            await _relay(journal, OTHER_REMOTE)
            await journal.write_from_remote("notes", REMOTE, batch)
            await journal.write_from_remote("notes", OTHER_REMOTE, batch[1:2])
            first = await journal.compact("notes", ByAge(0))
            left = [item.entry for item in await _pending(journal, OTHER_REMOTE)]
            await journal.transact(lambda tx: tx.retire_remote("notes", OTHER_REMOTE))
            second = await journal.compact("notes", ByAge(0))
            again = await journal.write_from_remote("notes", OTHER_REMOTE, batch)
            pending = [await _pending(journal, one) for one in (REMOTE, OTHER_REMOTE)]

        assert (first.dropped, first.held_back, second.dropped) == (1, 2, 2)
        assert left == [entries[0], entries[2]]
        assert (again.written, again.duplicates) == ((), 3)
        assert pending == [[], []]

    async def test_a_commit_tells_where_its_entries_came_from(self, medium: Medium) -> None:
        """So that nobody looks in vain for what could be pending."""
        commits: list[Commit] = []
        async with medium() as journal:
            await journal.register(notes())
            journal.on_commit(commits.append)
            await journal.write("notes", "observed", "a", {})
            await journal.write("notes", "line", "a", {})
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(1))])
            await asyncio.sleep(0.01)

        assert [commit.has_own("notes") for commit in commits] == [False, True, False]
        assert [commit.has_received("notes", other_than=OTHER_REMOTE) for commit in commits] == [False, False, True]
        assert not any(commit.has_received("notes", other_than=REMOTE) for commit in commits)
        assert not any(commit.has_own("other") for commit in commits)
