"""
What every :class:`~agentlayers.server.storage.ServerStorage` has to do.

Subclass :class:`ServerStorageContract` in a test module and give it the fixture ``storage``; a storage
that outlives its process also gets :class:`DurableServerStorageContract`, with the fixture ``reopen``.
Needs pytest with asyncio in automatic mode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry
from agentlayers.protocol.sequence_digest import EMPTY_DIGEST, extend_digest
from agentlayers.server.storage import ServerStorage

__all__ = ["DurableServerStorageContract", "ServerStorageContract", "sealed_entries"]

_EVERYTHING = {"entries_max": 10_000, "bytes_max": 1 << 30}


def sealed_entries(count: int, *, first: int = 0, size: int = 40, prefix: bytes = b"e") -> list[EncryptedEntry]:
    """Return entries that look sealed, each with an id, a nonce and a ciphertext of its own."""
    entries = []
    for number in range(first, first + count):
        label = prefix + number.to_bytes(8, "big")
        entries.append(EncryptedEntry(label.rjust(16, b"\x01"), label.rjust(12, b"\x02"), label.ljust(size, b"\xff")))
    return entries


def _as_read(entries: Sequence[EncryptedEntry], *, first: int = 0) -> list[RemoteEncryptedEntry]:
    return [
        RemoteEncryptedEntry(first + index, entry.iv, entry.entry_id, entry.ciphertext)
        for index, entry in enumerate(entries)
    ]


class ServerStorageContract:
    """Each test is one promise of the port; the fixture ``storage`` is empty and open."""

    async def test_a_new_key_has_no_entries_and_head_zero(self, storage: ServerStorage) -> None:
        """Nothing was written, so nothing is read."""
        assert await storage.head("tenant", "key") == 0
        assert await storage.read("tenant", "key", 0, **_EVERYTHING) == []

    async def test_the_digest_is_that_of_all_ids_below_a_sequence(self, storage: ServerStorage) -> None:
        """It is known at every sequence, also inside and across appends."""
        entries = sealed_entries(700)
        for start, stop in ((0, 1), (1, 600), (600, 700)):
            await storage.append("tenant", "key", entries[start:stop])
        digests = [EMPTY_DIGEST, *extend_digest(EMPTY_DIGEST, 0, [entry.entry_id for entry in entries])]

        for sequence in (0, 1, 2, 599, 600, 601, 700):
            assert await storage.digest("tenant", "key", sequence) == digests[sequence]

    async def test_there_is_no_digest_beyond_the_head(self, storage: ServerStorage) -> None:
        """Nobody can say what is not there; of nothing at all there is one."""
        await storage.append("tenant", "key", sealed_entries(2))

        assert await storage.digest("tenant", "key", 3) is None
        assert await storage.digest("tenant", "key", 1 << 60) is None
        assert await storage.digest("tenant", "other key", 0) == EMPTY_DIGEST
        assert await storage.digest("tenant", "other key", 1) is None

    async def test_duplicates_do_not_change_the_digest(self, storage: ServerStorage) -> None:
        """It covers what was stored, not what was sent; keys are independent."""
        entries = sealed_entries(6)
        await storage.append("tenant", "key", entries[:3])
        await storage.append("tenant", "other key", entries)
        await storage.append("tenant", "key", entries[1:5])
        await storage.append("tenant", "key", entries)

        expected = await storage.digest("tenant", "other key", 6)
        assert await storage.digest("tenant", "key", 6) == expected
        assert expected == extend_digest(EMPTY_DIGEST, 0, [entry.entry_id for entry in entries])[-1]

    async def test_sequences_start_at_zero_and_are_contiguous(self, storage: ServerStorage) -> None:
        """The entries of two appends are numbered through."""
        first = await storage.append("tenant", "key", sealed_entries(3))
        second = await storage.append("tenant", "key", sealed_entries(2, first=3))

        assert first.sequences == (0, 1, 2)
        assert second.sequences == (3, 4)
        assert await storage.head("tenant", "key") == 5

    async def test_new_entries_are_reported_with_their_sequences(self, storage: ServerStorage) -> None:
        """What subscribers are sent is what was stored now."""
        await storage.append("tenant", "key", sealed_entries(1))
        entries = sealed_entries(2, first=1)

        appended = await storage.append("tenant", "key", entries)

        assert list(appended.new) == _as_read(entries, first=1)

    async def test_a_large_entry_is_read_back_whole(self, storage: ServerStorage) -> None:
        """Beyond every size at which a medium cuts values or packs them another way."""
        entries = [
            one for size in (65_535, 65_536, 600_000, 5_000_000) for one in sealed_entries(1, first=size, size=size)
        ]
        await storage.append("tenant", "key", entries)

        assert await storage.read("tenant", "key", 0, **_EVERYTHING) == _as_read(entries)

    async def test_what_was_appended_is_read_back(self, storage: ServerStorage) -> None:
        """Bytes come back as they were, also zero bytes and separators."""
        entries = [
            EncryptedEntry(bytes(16), bytes(12), b"\x00,\xff 'quoted' \x00"),
            *sealed_entries(2),
            EncryptedEntry(b"\xff" * 16, b"," * 12, b""),
        ]
        await storage.append("tenant", "key", entries)

        assert await storage.read("tenant", "key", 0, **_EVERYTHING) == _as_read(entries)

    async def test_a_read_begins_where_it_is_asked_to(self, storage: ServerStorage) -> None:
        """Entries below the start are left out."""
        entries = sealed_entries(5)
        await storage.append("tenant", "key", entries)

        found = await storage.read("tenant", "key", 3, **_EVERYTHING)

        assert found == _as_read(entries)[3:]

    async def test_a_read_from_the_head_is_empty(self, storage: ServerStorage) -> None:
        """There is nothing yet at the first unused sequence, nor behind it."""
        await storage.append("tenant", "key", sealed_entries(2))

        assert await storage.read("tenant", "key", 2, **_EVERYTHING) == []
        assert await storage.read("tenant", "key", 100, **_EVERYTHING) == []

    async def test_a_read_is_bounded_in_entries(self, storage: ServerStorage) -> None:
        """No more entries than asked for."""
        await storage.append("tenant", "key", sealed_entries(5))

        found = await storage.read("tenant", "key", 1, entries_max=2, bytes_max=1 << 20)

        assert [entry.sequence for entry in found] == [1, 2]

    async def test_a_read_is_bounded_in_bytes(self, storage: ServerStorage) -> None:
        """No more ciphertext than asked for."""
        await storage.append("tenant", "key", sealed_entries(5, size=100))

        found = await storage.read("tenant", "key", 0, entries_max=100, bytes_max=250)

        assert [entry.sequence for entry in found] == [0, 1]

    async def test_a_read_returns_one_entry_however_large(self, storage: ServerStorage) -> None:
        """A reader always gets on, also past an entry above its bound."""
        await storage.append("tenant", "key", sealed_entries(2, size=5_000))

        found = await storage.read("tenant", "key", 0, entries_max=100, bytes_max=1)

        assert [entry.sequence for entry in found] == [0]

    async def test_an_append_of_nothing_stores_nothing(self, storage: ServerStorage) -> None:
        """A stock client sends empty batches."""
        appended = await storage.append("tenant", "key", [])

        assert (appended.sequences, appended.new) == ((), ())
        assert await storage.head("tenant", "key") == 0

    async def test_a_duplicate_has_its_first_sequence(self, storage: ServerStorage) -> None:
        """A retry after a lost Ack gets the same numbers, in the order it asked, and stores nothing."""
        entries = sealed_entries(3)
        await storage.append("tenant", "key", entries)

        appended = await storage.append("tenant", "key", [entries[2], entries[0]])

        assert appended.sequences == (2, 0)
        assert appended.new == ()
        assert await storage.head("tenant", "key") == 3

    async def test_duplicates_among_new_entries_stay_aligned(self, storage: ServerStorage) -> None:
        """One number for each entry sent, whether old or new."""
        old = sealed_entries(2)
        await storage.append("tenant", "key", old)
        new = sealed_entries(2, first=2)

        appended = await storage.append("tenant", "key", [new[0], old[1], new[1], old[0]])

        assert appended.sequences == (2, 1, 3, 0)
        assert list(appended.new) == _as_read(new, first=2)

    async def test_an_entry_twice_in_one_message_is_stored_once(self, storage: ServerStorage) -> None:
        """Both places get the one number."""
        entries = sealed_entries(2)

        appended = await storage.append("tenant", "key", [entries[0], entries[0], entries[1]])

        assert appended.sequences == (0, 0, 1)
        assert list(appended.new) == _as_read(entries)
        assert await storage.read("tenant", "key", 0, **_EVERYTHING) == _as_read(entries)

    async def test_a_duplicate_keeps_what_was_stored_first(self, storage: ServerStorage) -> None:
        """The same id with another ciphertext changes nothing."""
        entry = sealed_entries(1)[0]
        await storage.append("tenant", "key", [entry])

        await storage.append("tenant", "key", [entry._replace(ciphertext=b"other")])

        assert await storage.read("tenant", "key", 0, **_EVERYTHING) == _as_read([entry])

    async def test_duplicates_leave_no_gap(self, storage: ServerStorage) -> None:
        """The entry after a duplicate gets the next number."""
        entries = sealed_entries(3)
        await storage.append("tenant", "key", entries[:2])
        await storage.append("tenant", "key", entries[:2])

        appended = await storage.append("tenant", "key", entries[2:])

        assert appended.sequences == (2,)

    async def test_a_large_batch_with_one_duplicate_is_stored(self, storage: ServerStorage) -> None:
        """Sizes around those of prepared statements, and the multiples of 200 that end a stock server."""
        old = sealed_entries(1)
        await storage.append("tenant", "key", old)
        for count in (127, 128, 129, 200, 400, 512, 513, 1_000):
            fresh = sealed_entries(count, first=count * 10_000)
            head = await storage.head("tenant", "key")

            appended = await storage.append("tenant", "key", [*fresh, *old])

            assert appended.sequences == (*range(head, head + count), 0)

    async def test_large_batches_are_read_back_whole(self, storage: ServerStorage) -> None:
        """Every size up to a few statements is stored in order."""
        stored: list[EncryptedEntry] = []
        for count in (1, 127, 128, 129, 200, 512, 640, 1_025):
            entries = sealed_entries(count, first=len(stored))
            await storage.append("tenant", "key", entries)
            stored += entries

        assert await storage.read("tenant", "key", 0, **_EVERYTHING) == _as_read(stored)

    async def test_keys_are_apart(self, storage: ServerStorage) -> None:
        """The same entry under two keys is stored twice, each with its own numbering."""
        entries = sealed_entries(2)
        await storage.append("tenant", "one", entries)

        appended = await storage.append("tenant", "two", entries[1:])

        assert appended.sequences == (0,)
        assert await storage.head("tenant", "one") == 2
        assert await storage.read("tenant", "two", 0, **_EVERYTHING) == _as_read(entries[1:])

    async def test_tenants_are_apart(self, storage: ServerStorage) -> None:
        """Knowing another tenant's key gives nothing of it."""
        await storage.append("one", "key", sealed_entries(2))

        assert await storage.head("two", "key") == 0
        assert await storage.read("two", "key", 0, **_EVERYTHING) == []

    async def test_keys_of_any_characters_are_apart(self, storage: ServerStorage) -> None:
        """A key is a text and nothing else."""
        names = ["a", "a ", "A", "ä", "a\x00b", "a%", "a_", "'; DROP TABLE entries; --"]
        for number, name in enumerate(names):
            await storage.append("tenant", name, sealed_entries(number + 1))

        heads = [await storage.head("tenant", name) for name in names]

        assert heads == list(range(1, len(names) + 1))

    async def test_concurrent_appends_to_one_key_get_every_number_once(self, storage: ServerStorage) -> None:
        """Writers that come together share nothing but the order."""
        batches = [sealed_entries(7, first=7 * number) for number in range(40)]

        results = await asyncio.gather(*(storage.append("tenant", "key", batch) for batch in batches))

        given = sorted(sequence for result in results for sequence in result.sequences)
        assert given == list(range(280))
        read = await storage.read("tenant", "key", 0, **_EVERYTHING)
        for batch, result in zip(batches, results, strict=True):
            assert [read[sequence].entry_id for sequence in result.sequences] == [entry.entry_id for entry in batch]

    async def test_concurrent_writers_of_the_same_entries_store_them_once(self, storage: ServerStorage) -> None:
        """Replicas that relay the same entries at the same time agree on the numbers."""
        entries = sealed_entries(20)

        results = await asyncio.gather(
            *(storage.append("tenant", "key", entries) for _ in range(5)),
            storage.append("tenant", "key", entries[::-1]),
        )

        ascending = tuple(range(20))
        assert {tuple(sorted(result.sequences)) for result in results} == {ascending}
        assert sum(len(result.new) for result in results) == 20
        assert await storage.read("tenant", "key", 0, **_EVERYTHING) == _as_read(entries)

    async def test_an_append_whose_caller_stopped_waiting_is_whole_or_absent(self, storage: ServerStorage) -> None:
        """A cancelled writer leaves no gap and no half batch."""
        task = asyncio.create_task(storage.append("tenant", "key", sealed_entries(3)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        appended = await storage.append("tenant", "key", sealed_entries(1, first=9))

        assert appended.sequences in ((0,), (3,))
        head = appended.sequences[0] + 1
        assert len(await storage.read("tenant", "key", 0, **_EVERYTHING)) == head

    async def test_a_tenant_keeps_its_ids(self, storage: ServerStorage) -> None:
        """A new remote id makes stock clients upload everything again."""
        first = await storage.tenant("tenant")

        assert await storage.tenant("tenant") == first
        assert len(first.remote_id) == len(first.incarnation) == 16

    async def test_a_remote_id_is_a_random_uuid(self, storage: ServerStorage) -> None:
        """Version 4, as a stock server sends it."""
        remote_id = (await storage.tenant("tenant")).remote_id

        assert remote_id[6] >> 4 == 4
        assert remote_id[8] >> 6 == 2

    async def test_tenants_have_ids_of_their_own(self, storage: ServerStorage) -> None:
        """Journals of two tenants are two remotes."""
        one, two = await asyncio.gather(storage.tenant("one"), storage.tenant("two"))

        assert one.remote_id != two.remote_id
        assert one.incarnation != two.incarnation

    async def test_entries_are_found_by_id_in_the_order_asked_for(self, storage: ServerStorage) -> None:
        """An id that is not there is left out, and counts as answered."""
        entries = sealed_entries(5)
        await storage.append("tenant", "key", entries)
        wanted = [entries[3].entry_id, b"?" * 16, entries[0].entry_id]
        found = await storage.find("tenant", "key", wanted, bytes_max=10_000)
        stored = _as_read(entries)

        assert found == ([stored[3], stored[0]], 3)

    async def test_nothing_is_found_in_other_journals(self, storage: ServerStorage) -> None:
        """Ids are looked up in one journal of one tenant."""
        (entry,) = sealed_entries(1)
        await storage.append("tenant", "key", [entry])

        assert await storage.find("tenant", "other", [entry.entry_id], bytes_max=10_000) == ([], 1)
        assert await storage.find("other", "key", [entry.entry_id], bytes_max=10_000) == ([], 1)

    async def test_an_answer_is_bounded_but_never_empty_handed(self, storage: ServerStorage) -> None:
        """The first entry comes however large it is."""
        entries = sealed_entries(4, size=100)
        await storage.append("tenant", "key", entries)
        ids = [entry.entry_id for entry in entries]
        two = await storage.find("tenant", "key", ids, bytes_max=250)
        one = await storage.find("tenant", "key", [b"?" * 16, *ids], bytes_max=1)

        assert (len(two.entries), two.answered) == (2, 2)
        assert (len(one.entries), one.answered) == (1, 2)


class DurableServerStorageContract:
    """What a storage promises across processes; the fixture ``reopen`` opens the same one again and again."""

    async def test_entries_and_sequences_survive(
        self, reopen: Callable[[], AbstractAsyncContextManager[ServerStorage]]
    ) -> None:
        """The next process goes on where the last one stopped, and still knows duplicates."""
        entries = sealed_entries(3)
        async with reopen() as storage:
            await storage.append("tenant", "key", entries[:2])
        async with reopen() as storage:
            appended = await storage.append("tenant", "key", [entries[1], entries[2]])
        async with reopen() as storage:
            read = await storage.read("tenant", "key", 0, **_EVERYTHING)

        assert appended.sequences == (1, 2)
        assert read == _as_read(entries)

    async def test_ids_of_a_tenant_survive(
        self, reopen: Callable[[], AbstractAsyncContextManager[ServerStorage]]
    ) -> None:
        """The remote id is kept for ever."""
        async with reopen() as storage:
            before = await storage.tenant("tenant")
        async with reopen() as storage:
            assert await storage.tenant("tenant") == before

    async def test_what_is_queued_is_stored_before_it_closes(
        self, reopen: Callable[[], AbstractAsyncContextManager[ServerStorage]]
    ) -> None:
        """Closing waits for every append that was accepted."""
        async with reopen() as storage:
            tasks = [
                asyncio.create_task(storage.append("tenant", "key", sealed_entries(1, first=n))) for n in range(20)
            ]
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks)

        assert [result.sequences for result in results] == [(n,) for n in range(20)]
        async with reopen() as storage:
            assert await storage.head("tenant", "key") == 20
