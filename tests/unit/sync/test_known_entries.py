"""What a replica believes its server holds is the same value the server computes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.memory.journal import MemoryJournal
from agentlayers.protocol.sequence_digest import EMPTY_DIGEST, extend_digest
from agentlayers.sync.known_entries import KnownEntries

IDS = [bytes([number]) * 16 for number in range(12)]
REMOTE = bytes(16)


def digest_of(ids: list[bytes]) -> bytes:
    return extend_digest(EMPTY_DIGEST, 0, ids)[-1] if ids else EMPTY_DIGEST


@given(st.lists(st.integers(1, 4), max_size=12), st.randoms(use_true_random=False))
def test_any_batches_with_duplicates_in_any_order_give_the_servers_digest(sizes: list[int], random: Random) -> None:
    known, cursor = KnownEntries(), 0
    for size in sizes:
        fresh = list(range(cursor, min(cursor + size, len(IDS))))
        old = random.sample(range(cursor), min(cursor, 2))
        batch = [*old, *fresh]
        random.shuffle(batch)
        known.add(batch, [IDS[number] for number in batch])
        cursor += len(fresh)

        known.move(cursor)
        assert known == KnownEntries(cursor, digest_of(IDS[:cursor]))


@pytest.mark.parametrize("numbers", [[1], [0, 2], [3, 4]])
def test_a_number_that_was_not_told_leaves_the_digest_unknown(numbers: list[int]) -> None:
    known = KnownEntries()
    known.add(numbers, [IDS[number] for number in numbers])

    assert known == KnownEntries(numbers[-1] + 1, None)


def test_another_order_of_ids_is_another_digest() -> None:
    assert digest_of([IDS[0], IDS[1]]) != digest_of([IDS[1], IDS[0]])


async def test_it_is_loaded_only_for_the_cursor_it_was_saved_with() -> None:
    known = KnownEntries(2, digest_of(IDS[:2]))
    async with MemoryJournal() as journal:
        await journal.register(StoreSchema(name="chat_history"))
        await journal.transact(lambda tx: known.save(tx, "chat_history", REMOTE))

        async def journal_loaded(cursor: int) -> KnownEntries:
            return await journal.read(lambda tx: KnownEntries.load(tx, "chat_history", REMOTE, cursor))

        assert await journal_loaded(2) == known
        assert await journal_loaded(3) == KnownEntries(3, None)
        assert await journal_loaded(0) == KnownEntries()
