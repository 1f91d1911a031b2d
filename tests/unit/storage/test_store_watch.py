"""Any reading method of a store can be watched: now, and after every change, written here or received."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from agentlayers.errors import StateError
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.chat_history import ChatHistoryStore
from helpers.store_replica import IDENTITY, open_replica


def record(content: str) -> ArtifactRecord:
    return ArtifactRecord(id="plan", session_id="s", kind="file", content=content)


async def test_an_artifact_is_shown_now_and_after_each_version(journal: EventJournal) -> None:
    """A received one too; other artifacts say nothing."""
    async with open_replica(journal) as replica, open_replica(seed=5) as other:

        async def content() -> str | None:
            found = await replica.artifacts.get("plan", "s")
            return None if found is None else str(found.content)

        async with aclosing(replica.artifacts.watch(content)) as contents:
            seen = [await anext(contents)]
            await replica.artifacts.put(record("first"))
            seen.append(await anext(contents))
            await replica.chat.append("s", {"n": 1})
            await other.artifacts.put(record("second"))
            await replica.take_all(other)
            seen.append(await anext(contents))
            await replica.artifacts.delete("plan", "s")
            seen.append(await anext(contents))

        assert seen == [None, "first", "second", None]


async def test_the_list_of_sessions_and_the_end_of_a_chat_stay_up_to_date(journal: EventJournal) -> None:
    async with (
        open_replica(journal) as replica,
        aclosing(replica.index.watch(replica.index.list_ids)) as sessions,
        aclosing(replica.chat.watch(lambda: replica.chat.list("b", limit=2, reverse=True))) as newest,
    ):
        found = [await anext(sessions)]
        await replica.chat.append("a", {"n": 1})
        found.append(await anext(sessions))
        await anext(newest)
        for number in range(5):
            await replica.chat.append("b", {"n": number})
        found.append(await anext(sessions))
        shown = await anext(newest)

        assert found == [[], ["a"], ["a", "b"]]
        assert [event.message["n"] for event in shown] == [4, 3]


async def test_a_store_that_is_not_open_cannot_be_watched() -> None:
    async with MemoryJournal() as journal:
        chat = ChatHistoryStore(journal, IDENTITY)
        with pytest.raises(StateError, match="chat_history store is not open"):
            chat.watch(chat.sessions)
        async with chat:
            watching = chat.watch(chat.sessions)
            assert await anext(watching) == []
            waiting = asyncio.ensure_future(anext(watching))
            await asyncio.sleep(0.01)
    with pytest.raises(StopAsyncIteration):
        await waiting
