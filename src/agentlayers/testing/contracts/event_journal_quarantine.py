"""The part of the journal's contract that is about what cannot be used: kept aside, within a bound."""

from __future__ import annotations

import logging

import pytest

from agentlayers import limits
from agentlayers.journal.entry import RemoteEntry
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.quarantine import QuarantineResult, UnreadableEntry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.testing.contracts.event_journal_world import (
    OTHER_REMOTE,
    REMOTE,
    JournalContractFixtures,
    Medium,
    entry_at,
    notes,
    stock_put,
)

__all__ = ["EventJournalQuarantineContract"]

KEY, OTHER_KEY = b"one key", b"another key"


def _junk(*numbers: int, size: int = 10) -> list[UnreadableEntry]:
    """Make something nobody can read; its number is its sequence."""
    return [UnreadableEntry(entry_at(number).id, number, b"j" * size, "") for number in numbers]


async def _keep(
    journal: EventJournal, junk: list[UnreadableEntry], *, remote_id: bytes = REMOTE, key: bytes = KEY
) -> QuarantineResult:
    return await journal.transact(lambda tx: tx.quarantine("notes", remote_id, junk, key_check=key))


async def _kept(journal: EventJournal) -> list[int]:
    return sorted(one.sequence for one in await journal.read(lambda tx: tx.quarantined("notes")))


async def _return(journal: EventJournal, key: bytes, remote_id: bytes = REMOTE) -> tuple[bool, int]:
    """Go back to what was not kept; whether that was done, and the cursor then."""

    def work(tx: JournalTransaction) -> tuple[bool, int]:
        is_moved = tx.return_to_not_kept("notes", remote_id, key_check=key)
        return is_moved, tx.remote_state("notes", remote_id).next_sequence

    return await journal.transact(work)


