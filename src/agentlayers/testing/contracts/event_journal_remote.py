"""The part of the journal's contract that is about a remote and conflicts."""

from __future__ import annotations

from agentlayers.journal.conflict_policy import FirstWriteWins, LastWriteWins, Merge, Reject
from agentlayers.journal.entry import RemoteEntry, StoredEntry
from agentlayers.journal.event_journal import (
    Acknowledgement,
    EventJournal,
    Observation,
    RemoteState,
)
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.testing.contracts.event_journal_quarantine import EventJournalQuarantineContract
from agentlayers.testing.contracts.event_journal_relay import EventJournalRelayContract
from agentlayers.testing.contracts.event_journal_world import (
    OTHER_REMOTE,
    REMOTE,
    Medium,
    entry_at,
    notes,
    shown,
    stock_put,
    their_put,
)

__all__ = ["EventJournalRemoteContract"]


async def _write_lines(journal: EventJournal, count: int) -> list[int]:
    await journal.transact(lambda tx: [tx.write("notes", "line", str(n), {"n": n}) for n in range(count)])
    return [stored.position for stored in await journal.entries("notes")][-count:]


async def _pending(journal: EventJournal, remote_id: bytes = REMOTE) -> list[StoredEntry]:
    return await journal.uncommitted("notes", remote_id, entries_max=10_000, bytes_max=1 << 30)


