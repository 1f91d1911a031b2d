"""
What every :class:`~agentlayers.journal.event_journal.EventJournal` has to do.

Subclass :class:`EventJournalContract` in a test module and give it the fixture ``medium``: a function that returns
a journal over one medium; called again, it returns one that finds what the first wrote. Needs pytest with asyncio
in automatic mode.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from agentlayers.errors import StateError, UsageError
from agentlayers.journal.compaction import ByAge
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Commit, StoreSchema
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key
from agentlayers.protocol.payload import encode_payload
from agentlayers.testing.contracts.event_journal_evolution import EventJournalEvolutionContract
from agentlayers.testing.contracts.event_journal_remote import EventJournalRemoteContract
from agentlayers.testing.contracts.event_journal_retention import EventJournalRetentionContract
from agentlayers.testing.contracts.event_journal_text import EventJournalTextContract
from agentlayers.testing.contracts.event_journal_world import (
    REMOTE,
    ManualClock,
    Medium,
    entry_at,
    notes,
    shown,
)

__all__ = ["EventJournalContract"]


class EventJournalContract(
    EventJournalRemoteContract, EventJournalRetentionContract, EventJournalTextContract, EventJournalEvolutionContract
):
    """Each test is one promise of the port."""

    # -- writing -------------------------------------------------------------------------------------------
    async def test_what_was_written_is_listed_in_order(self, medium: Medium) -> None:
        """Positions ascend; the payload is the encoded mapping."""
        async with medium() as journal:
            await journal.register(notes())
            first = await journal.write("notes", "line", "a", {"n": 1})
            second = await journal.write("notes", "line", "b", {"n": 2})

            stored = await journal.entries("notes")

        assert [first, second] == [item.entry for item in stored]
        assert encode_payload({"n": 1}) == first.payload
        assert stored[0].position < stored[1].position
        assert all(item.is_local and item.is_applied for item in stored)

    async def test_a_large_entry_is_read_back_whole(self, medium: Medium) -> None:
        """Beyond every size at which a medium cuts values or packs them another way; also after a restart."""
        texts = ["x" * size for size in (65_535, 65_536, 600_000, 5_000_000)]
        async with medium() as journal:
            await journal.register(notes())
            written = [await journal.write("notes", "line", "a", {"text": text}) for text in texts]
        async with medium() as journal:
            await journal.register(notes())

            assert [item.entry for item in await journal.entries("notes")] == written
        assert [encode_payload({"text": text}) for text in texts] == [one.payload for one in written]

    async def test_ids_ascend_even_when_the_clock_steps_back(self, medium: Medium, clock: ManualClock) -> None:
        """What is written after something sorts after it."""
        async with medium() as journal:
            await journal.register(notes())
            ids = []
            for step in (0.0, 0.0, -3000.0, 0.0, 1.0):
                clock.advance(step)
                ids.append((await journal.write("notes", "line", "a", {})).id)

        assert sorted(set(ids)) == ids

    async def test_an_id_follows_those_received(self, medium: Medium, clock: ManualClock) -> None:
        """A peer whose clock is a little ahead is followed."""
        async with medium() as journal:
            await journal.register(notes())
            ahead = entry_at(clock.now_ms() + 60_000)
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, ahead)])
            written = await journal.write("notes", "line", "a", {})

        assert ahead.id < written.id

    async def test_a_far_future_id_drags_nothing_along(self, medium: Medium, clock: ManualClock) -> None:
        """A peer whose clock is hours ahead is not followed, whether before or after the first write."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "a", {})
            far = entry_at(clock.now_ms() + 7_200_000)
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, far)])
            written = await journal.write("notes", "line", "a", {})
            later = await journal.write("notes", "line", "a", {})

        assert written.id < later.id < far.id

    async def test_versions_of_one_replica_ascend_after_any_clock_step(
        self, medium: Medium, clock: ManualClock
    ) -> None:
        """Within a key even a step back of days keeps the order, because others rely on it."""
        async with medium() as journal:
            await journal.register(notes())
            first = await journal.write("notes", "put", "k", {"v": 1})
            clock.advance(-5 * 86_400)
            second = await journal.write("notes", "put", "k", {"v": 2})

        assert first.id < second.id

    async def test_the_reserved_key_is_refused(self, medium: Medium) -> None:
        """``_causal`` belongs to the journal."""
        async with medium() as journal:
            await journal.register(notes())
            with pytest.raises(UsageError, match="_causal"):
                await journal.write("notes", "line", "a", {"_causal": 1})

    async def test_what_no_medium_can_keep_is_refused_at_once(self, medium: Medium) -> None:
        """Not at the commit, where it would fail everybody who shares it."""

        def refuse(tx: JournalTransaction) -> int:
            wrong: Any = "text"
            refused = 0
            for work in (
                lambda: tx.put(b"key", wrong),
                lambda: tx.put(wrong, b"value"),
                lambda: tx.delete(wrong),
                lambda: tx.write("notes", "line", "\ud800", {}),
                lambda: tx.write("notes", "\ud800", "a", {}),
                lambda: tx.write("notes", "line", "a", {"v": object()}),
            ):
                with pytest.raises(UsageError):
                    work()
                refused += 1
            return refused

        async with medium() as journal:
            await journal.register(notes())
            refused = await journal.transact(refuse)
            await journal.write("notes", "line", "good", {})

            assert refused == 6
            assert [stored.entry.primary_key for stored in await journal.entries()] == ["good"]

    async def test_an_unregistered_store_is_refused(self, medium: Medium) -> None:
        """The error names the stores there are."""
        async with medium() as journal:
            await journal.register(notes())
            with pytest.raises(StateError, match=r"'other'.*notes"):
                await journal.write("other", "line", "a", {})

    async def test_a_store_is_registered_once(self, medium: Medium) -> None:
        """Two owners of one read model would overwrite each other."""
        async with medium() as journal:
            await journal.register(notes())
            with pytest.raises(StateError, match="already"):
                await journal.register(notes())

    async def test_a_closed_journal_is_refused(self, medium: Medium) -> None:
        """Nothing works outside ``async with``."""
        journal = medium()
        with pytest.raises(StateError, match="not open"):
            await journal.entries()

    # -- transactions --------------------------------------------------------------------------------------
    async def test_a_transaction_that_raises_is_undone(self, medium: Medium) -> None:
        """Entries, read model and positions are as before; the error reaches the caller."""

        def work(tx: JournalTransaction) -> None:
            tx.write("notes", "line", "a", {"n": 2})
            tx.write("notes", "put", "k", {"v": 2})
            tx.put(b"notes\x00x", b"2")
            raise LookupError("on purpose")

        async with medium() as journal:
            await journal.register(notes())
            await journal.transact(lambda tx: tx.put(b"notes\x00x", b"1"))
            with pytest.raises(LookupError, match="on purpose"):
                await journal.transact(work)
            written = await journal.write("notes", "line", "b", {})
            stored = await journal.entries()
            value = await journal.read(lambda tx: tx.get(b"notes\x00x"))
            heads = await journal.read(lambda tx: tx.heads("notes", "k"))

        assert [written] == [item.entry for item in stored]
        assert value == b"1"
        assert heads == []

    async def test_one_failing_transaction_of_many_harms_no_other(self, medium: Medium) -> None:
        """Concurrent transactions share a commit, not their fate."""

        def work(tx: JournalTransaction, number: int) -> int:
            tx.write("notes", "line", str(number), {})
            if number % 3 == 0:
                raise LookupError(str(number))
            return number

        async with medium() as journal:
            await journal.register(notes())
            results = await asyncio.gather(
                *(journal.transact(partial(work, number=number)) for number in range(9)),
                return_exceptions=True,
            )
            keys = [item.entry.primary_key for item in await journal.entries()]

        kept = [number for number in range(9) if number % 3]
        assert kept == [result for result in results if isinstance(result, int)]
        assert [str(number) for number in kept] == keys

    async def test_a_transaction_sees_what_it_did(self, medium: Medium) -> None:
        """Entries, versions and values are visible before the commit."""

        def work(tx: JournalTransaction) -> tuple[Entry | None, int, bytes | None, list[bytes]]:
            entry = tx.write("notes", "put", "k", {"v": 1})
            tx.put(b"notes\x00b", b"2")
            tx.put(b"notes\x00a", b"1")
            tx.delete(b"notes\x00b")
            keys = [key for key, _ in tx.scan(b"notes\x00", b"notes\x01")]
            return tx.entry(entry.id), len(tx.versions("notes", "k")), tx.get(b"notes\x00a"), keys

        async with medium() as journal:
            await journal.register(notes())
            entry, versions, value, keys = await journal.transact(work)

        assert entry is not None
        assert (versions, value) == (1, b"1")
        assert sorted([b"notes\x00a", pack_key("notes", "value", "k")]) == keys

    async def test_a_scan_merges_what_is_committed_with_what_is_not(self, medium: Medium) -> None:
        """Order, bounds, direction and limit hold across both."""

        def scan(tx: JournalTransaction) -> tuple[list[bytes], list[bytes]]:
            tx.put(b"k3", b"new")
            tx.delete(b"k4")
            tx.put(b"k9", b"new")
            forward = [value for _, value in tx.scan(b"k1", b"k9", limit=4)]
            backward = [key for key, _ in tx.scan(b"k0", b"k9", reverse=True, limit=3)]
            return forward, backward

        async with medium() as journal:
            await journal.transact(partial(_put_all, pairs={b"k%d" % number: b"old" for number in range(0, 9, 2)}))
            forward, backward = await journal.transact(scan)

        assert forward == [b"old", b"new", b"old", b"old"]
        assert backward == [b"k8", b"k6", b"k3"]

    async def test_a_long_scan_is_complete(self, medium: Medium) -> None:
        """More values than one page, in both directions; nothing twice, nothing missing."""
        keys = [b"k%05d" % number for number in range(700)]
        async with medium() as journal:
            await journal.transact(partial(_put_all, pairs={key: key for key in keys}))
            forward = await journal.read(lambda tx: list(tx.scan(b"k", b"l")))
            backward = await journal.read(lambda tx: [key for key, _ in tx.scan(b"k", b"l", reverse=True)])

        assert [(key, key) for key in keys] == forward
        assert keys[::-1] == backward

    async def test_a_read_cannot_write(self, medium: Medium) -> None:
        """A snapshot stays one."""
        async with medium() as journal:
            await journal.register(notes())
            with pytest.raises(StateError, match="transact"):
                await journal.read(lambda tx: tx.write("notes", "line", "a", {}))
            with pytest.raises(StateError, match="transact"):
                await journal.read(lambda tx: tx.put(b"a", b"b"))

    # -- projections ---------------------------------------------------------------------------------------
    async def test_a_projection_that_fails_leaves_its_entry_unapplied(self, medium: Medium) -> None:
        """Its traces are undone, the others of the batch are applied, and the entry is listed with the error."""

        def project(tx: JournalTransaction, entry: Entry, _heads: object) -> None:
            tx.put(b"notes\x00" + entry.primary_key.encode(), b"seen")
            if entry.primary_key == "bad":
                raise ValueError("cannot show this")

        async with medium() as journal:
            await journal.register(StoreSchema(name="notes", project=project))
            entries = [entry_at(number, primary_key=key) for number, key in ((1, "a"), (2, "bad"), (3, "c"))]
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(at, e) for at, e in enumerate(entries)])
            stored = await journal.entries()
            values = await journal.read(lambda tx: [key for key, _ in tx.scan(b"notes\x00", b"notes\x01")])
            unapplied = await journal.read(lambda tx: tx.unapplied("notes"))

        assert [item.is_applied for item in stored] == [True, False, True]
        assert values == [b"notes\x00a", b"notes\x00c"]
        assert [(item.stored.entry.primary_key, item.error) for item in unapplied] == [
            ("bad", "ValueError: cannot show this")
        ]

    async def test_unapplied_entries_are_retried_at_registration(self, medium: Medium) -> None:
        """Once the projection works, nothing is unapplied any more."""

        def fails(_tx: JournalTransaction, _entry: Entry, _heads: object) -> None:
            raise ValueError("not yet")

        async with medium() as journal:
            await journal.register(StoreSchema(name="notes", keyed_events=frozenset({"put"}), project=fails))
            await journal.write("notes", "put", "k", {"v": 7})
        async with medium() as journal:
            await journal.register(notes())
            stored = await journal.entries()
            left = await journal.read(lambda tx: tx.unapplied("notes"))
            value = await journal.read(lambda tx: shown(tx, "k"))

        assert [item.is_applied for item in stored] == [True]
        assert left == []
        assert value == {"v": 7}

    # -- keys ----------------------------------------------------------------------------------------------
    async def test_the_last_write_of_a_key_is_its_only_head(self, medium: Medium) -> None:
        """A local write supersedes all it has seen; earlier versions stay retrievable."""
        async with medium() as journal:
            await journal.register(notes())
            for number in (1, 2, 3):
                await journal.write("notes", "put", "k", {"v": number})
            heads = await journal.read(lambda tx: tx.heads("notes", "k"))
            versions = await journal.read(lambda tx: tx.versions("notes", "k"))
            value = await journal.read(lambda tx: shown(tx, "k"))

        assert [dict(head.value) for head in heads] == [{"v": 3}]
        assert [dict(version.value) for version in versions] == [{"v": 1}, {"v": 2}, {"v": 3}]
        assert value == {"v": 3}

    async def test_a_deletion_is_a_version(self, medium: Medium) -> None:
        """A deleted key shows nothing; a later write shows again."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "put", "k", {"v": 1})
            await journal.write("notes", "delete", "k", {})
            deleted = await journal.read(lambda tx: shown(tx, "k"))
            await journal.write("notes", "put", "k", {"v": 2})
            again = await journal.read(lambda tx: shown(tx, "k"))

        assert deleted is None
        assert again == {"v": 2}

    # -- following -----------------------------------------------------------------------------------------
    async def test_followers_see_local_and_received_entries_once_in_order(self, medium: Medium) -> None:
        """Starting behind a position misses nothing that came in between."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.register(notes("other"))
            await journal.write("notes", "line", "0", {})
            changes = journal.changes("notes", after=0)
            await journal.write("other", "line", "x", {})
            await journal.write("notes", "line", "1", {})
            keys = [(await anext(changes)).entry.primary_key for _ in range(2)]
            late = asyncio.ensure_future(_next_key(changes))
            await asyncio.sleep(0.01)
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(5, primary_key="2"))])
            keys.append(await asyncio.wait_for(late, 5))

        assert keys == ["0", "1", "2"]

    async def test_following_from_now_on_starts_at_the_call(self, medium: Medium) -> None:
        """What is written between the call and the first look is not missed."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "before", {})
            changes = journal.changes()
            await journal.write("notes", "line", "after", {})
            key = await asyncio.wait_for(_next_key(changes), 5)

        assert key == "after"

    async def test_following_ends_when_the_journal_is_closed(self, medium: Medium) -> None:
        """A follower is not left hanging."""
        async with medium() as journal:
            follower = asyncio.ensure_future(_collect(journal.changes()))
            await asyncio.sleep(0.01)

        assert await asyncio.wait_for(follower, 5) == []

    async def test_commits_are_announced_after_they_are_readable(self, medium: Medium) -> None:
        """A listener gets the stores and the position; one that stopped gets nothing more."""
        commits: list[Commit] = []
        async with medium() as journal:
            await journal.register(notes())
            stop = journal.on_commit(commits.append)
            await journal.write("notes", "line", "a", {})
            await asyncio.sleep(0)
            (stored,) = await journal.entries()
            stop()
            await journal.write("notes", "line", "b", {})

        assert [(frozenset({"notes"}), stored.position)] == [
            (commit.stores, commit.last_position) for commit in commits
        ]

    # -- restarts ------------------------------------------------------------------------------------------
    async def test_everything_is_found_again(self, medium: Medium) -> None:
        """Entries, read model, remote state and the replica's name survive closing."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "put", "k", {"v": 1})
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(4, entry_at(1))])
            before = (
                await journal.entries(),
                journal.replica_id,
                await journal.remote_state("notes", REMOTE),
            )
        async with medium() as journal:
            await journal.register(notes())
            after = (
                await journal.entries(),
                journal.replica_id,
                await journal.remote_state("notes", REMOTE),
            )
            value = await journal.read(lambda tx: shown(tx, "k"))

        assert before == after
        assert value == {"v": 1}

    async def test_destroy_leaves_nothing(self, medium: Medium) -> None:
        """A journal opened afterwards is a new one."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "a", {})
            replica_id = journal.replica_id
            await journal.destroy()
        async with medium() as journal:
            assert await journal.entries() == []
            assert journal.replica_id != replica_id

    async def test_positions_are_never_used_again(self, medium: Medium) -> None:
        """Not even when compaction dropped the last entry and the journal was reopened."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "a", {})
            (dropped,) = await journal.entries()
            await journal.compact("notes", ByAge(0))
        async with medium() as journal:
            await journal.register(notes())
            await journal.write("notes", "line", "b", {})
            (stored,) = await journal.entries()

        assert dropped.position < stored.position


def _put_all(tx: JournalTransaction, *, pairs: dict[bytes, bytes]) -> None:
    for key, value in pairs.items():
        tx.put(key, value)


async def _next_key(changes: Any) -> str:
    key: str = (await anext(changes)).entry.primary_key
    return key


async def _collect(changes: Any) -> list[Any]:
    return [item async for item in changes]
