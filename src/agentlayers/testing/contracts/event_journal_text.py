"""What every journal promises about texts: the part of the contract that is about searching."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentlayers.errors import StateError
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.text_search import TextHit, TextOrder, parse_terms
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import decode_payload
from agentlayers.testing.contracts.event_journal_world import (
    REMOTE,
    JournalContractFixtures,
    ManualClock,
    Medium,
    entry_at,
)

__all__ = ["EventJournalTextContract"]


_ODD_TEXTS = (
    *(
        "'",
        '"',
        "NOT",
        "(",
        "a)",
        "^a",
        "-a",
        "a*b",
        "*",
        ";--",
        "!!!",
        "a+b",
        "%",
        "\\",
        "日本",
        "🙂",
        "text:a",
        "{a}:b",
    ),
    *('"unclosed', "a AND", "OR OR", "NEAR(a b)", "\x00", "\ud800", "", " ", "a" * 10_000),
)


def _notes() -> StoreSchema:
    """Return a store whose lines are found by their text, each in the scope of its primary key."""

    def project(tx: JournalTransaction, entry: Entry, _heads: object) -> None:
        text = decode_payload(entry.payload)["text"]
        tx.index_text("notes", entry.id, text, scope=entry.primary_key)
        if text.endswith("fails"):
            raise ValueError(text)

    return StoreSchema(name="notes", project=project)


async def _write(journal: EventJournal, *texts: str, key: str = "k") -> list[Entry]:
    return [await journal.write("notes", "line", key, {"text": text}) for text in texts]


async def _find(
    journal: EventJournal,
    text: str,
    *,
    scope: str | None = None,
    order: TextOrder = TextOrder.NEWEST,
    after: TextHit | None = None,
    limit: int = 100,
) -> list[TextHit]:
    terms = parse_terms(text)
    return await journal.read(
        lambda tx: tx.search_text("notes", terms, scope=scope, order=order, after=after, limit=limit)
    )


def _ids(found: Sequence[TextHit | Entry]) -> list[bytes]:
    return [one.entry_id if isinstance(one, TextHit) else one.id for one in found]


class EventJournalTextContract(JournalContractFixtures):
    """Each test is one promise of the port."""

    async def test_all_words_have_to_be_there_and_the_newest_match_comes_first(self, medium: Medium) -> None:
        """Case and accents do not count; the order of words does not either."""
        async with medium() as journal:
            await journal.register(_notes())
            first, _other, last = await _write(journal, "The Cat sat in Köln", "the dog", "koln has a CAT")

            assert _ids(await _find(journal, "cat KOLN")) == _ids([last, first])
            assert _ids(await _find(journal, "cat dog")) == []
            assert _ids(await _find(journal, "ca")) == []
            assert _ids(await _find(journal, "ca* kö*")) == _ids([last, first])
            assert _ids(await _find(journal, '"cat sat"')) == _ids([first])
            assert _ids(await _find(journal, '"sat cat"')) == []

    @pytest.mark.parametrize("text", _ODD_TEXTS)
    async def test_no_text_breaks_the_search(self, medium: Medium, text: str) -> None:
        """What a person types is words, whatever else is in it."""
        async with medium() as journal:
            await journal.register(_notes())
            await _write(journal, "a b", "b NOT or and")

            assert isinstance(await _find(journal, text), list)

    async def test_pages_follow_each_other_in_either_order(self, medium: Medium) -> None:
        """Without a gap and without a repetition, also among equals."""
        async with medium() as journal:
            await journal.register(_notes())
            written = await _write(journal, *("word " + "other " * (number % 3) for number in range(10)))
            for order in TextOrder:
                if order is TextOrder.BEST:
                    await journal.transact(lambda tx: tx.settle_texts())
                whole = await _find(journal, "word", order=order)
                paged: list[TextHit] = []
                while page := await _find(journal, "word", order=order, after=paged[-1] if paged else None, limit=3):
                    paged += page

                assert paged == whole
                assert sorted(_ids(whole)) == sorted(_ids(written))

    async def test_the_best_match_is_the_one_with_most_of_it(self, medium: Medium) -> None:
        """However old it is."""
        async with medium() as journal:
            await journal.register(_notes())
            best, *_others = await _write(journal, "cat cat", "a cat among " + "many " * 50, "none")

            assert _ids(await _find(journal, "cat", order=TextOrder.BEST))[0] == best.id
            assert _ids(await _find(journal, "cat"))[-1] == best.id

    async def test_a_search_can_be_limited_to_a_scope(self, medium: Medium) -> None:
        """Names of scopes are compared whole."""
        async with medium() as journal:
            await journal.register(_notes())
            (inside,) = await _write(journal, "cat", key="a b")
            await _write(journal, "cat", key="a-b")

            assert _ids(await _find(journal, "cat", scope="a b")) == [inside.id]
            assert await _find(journal, "cat", scope="a") == []

    async def test_what_is_unindexed_replaced_or_undone_is_not_found(self, medium: Medium) -> None:
        """The index changes with the transaction, its savepoints included."""
        async with medium() as journal:
            await journal.register(_notes())
            one, two = await _write(journal, "cat one", "cat two")
            await journal.transact(lambda tx: tx.unindex_text("notes", one.id))
            await journal.transact(lambda tx: tx.index_text("notes", two.id, "dog"))
            after = _ids(await _find(journal, "cat"))

            def fail(tx: JournalTransaction) -> None:
                tx.write("notes", "line", "k", {"text": "cat three"})
                tx.index_text("notes", one.id, "cat again")
                tx.unindex_text("notes", two.id)
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await journal.transact(fail)
            await _write(journal, "cat fails")

            assert after == []
            assert await _find(journal, "cat") == []
            assert _ids(await _find(journal, "dog")) == [two.id]

    async def test_what_a_remote_sent_is_found_after_reopening(self, medium: Medium, clock: ManualClock) -> None:
        """As everything that is durable."""
        entry = entry_at(clock.now_ms(), payload={"text": "from afar"})
        async with medium() as journal:
            await journal.register(_notes())
            await journal.write_from_remote("notes", REMOTE, [RemoteEntry(0, entry)])
        async with medium() as journal:
            await journal.register(_notes())

            assert _ids(await _find(journal, "afar")) == [entry.id]

    async def test_a_transaction_that_writes_cannot_search(self, medium: Medium) -> None:
        """It would not see what it wrote itself."""
        async with medium() as journal:
            await journal.register(_notes())
            with pytest.raises(StateError, match="call it in a read"):
                await journal.transact(lambda tx: tx.search_text("notes", parse_terms("a"), limit=1))
            with pytest.raises(StateError, match="a read cannot write"):
                await journal.read(lambda tx: tx.index_text("notes", bytes(16), "a"))
