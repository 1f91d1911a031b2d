"""
What a chat history does on any journal.

Derive a class, give it a ``journal`` fixture that returns a journal that is not open yet, and collect it
with pytest (``asyncio_mode = "auto"``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentlayers.errors import StateError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal
from agentlayers.storage.chat_event import ChatEvent
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.testing.contracts.chat_history_search import ChatHistorySearchContract

__all__ = ["ChatHistoryContract"]

_WAIT_SECONDS = 10.0


def _text(text: str) -> dict[str, object]:
    return {"type": "user", "message": {"role": "user", "content": text}}


def _texts(events: list[ChatEvent]) -> list[str]:
    return [event.message["message"]["content"] for event in events]


class ChatHistoryContract(ChatHistorySearchContract):
    """One behaviour for each test."""

    @pytest.fixture
    def journal(self) -> EventJournal:
        """Return a new journal, not open yet."""
        raise NotImplementedError

    @pytest.fixture
    async def chat(self, journal: EventJournal) -> AsyncIterator[ChatHistoryStore]:
        """Open a chat history on the journal."""
        async with journal, ChatHistoryStore(journal, Identity.generate()) as chat:
            yield chat

    async def test_what_was_appended_is_listed_in_order(self, chat: ChatHistoryStore) -> None:
        """Messages come back whole, in the order they were appended."""
        appended = [await chat.append("s", _text(str(number))) for number in range(5)]

        assert await chat.list("s") == appended
        assert [event.sequence for event in appended] == [1, 2, 3, 4, 5]

    async def test_an_unknown_session_has_no_messages(self, chat: ChatHistoryStore) -> None:
        """Asking for what is not there is no error."""
        assert await chat.list("nobody") == []
        assert await chat.sessions() == []

    async def test_sessions_are_kept_apart(self, chat: ChatHistoryStore) -> None:
        """Each session has its own sequence, whatever characters its id has."""
        names = ["a", "a:1", "a\x00b", "a\x01b", "ab", "ä"]
        for name in names:
            await chat.append(name, _text(name))

        assert await chat.sessions() == sorted(names, key=str.encode)
        for name in names:
            assert _texts(await chat.list(name)) == [name]
            assert (await chat.list(name))[0].sequence == 1

    async def test_a_batch_has_one_timestamp_and_consecutive_numbers(self, chat: ChatHistoryStore) -> None:
        """A batch is one thing in time, several in the session."""
        events = await chat.append_all("s", [_text("a"), _text("b"), _text("c")])

        assert len({event.timestamp_ms for event in events}) == 1
        assert [event.sequence for event in events] == [1, 2, 3]

    async def test_an_empty_batch_appends_nothing(self, chat: ChatHistoryStore) -> None:
        """Nothing to append begins no session."""
        assert await chat.append_all("s", []) == []
        assert await chat.sessions() == []

    async def test_a_batch_with_one_bad_message_appends_nothing(self, chat: ChatHistoryStore) -> None:
        """All messages of a batch are stored or none."""
        with pytest.raises(UsageError):
            await chat.append_all("s", [_text("good"), {"bad": object()}])

        assert await chat.list("s") == []

    async def test_fifty_concurrent_appends_keep_fifty(self, chat: ChatHistoryStore) -> None:
        """Appends at once neither overwrite each other (fault R6) nor share a number."""
        await asyncio.gather(*(chat.append("s", _text(str(number))) for number in range(50)))
        events = await chat.list("s")

        assert sorted(_texts(events), key=int) == [str(number) for number in range(50)]
        assert [event.sequence for event in events] == list(range(1, 51))

    async def test_timestamp_and_source_are_kept(self, chat: ChatHistoryStore) -> None:
        """What the caller says of a message comes back."""
        await chat.append("s", _text("a"), timestamp_ms=5, source="external")
        (event,) = await chat.list("s")

        assert (event.timestamp_ms, event.source) == (5, "external")

    async def test_reverse_lists_the_newest_first(self, chat: ChatHistoryStore) -> None:
        """The newest page of a long session is one read away."""
        await chat.append_all("s", [_text(str(number)) for number in range(10)])

        assert _texts(await chat.list("s", limit=3, reverse=True)) == ["9", "8", "7"]

    async def test_bounds_are_inclusive(self, chat: ChatHistoryStore) -> None:
        """A range of sequence numbers names both its ends; beyond the session it is empty."""
        await chat.append_all("s", [_text(str(number)) for number in range(1, 11)])

        assert _texts(await chat.list("s", start_sequence=3, end_sequence=5)) == ["3", "4", "5"]
        assert _texts(await chat.list("s", start_sequence=9)) == ["9", "10"]
        assert _texts(await chat.list("s", end_sequence=2, reverse=True)) == ["2", "1"]
        assert await chat.list("s", start_sequence=11) == []
        assert await chat.list("s", start_sequence=5, end_sequence=3) == []
        assert await chat.list("s", end_sequence=-1) == []

    async def test_a_limit_of_zero_lists_nothing(self, chat: ChatHistoryStore) -> None:
        """Zero is a number, not the absence of one."""
        await chat.append("s", _text("a"))

        assert await chat.list("s", limit=0) == []

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_pages_cover_a_session_once(self, chat: ChatHistoryStore, *, reverse: bool) -> None:
        """Following next_cursor gives every message exactly once, and ends."""
        appended = await chat.append_all("s", [_text(str(number)) for number in range(7)])
        cursor, pages = None, []
        for _page in range(4):
            page = await chat.list_page("s", limit=3, cursor=cursor, reverse=reverse)
            pages.append(list(page.items))
            cursor = page.next_cursor
            if cursor is None:
                break

        assert [len(page) for page in pages] == [3, 3, 1]
        assert [event for page in pages for event in page] == appended[:: -1 if reverse else 1]

    async def test_a_page_stays_right_while_others_append(self, chat: ChatHistoryStore) -> None:
        """A cursor names a message, so appends in between neither repeat nor skip one."""
        await chat.append_all("s", [_text(str(number)) for number in range(4)])
        first = await chat.list_page("s", limit=2)
        newest = await chat.list_page("s", limit=2, reverse=True)
        await asyncio.gather(*(chat.append("s", _text(str(number))) for number in range(4, 8)))
        rest = await chat.list("s", cursor=first.next_cursor)
        older = await chat.list("s", cursor=newest.next_cursor, reverse=True)

        assert _texts(list(first.items)) == ["0", "1"]
        assert _texts(rest)[:2] == ["2", "3"]
        assert sorted(_texts(rest)[2:]) == ["4", "5", "6", "7"]
        assert _texts(older) == ["1", "0"]

    async def test_stream_yields_a_session_across_pages(self, chat: ChatHistoryStore) -> None:
        """A long session is read in pieces, without a gap."""
        appended = await chat.append_all("s", [_text(str(number)) for number in range(600)])

        assert [event async for event in chat.stream("s")] == appended
        assert [event async for event in chat.stream("s", reverse=True)] == appended[::-1]

    async def test_follow_yields_what_is_appended_after_the_call(self, chat: ChatHistoryStore) -> None:
        """Following begins at the call, not at the first read."""
        await chat.append("s", _text("before"))
        following = chat.follow("s")
        await chat.append("other", _text("elsewhere"))
        await chat.append("s", _text("after"))
        async with asyncio.timeout(_WAIT_SECONDS):
            event = await anext(following)
        await following.aclose()

        assert _texts([event]) == ["after"]

    async def test_follow_goes_on_behind_a_position(self, chat: ChatHistoryStore) -> None:
        """A reader that comes back misses nothing."""
        first = await chat.append("s", _text("0"))
        await chat.append_all("s", [_text("1"), _text("2")])
        following = chat.follow(after=first.position)
        async with asyncio.timeout(_WAIT_SECONDS):
            found = [await anext(following) for _event in range(2)]
        await following.aclose()

        assert _texts(found) == ["1", "2"]

    async def test_purge_forgets_one_session(self, chat: ChatHistoryStore) -> None:
        """A purged session is gone; the others stay."""
        await chat.append_all("s", [_text("a"), _text("b")])
        await chat.append("other", _text("c"))
        purged = await chat.purge("s")

        assert purged == 2  # the two messages
        assert await chat.list("s") == []
        assert await chat.sessions() == ["other"]
        assert await chat.journal.entries(after=0) != []
        assert len(await chat.journal.entries("chat_history")) == 1

    async def test_sequence_numbers_go_on_after_a_purge(self, chat: ChatHistoryStore) -> None:
        """A number that was given is never given again."""
        await chat.append_all("s", [_text("a"), _text("b")])
        await chat.purge("s")

        assert (await chat.append("s", _text("c"))).sequence == 3  # two went before

    @pytest.mark.parametrize("session_id", ["", None, 3, "\ud800"])
    async def test_a_session_id_that_is_none_is_refused(self, chat: ChatHistoryStore, session_id: str) -> None:
        """Session ids are texts."""
        with pytest.raises(UsageError, match="session_id"):
            await chat.append(session_id, _text("a"))

    async def test_a_closed_store_says_so(self, journal: EventJournal) -> None:
        """Using a store before it is open is an error that says what to do."""
        chat = ChatHistoryStore(journal, Identity.generate())
        with pytest.raises(StateError, match="async with"):
            await chat.append("s", _text("a"))
