"""The digest is a function of the set of synced entries."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from agentlayers.journal.event_journal import EventJournal
from agentlayers.storage.digest import digest_of, journal_digest
from helpers.store_replica import open_replica

entry_ids = st.sampled_from([bytes([number]) * 16 for number in range(4)])
entries = st.dictionaries(entry_ids, st.sampled_from([b"", b"a", b"ab", b"b"]))


def test_the_digest_is_what_its_documentation_says() -> None:
    first, second = b"\x01" * 16, b"\x02" * 16
    data = first + (2).to_bytes(8, "big") + b"ab" + second + (0).to_bytes(8, "big")

    assert digest_of([(second, b""), (first, b"ab")]) == (2, hashlib.sha256(data).hexdigest())


@given(entries, st.randoms(use_true_random=False))
def test_order_does_not_matter(given_entries: dict[bytes, bytes], dice: st.DataObject) -> None:
    shuffled = list(given_entries.items())
    dice.shuffle(shuffled)  # type: ignore[attr-defined]

    assert digest_of(shuffled) == digest_of(given_entries.items())


@given(entries, entries)
def test_different_entries_have_different_digests(some: dict[bytes, bytes], others: dict[bytes, bytes]) -> None:
    assert (digest_of(some.items()) == digest_of(others.items())) == (some == others)


async def test_replicas_that_exchanged_everything_have_one_digest(journal: EventJournal) -> None:
    async with open_replica(journal) as a, open_replica() as b:
        await a.chat.append("s", {"of": "a"})
        await b.chat.append("s", {"of": "b"})
        await b.audit.hook_event(hook="Stop", outcome="success")
        before = await journal_digest(a.journal), await journal_digest(b.journal)
        await a.take_all(b)
        await b.take_all(a)
        after = await journal_digest(a.journal), await journal_digest(b.journal)

        assert before[0] != before[1]
        assert after[0] == after[1]
        assert after[0].entries == 3


async def test_a_digest_can_cover_some_stores_only() -> None:
    async with open_replica() as a, open_replica() as b:
        await a.chat.append("s", {"of": "a"})
        await b.take_all(a)
        await b.audit.hook_event(hook="Stop", outcome="success")
        chat = {"chat_history"}

        assert await journal_digest(a.journal) != await journal_digest(b.journal)
        assert await journal_digest(a.journal, stores=chat) == await journal_digest(b.journal, stores=chat)


async def test_a_long_journal_is_covered_whole() -> None:
    async with open_replica() as a, open_replica() as b:
        await a.chat.append_all("s", [{"number": number} for number in range(2500)])
        await b.take(a, "chat_history", (await a.synced("chat_history"))[::-1])

        assert await journal_digest(b.journal) == await journal_digest(a.journal)
        assert (await journal_digest(a.journal)).entries == 2500