class EventJournalQuarantineContract(JournalContractFixtures):
    """What is kept aside, what there is no room for, and how both come back."""

    async def test_an_unusable_entry_is_kept_aside_alone(self, medium: Medium) -> None:
        """The rest of the batch is taken; it is reported once."""
        good, bad = entry_at(1), stock_put(2, 1)._replace(payload=b"\xc1")
        batch = [RemoteEntry(0, bad), RemoteEntry(1, good)]
        async with medium() as journal:
            await journal.register(notes())
            first = await journal.write_from_remote("notes", REMOTE, batch)
            second = await journal.write_from_remote("notes", REMOTE, batch)
            kept = await journal.read(lambda tx: tx.quarantined("notes"))

        assert (first.written, first.quarantined) == ((good,), (bad.id,))
        assert (second.written, second.quarantined, second.duplicates) == ((), (), 2)
        assert [(item.id, item.remote_id, item.data) for item in kept] == [(bad.id, REMOTE, b"\xc1")]

    async def test_what_cannot_even_be_read_can_be_kept_aside(self, medium: Medium) -> None:
        """Told once, listed with its reason."""
        junk = UnreadableEntry(b"i" * 16, 3, b"sealed", "not ours")
        async with medium() as journal:
            await journal.register(notes())
            first, second = await _keep(journal, [junk, junk]), await _keep(journal, [junk])
            (kept,) = await journal.read(lambda tx: tx.quarantined("notes"))

        assert (first.kept, first.not_kept) == ((junk.id,), ())
        assert second == QuarantineResult()
        assert (kept.id, kept.sequence, kept.data, kept.reason) == junk

    async def test_what_is_released_from_quarantine_is_gone_from_it_and_may_be_written(self, medium: Medium) -> None:
        """In one transaction: as when what was unreadable can be read after all."""
        usable, other = entry_at(1), entry_at(2)
        async with medium() as journal:
            await journal.register(notes())

            def take_over(tx: JournalTransaction) -> None:
                tx.release_quarantined("notes", [usable.id])
                tx.write_from_remote("notes", REMOTE, [RemoteEntry(3, usable)])

            await _keep(journal, _junk(1, 2))
            first, *others = await journal.read(lambda tx: tx.quarantined("notes", entries_max=1))
            second = await journal.read(lambda tx: tx.quarantined("notes", after=first.id, entries_max=5))
            await journal.transact(take_over)
        async with medium() as journal:
            await journal.register(notes())

            assert sorted(one.id for one in (first, *others, *second)) == sorted((usable.id, other.id))
            assert await _kept(journal) == [2]
            assert [stored.entry for stored in await journal.entries("notes")] == [usable]
            assert await journal.uncommitted("notes", REMOTE, entries_max=10, bytes_max=1000) == []

    async def test_what_is_here_is_not_kept_aside_and_what_comes_readable_is_kept_no_more(self, medium: Medium) -> None:
        """The same entry may come from one remote as junk and from another as it is, in either order."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(1))])
            first = await _keep(journal, _junk(1, 2, 3))
            await journal.write_from_remote("notes", OTHER_REMOTE, [RemoteEntry(0, entry_at(2))])

            assert first.kept == (entry_at(2).id, entry_at(3).id)
            assert await _kept(journal) == [3]

    # -- the bound -----------------------------------------------------------------------------------------
    async def test_beyond_so_many_entries_nothing_is_kept_until_there_is_room(
        self, medium: Medium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was not kept is counted each time it comes; each store has a bound of its own."""
        monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 3)
        async with medium() as journal:
            await journal.register(notes())
            await journal.register(notes("other"))
            first, second = await _keep(journal, _junk(1, 2)), await _keep(journal, _junk(1, 3, 4, 5))
            elsewhere = await journal.transact(lambda tx: tx.quarantine("other", REMOTE, _junk(1, 2, 3), key_check=KEY))
        async with medium() as journal:
            await journal.register(notes())
            third = await _keep(journal, _junk(3, 4, 6))
            await journal.transact(lambda tx: tx.release_quarantined("notes", [entry_at(1).id, entry_at(9).id]))
            fourth = await _keep(journal, _junk(7, 8))

            assert [len(result.kept) for result in (first, second, third, fourth)] == [2, 1, 0, 1]
            assert second.not_kept == (entry_at(4).id, entry_at(5).id)
            assert third.not_kept == (entry_at(4).id, entry_at(6).id)
            assert await _kept(journal) == [2, 3, 7]
            assert await journal.read(lambda tx: tx.count_not_kept("notes")) == 5
            assert await journal.read(lambda tx: tx.count_not_kept("other")) == 0
        assert len(elsewhere.kept) == 3

    async def test_beyond_so_many_bytes_nothing_large_is_kept(
        self, medium: Medium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What still fits is, and what is released makes room for as much."""
        monkeypatch.setattr(limits, "QUARANTINE_BYTES_MAX", 1000)
        async with medium() as journal:
            await journal.register(notes())
            first = await _keep(journal, [*_junk(1, 2, size=400), *_junk(3, size=300), *_junk(4, size=200)])
            await journal.transact(lambda tx: tx.release_quarantined("notes", [entry_at(1).id]))
            second = await _keep(journal, [*_junk(5, size=401), *_junk(6, size=400), *_junk(7, size=1)])

            assert (len(first.kept), first.not_kept) == (3, (entry_at(3).id,))
            assert (second.kept, len(second.not_kept)) == ((entry_at(6).id,), 2)
            assert await _kept(journal) == [2, 4, 6]

    async def test_what_could_be_read_is_bounded_too(self, medium: Medium, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever has the key, or a server where nothing is encrypted, can send any number of what is of no use."""
        monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 2)
        bad = [RemoteEntry(at, stock_put(at, 1)._replace(payload=b"\xc1")) for at in range(1, 6)]
        good = RemoteEntry(6, entry_at(6))
        async with medium() as journal:
            await journal.register(notes())
            first = await journal.write_from_remote("notes", REMOTE, [*bad[:3], good, *bad[3:]])
            second = await journal.write_from_remote("notes", REMOTE, bad)

            assert first.written == (good.entry,)
            assert (len(first.quarantined), len(first.not_kept), first.duplicates) == (2, 3, 0)
            assert (second.quarantined, len(second.not_kept), second.duplicates) == ((), 3, 2)
            assert await _return(journal, OTHER_KEY) == (False, 7)  # no other key would help

    async def test_a_flood_of_what_is_not_kept_is_logged_each_time_it_has_doubled(
        self, medium: Medium, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Also when the journal is opened again in between."""
        monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 0)
        for _ in range(2):
            async with medium() as journal:
                await journal.register(notes())
                with caplog.at_level(logging.WARNING):
                    for at in range(100):
                        await _keep(journal, _junk(at))

        assert sum("quarantine_full" in record.getMessage() for record in caplog.records) == 8

    # -- coming back ---------------------------------------------------------------------------------------
    async def test_another_key_brings_the_cursor_back_to_what_was_not_kept(
        self, medium: Medium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once, and only of the remote it came from; what was kept needs no cursor."""
        monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 1)
        async with medium() as journal:
            await journal.register(notes())
            for remote_id in (REMOTE, OTHER_REMOTE):
                await journal.write_from_remote("notes", remote_id, [RemoteEntry(99, entry_at(99))])
            await _keep(journal, _junk(3, 20))
            await _keep(journal, _junk(10))
            await _keep(journal, _junk(40), remote_id=OTHER_REMOTE)
        async with medium() as journal:
            await journal.register(notes())

            assert await _return(journal, KEY) == (False, 100)
            assert await _return(journal, OTHER_KEY) == (True, 10)
            assert await journal.read(lambda tx: tx.count_not_kept("notes")) == 1
            assert await _return(journal, KEY) == (False, 10)
            assert await _return(journal, OTHER_KEY, OTHER_REMOTE) == (True, 40)
            assert await _return(journal, OTHER_KEY, b"remote-3--------") == (False, 0)

    async def test_what_was_met_with_two_keys_is_read_again_with_either(
        self, medium: Medium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when two processes have one journal open; and the cursor is never moved forwards by it."""
        monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 0)
        async with medium() as journal:
            await journal.register(notes())
            await _keep(journal, _junk(10), key=KEY)
            await _keep(journal, _junk(20), key=OTHER_KEY)

            assert await _return(journal, OTHER_KEY) == (True, 0)
            assert await _return(journal, KEY) == (False, 0)

    async def test_a_remote_that_is_read_from_the_start_owes_nothing_that_was_not_kept(
        self, medium: Medium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It comes again by itself."""
        monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 0)
        async with medium() as journal:
            await journal.register(notes())
            await _keep(journal, _junk(10))
            await journal.reset_remote("notes", REMOTE, incarnation=b"new")

            assert await journal.read(lambda tx: tx.count_not_kept("notes")) == 0
            assert await _return(journal, OTHER_KEY) == (False, 0)

    async def test_a_transaction_that_fails_keeps_nothing_aside_and_counts_nothing(
        self, medium: Medium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither entries nor the room they would have taken."""
        monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 2)

        def fail(tx: JournalTransaction) -> None:
            tx.quarantine("notes", REMOTE, _junk(1, 2, 3), key_check=KEY)
            raise RuntimeError("on purpose")

        async with medium() as journal:
            await journal.register(notes())
            with pytest.raises(RuntimeError, match="on purpose"):
                await journal.transact(fail)
            after = await _keep(journal, _junk(4, 5))

            assert len(after.kept) == 2
            assert await _kept(journal) == [4, 5]
            assert await journal.read(lambda tx: tx.count_not_kept("notes")) == 0