class EventJournalRemoteContract(EventJournalRelayContract, EventJournalQuarantineContract):
    """Pending, acknowledgements, cursors, duplicates, conflicts."""

    # -- pending -------------------------------------------------------------------------------------------
    async def test_local_entries_are_pending_for_every_remote(self, medium: Medium) -> None:
        """Each remote has its own list."""
        async with medium() as journal:
            await journal.register(notes())
            positions = await _write_lines(journal, 3)
            await journal.acknowledge("notes", REMOTE, Acknowledgement(positions))

            assert await _pending(journal) == []
            assert [item.position for item in await _pending(journal, OTHER_REMOTE)] == positions

    async def test_received_and_unsynced_entries_are_never_pending(self, medium: Medium) -> None:
        """Not for the remote they came from, nor for another that is not relayed to."""
        async with medium() as journal:
            await journal.register(notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(1))])
            await journal.write("notes", "observed", "a", {})

            assert await _pending(journal) == []
            assert await _pending(journal, OTHER_REMOTE) == []

    async def test_acknowledgements_out_of_turn_leave_the_others_pending(self, medium: Medium) -> None:
        """Also across a restart; acknowledging again changes nothing."""
        async with medium() as journal:
            await journal.register(notes())
            positions = await _write_lines(journal, 6)
            await journal.acknowledge("notes", REMOTE, Acknowledgement([positions[4], positions[1]]))
        async with medium() as journal:
            await journal.register(notes())
            gaps = [item.position for item in await _pending(journal)]
            state = await journal.remote_state("notes", REMOTE)
            await journal.acknowledge("notes", REMOTE, Acknowledgement([positions[1], positions[0]]))
            fewer = [item.position for item in await _pending(journal)]

        assert [positions[at] for at in (0, 2, 3, 5)] == gaps
        assert state.pending == 4
        assert [positions[at] for at in (2, 3, 5)] == fewer

    async def test_unknown_positions_are_acknowledged_without_harm(self, medium: Medium) -> None:
        """Positions of nothing, or of what was never pending, mark nothing written later."""
        async with medium() as journal:
            await journal.register(notes())
            (position,) = await _write_lines(journal, 1)
            await journal.acknowledge("notes", REMOTE, Acknowledgement([position + 1, position + 2]))
            await _write_lines(journal, 2)

            assert len(await _pending(journal)) == 3

    async def test_pending_is_bounded_in_number_and_bytes(self, medium: Medium) -> None:
        """At least one comes, however large; listing goes on behind a position."""
        async with medium() as journal:
            await journal.register(notes())
            for size in (2000, 10, 10, 10):
                await journal.write("notes", "line", "k", {"text": "x" * size})
            one = await journal.uncommitted("notes", REMOTE, entries_max=10, bytes_max=100)
            two = await journal.uncommitted("notes", REMOTE, after=one[-1].position, entries_max=2, bytes_max=1000)

        assert (len(one), len(two)) == (1, 2)
        assert one[0].position < two[0].position

    async def test_own_entries_that_come_back_are_acknowledged(self, medium: Medium) -> None:
        """After a lost Ack the echo says the same."""
        async with medium() as journal:
            await journal.register(notes())
            entry = await journal.write("notes", "line", "a", {})
            await journal.write("notes", "line", "b", {})
            result = await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry)])
            pending = [item.entry.primary_key for item in await _pending(journal)]

        assert (result.written, result.duplicates) == ((), 1)
        assert pending == ["b"]

    async def test_a_push_acknowledges_what_was_sent(self, medium: Medium) -> None:
        """``with_remote_uncommitted`` hands out, and notes what comes back."""
        async with medium() as journal:
            await journal.register(notes())
            await _write_lines(journal, 3)

            async def send(pending: list[StoredEntry]) -> Acknowledgement:
                return Acknowledgement([item.position for item in pending[:2]])

            count = await journal.with_remote_uncommitted("notes", REMOTE, send, entries_max=10, bytes_max=1 << 20)
            left = len(await _pending(journal))

        assert (count, left) == (2, 1)

    # -- cursor --------------------------------------------------------------------------------------------
    async def test_the_cursor_moves_by_through_alone_when_it_is_given(self, medium: Medium) -> None:
        """Also for an empty batch; it never moves back."""
        async with medium() as journal:
            await journal.register(notes())
            first = await journal.write_from_remote("notes", REMOTE, [RemoteEntry(7, entry_at(1))], through=3)
            second = await journal.write_from_remote("notes", REMOTE, [], through=9)
            third = await journal.write_from_remote("notes", REMOTE, [], through=4)

        assert (first.next_sequence, second.next_sequence, third.next_sequence) == (3, 9, 9)

    async def test_the_cursor_of_a_stock_server_follows_the_last_sequence(self, medium: Medium) -> None:
        """First unused: last + 1."""
        async with medium() as journal:
            await journal.register(notes())
            result = await journal.write_from_remote(
                "notes", REMOTE, [RemoteEntry(4, entry_at(1)), RemoteEntry(7, entry_at(2))]
            )

            assert result.next_sequence == 8
            assert await journal.next_remote_sequence("notes", REMOTE) == 8

    async def test_an_ack_moves_the_cursor_only_if_nothing_can_lie_between(self, medium: Medium) -> None:
        """A stock server's Ack above the cursor leaves it: an unseen entry may be below."""
        async with medium() as journal:
            await journal.register(notes())
            positions = await _write_lines(journal, 3)
            await journal.acknowledge("notes", REMOTE, Acknowledgement(positions[:1], [0]))
            equal = await journal.next_remote_sequence("notes", REMOTE)
            await journal.acknowledge("notes", REMOTE, Acknowledgement(positions[1:2], [2]))
            above = await journal.next_remote_sequence("notes", REMOTE)
            await journal.acknowledge("notes", REMOTE, Acknowledgement(positions[2:], [3]), through=4)
            through = await journal.next_remote_sequence("notes", REMOTE)

        assert (equal, above, through) == (1, 1, 4)

    async def test_a_reset_makes_everything_local_pending_again(self, medium: Medium) -> None:
        """Cursor 0, the new incarnation; what the remote sends again marks what it has."""
        async with medium() as journal:
            await journal.register(notes())
            positions = await _write_lines(journal, 2)
            await journal.acknowledge("notes", REMOTE, Acknowledgement(positions), through=2)
            await journal.reset_remote("notes", REMOTE, incarnation=b"second")
            state = await journal.remote_state("notes", REMOTE)
            (first, *_) = await journal.entries("notes")
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, first.entry)], through=1)
            after = await journal.remote_state("notes", REMOTE)

        assert state == RemoteState(0, b"second", 2)
        assert after == RemoteState(1, b"second", 1)

    async def test_a_remote_never_seen_has_everything_to_come(self, medium: Medium) -> None:
        """Cursor 0, no incarnation, all pending."""
        async with medium() as journal:
            await journal.register(notes())
            await _write_lines(journal, 2)

            assert await journal.remote_state("notes", REMOTE) == RemoteState(0, b"", 2)

    # -- duplicates and unusable entries -------------------------------------------------------------------
    async def test_an_entry_is_taken_once(self, medium: Medium) -> None:
        """Twice in a batch, in a second batch, from a second remote: one entry, projected once."""
        entry = entry_at(1)
        async with medium() as journal:
            await journal.register(notes())
            first = await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry), RemoteEntry(1, entry)])
            second = await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry)])
            third = await journal.write_from_remote("notes", OTHER_REMOTE, [RemoteEntry(0, entry)])
            stored = await journal.entries()

        assert [(len(r.written), r.duplicates) for r in (first, second, third)] == [
            (1, 1),
            (0, 1),
            (0, 1),
        ]
        assert [(item.entry, item.is_local) for item in stored] == [(entry, False)]

    async def test_stores_do_not_hide_each_others_entries(self, medium: Medium) -> None:
        """The same id in another store is another entry."""
        entry = entry_at(1)
        async with medium() as journal:
            await journal.register(notes())
            await journal.register(notes("other"))
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry)])
            result = await journal.write_from_remote("other", REMOTE, [RemoteEntry(0, entry)])

        assert result.written == (entry,)

    async def test_a_cursor_that_was_set_back_is_left_to_whom_it_was_set_back_for(self, medium: Medium) -> None:
        """Another connection goes on from far ahead; what it brings is taken, and its Acks count."""
        async with medium() as journal:
            await journal.register(notes())
            (position,) = await _write_lines(journal, 1)
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(9, entry_at(9))])
            await journal.reset_remote("notes", REMOTE, incarnation=b"")

            def go_on(tx: JournalTransaction) -> None:
                tx.write_from_remote("notes", REMOTE, [RemoteEntry(10, entry_at(10))], through=11, since=10)
                tx.acknowledge("notes", REMOTE, Acknowledgement([position], [11]), through=12, since=11)

            await journal.transact(go_on)
            behind = await journal.remote_state("notes", REMOTE)
            await journal.transact(
                lambda tx: tx.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry_at(1))], through=1, since=0)
            )
            read_again = await journal.remote_state("notes", REMOTE)

        assert (behind.next_sequence, behind.pending, read_again.next_sequence) == (0, 0, 1)

    # -- conflicts -----------------------------------------------------------------------------------------
    async def test_concurrent_versions_are_an_open_conflict(self, medium: Medium) -> None:
        """Both heads are listed, the policy's choice is shown, and the next write supersedes both."""
        async with medium() as journal:
            await journal.register(notes(policy=FirstWriteWins()))
            await journal.write("notes", "put", "k", {"v": 1})
            theirs = their_put(1, 2, replica="them")
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, theirs)])
            (conflict,) = await journal.read(lambda tx: tx.conflicts("notes"))
            value = await journal.read(lambda tx: shown(tx, "k"))
            await journal.write("notes", "put", "k", {"v": 3})
            resolved = await journal.read(lambda tx: (tx.conflicts("notes"), shown(tx, "k")))

        assert [dict(head.value) for head in conflict.heads] == [{"v": 2}, {"v": 1}]
        assert conflict.resolution is not None
        assert conflict.resolution.winner == theirs.id
        assert value == {"v": 2}
        assert resolved == ([], {"v": 3})

    async def test_a_version_that_has_seen_ours_is_no_conflict(self, medium: Medium) -> None:
        """Whatever its clock says."""
        async with medium() as journal:
            await journal.register(notes())
            ours = await journal.write("notes", "put", "k", {"v": 1})
            theirs = their_put(1, 2, replica="them", seen={journal.replica_id: ours.id})
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, theirs)])
            conflicts, value = await journal.read(lambda tx: (tx.conflicts("notes"), shown(tx, "k")))

        assert conflicts == []
        assert value == {"v": 2}

    async def test_a_conflict_is_reported_once(self, medium: Medium) -> None:
        """With the fields of the audit event; a batch that comes again reports nothing."""
        seen: list[Observation] = []
        theirs = their_put(1, 2, replica="them")
        async with medium() as journal:
            await journal.register(notes())
            journal.observe(lambda _tx, observation: seen.append(observation))
            ours = await journal.write("notes", "put", "k", {"v": 1})
            for _ in range(2):
                await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, theirs)])

        (observation,) = seen
        assert (observation.kind, observation.store) == ("sync_conflict", "notes")
        assert observation.fields == {
            "remoteId": REMOTE.hex(),
            "event": "put",
            "primaryKey": "k",
            "entryId": theirs.id.hex(),
            "conflictCount": 1,
            "resolution": "accept",
            "resolvedEntryId": ours.id.hex(),
        }

    async def test_an_observer_writes_in_the_same_transaction(self, medium: Medium) -> None:
        """What it writes is there with what it observed; one that raises harms nothing."""

        def record(tx: JournalTransaction, observation: Observation) -> None:
            tx.write("notes", "observed", observation.fields["primaryKey"], {})

        def breaks(tx: JournalTransaction, _observation: Observation) -> None:
            tx.write("notes", "observed", "half", {})
            raise RuntimeError("on purpose")

        async with medium() as journal:
            await journal.register(notes())
            journal.observe(breaks)
            journal.observe(record)
            await journal.write("notes", "put", "k", {"v": 1})
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, their_put(1, 2, replica="x"))])
            events = [(item.entry.event, item.entry.primary_key) for item in await journal.entries()]

        assert events == [("put", "k"), ("put", "k"), ("observed", "k")]

    async def test_a_copied_journal_takes_a_new_name(self, medium: Medium) -> None:
        """A version under our name that we never wrote: from here on we write under another."""
        async with medium() as journal:
            await journal.register(notes())
            name = journal.replica_id
            theirs = their_put(1, 7, replica=name)
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, theirs)])
            renewed = journal.replica_id
            await journal.write("notes", "put", "l", {"v": 1})
            (head,) = await journal.read(lambda tx: tx.heads("notes", "l"))
        async with medium() as journal:
            kept = journal.replica_id

        assert name != renewed
        assert (head.replica, kept) == (renewed, renewed)

    async def test_policies_show_the_same_in_any_order(self, medium: Medium) -> None:
        """One set of versions, forwards and backwards, on two journals."""
        versions = [stock_put(10, 1), their_put(20, 2, replica="A"), their_put(20, 3, replica="B")]
        join = Merge(lambda values: {"v": sum(value["v"] for value in values)})
        for number, (policy, expected) in enumerate(
            [(LastWriteWins(), 3), (FirstWriteWins(), 1), (Reject(), 1), (join, 6)]
        ):
            for direction in (1, -1):
                async with medium(f"{number}{direction}") as journal:
                    await journal.register(notes(policy=policy))
                    batch = [RemoteEntry(at, entry) for at, entry in enumerate(versions[::direction])]
                    for remote_entry in batch:
                        await journal.write_from_remote("notes", REMOTE, [remote_entry])
                    value = await journal.read(lambda tx: shown(tx, "k"))

                assert value == {"v": expected}, (policy, direction)
