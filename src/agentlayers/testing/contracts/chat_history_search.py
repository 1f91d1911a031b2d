"""What searching a chat history does on any journal."""

from __future__ import annotations

import pytest

from agentlayers.errors import UsageError
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.chat_search import ChatMatch

__all__ = ["ChatHistorySearchContract"]


def _said(text: str) -> dict[str, object]:
    return {"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": text}]}}


def _sequences(matches: tuple[ChatMatch, ...]) -> list[tuple[str, int]]:
    return [(match.event.session_id, match.event.sequence) for match in matches]


class ChatHistorySearchContract:
    """One behaviour for each test; mixed into the contract of the chat history."""

    async def test_a_search_finds_messages_of_all_sessions_or_of_one(self, chat: ChatHistoryStore) -> None:
        """Newest first, with the part of the text that matches."""
        await chat.append("s", _said("The parser is broken. Please mend the parser"))
        await chat.append("t", _said("Which parser?"))
        await chat.append("s", _said("The planner"))
        everywhere = await chat.search("PARSER")
        in_one = await chat.search("parser", "s")

        assert _sequences(everywhere.items) == [("t", 1), ("s", 1)]
        assert _sequences(in_one.items) == [("s", 1)]
        assert in_one.items[0].snippet.marked() == "The **parser** is broken. Please mend the **parser**"
        assert in_one.items[0].event == (await chat.list("s"))[0]
        assert (await chat.search("parser", "other")).items == ()

    async def test_a_snippet_of_a_long_message_is_short_and_shows_the_match(self, chat: ChatHistoryStore) -> None:
        """However far behind the beginning the match is."""
        await chat.append("s", _said("before " * 500 + "needle" + " behind" * 500))
        (match,) = (await chat.search("needle")).items

        assert "… " not in match.snippet.text[1:-1]
        assert match.snippet.marked("<", ">").count("<needle>") == 1
        assert len(match.snippet.text) < 400
        assert match.snippet.text.startswith("…before")
        assert match.snippet.text.endswith("behind…")

    async def test_what_is_meant_for_machines_is_not_searched(self, chat: ChatHistoryStore) -> None:
        """Types, roles and ids would make every message a match."""
        await chat.append("s", {**_said("Hello"), "uuid": "abc", "tool": {"name": "Read", "input": {"path": "/etc/x"}}})

        for text in ("user", "abc"):
            assert (await chat.search(text)).items == ()
        for text in ("hello", "read", "/etc/x"):
            assert len((await chat.search(text)).items) == 1

    async def test_pages_of_a_search_follow_each_other(self, chat: ChatHistoryStore) -> None:
        """What is appended meanwhile shifts nothing."""
        await chat.append_all("s", [_said(f"word {number}") for number in range(7)])
        found: list[int] = []
        cursor = None
        while True:
            page = await chat.search("word", limit=3, cursor=cursor)
            found += [match.event.sequence for match in page.items]
            await chat.append("s", _said("word"))
            cursor = page.next_cursor
            if cursor is None:
                break

        assert found == [7, 6, 5, 4, 3, 2, 1]
        assert (await chat.search("word", limit=0)).items == ()

    async def test_a_purged_session_is_not_found(self, chat: ChatHistoryStore) -> None:
        """Its messages leave the index with the list."""
        await chat.append("s", _said("secret"))
        await chat.append("t", _said("secret"))
        await chat.purge("s")

        assert _sequences((await chat.search("secret")).items) == [("t", 1)]

    @pytest.mark.parametrize("text", ['"', "NOT", "text: (", "a AND OR*", ";--", "{}", "", "!!!", "\ud800"])
    async def test_any_text_can_be_searched_for(self, chat: ChatHistoryStore, text: str) -> None:
        """It never means anything but its words."""
        await chat.append("s", _said("plain"))

        assert (await chat.search(text)).items == ()

    async def test_a_search_that_cannot_be_is_refused(self, chat: ChatHistoryStore) -> None:
        """With what would be right."""
        await chat.append("s", _said("plain"))
        (event,) = await chat.list("s")
        with pytest.raises(UsageError, match="limit: -1"):
            await chat.search("a", limit=-1)
        with pytest.raises(UsageError, match="expected newest or best"):
            await chat.search("a", order="oldest")
        with pytest.raises(UsageError, match="next_cursor of a search"):
            await chat.search("a", cursor=event.cursor)
