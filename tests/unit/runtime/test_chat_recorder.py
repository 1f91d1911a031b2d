"""Recording: durable before it is yielded, in order, nothing lost, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from agentlayers.errors import StorageUnavailableError
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.chat_history import ChatHistory
from agentlayers.runtime.message import user_message
from agentlayers.runtime.query_supervisor import QuerySupervisor
from agentlayers.runtime.scripted import ScriptedBackend
from agentlayers.runtime.settings import RuntimeSettings
from unit.runtime.conftest import Stores
from unit.runtime.fake_agent import INIT, RESULT, FakeBackend, FakeQuery, said


class GatedStore:
    """The real store behind a gate, and behind errors."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[Exception] = []

    @property
    def is_enabled(self) -> bool:
        return True

    async def append_all(self, *args: Any, **kwargs: Any) -> Any:
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return await self._store.append_all(*args, **kwargs)


def full() -> StorageUnavailableError:
    return StorageUnavailableError(backend="test", operation="write", reason="disk full")


def runtime(store: Any, backend: Any, **settings: Any) -> AgentRuntime:
    return AgentRuntime(backend, QuerySupervisor(), settings=RuntimeSettings(**settings), chat_history=store)


async def test_a_conversation_is_recorded_whole_and_in_order(stores: Stores) -> None:
    agent = runtime(stores.chat, ScriptedBackend())

    async with agent.query("hello") as turn:
        messages = await turn.collect()

    events = await stores.chat.list(messages[0].session_id)
    assert ["external", "sdk", "sdk", "sdk"] == [event.source for event in events]
    assert "hello" == events[0].message["message"]["content"]
    assert turn.session_id == events[0].message["session_id"]
    assert events[0].message["uuid"]
    assert [message.raw for message in messages] == [event.message for event in events[1:]]


async def test_each_message_is_durable_before_it_is_yielded(stores: Stores) -> None:
    agent = runtime(stores.chat, FakeBackend(FakeQuery(INIT, said("a"), said("b"), RESULT, None)))
    counts = []

    async with agent.query("hi") as turn:
        async for number, _message in _counted(turn):
            counts.append((number, len(await stores.chat.list("s"))))

    assert all(recorded >= number + 1 for number, recorded in counts), counts


async def _counted(messages: AsyncIterator[Any]) -> AsyncIterator[tuple[int, Any]]:
    number = 0
    async for message in messages:
        number += 1
        yield number, message


async def test_a_slow_store_does_not_stop_the_conversation_and_the_status_says_so(
    stores: Stores,
) -> None:
    gated = GatedStore(stores.chat)
    gated.gate.clear()
    agent = runtime(gated, FakeBackend(FakeQuery(INIT, said("a"), RESULT, None)), record_wait_seconds=0.02)

    async with agent.query("hi") as turn:
        async with asyncio.timeout(5):
            first = await anext(turn)
            behind = turn.status
            gated.gate.set()
            rest = await turn.collect()
        after = turn.status

    assert ("system", 2) == (first.type, len(rest))
    assert (True, True) == (behind.recording_behind, behind.recording_pending > 0)
    assert (False, 0, "") == (
        after.recording_behind,
        after.recording_pending,
        after.recording_error,
    )
    assert [("external", "hi"), ("sdk", "system"), ("sdk", "assistant"), ("sdk", "result")] == (
        await stores.history("s")
    )


async def test_what_is_queued_when_the_query_is_interrupted_is_recorded(stores: Stores) -> None:
    gated = GatedStore(stores.chat)
    gated.gate.clear()
    agent = runtime(gated, FakeBackend(FakeQuery(INIT, said("a"))), record_wait_seconds=0.01)

    async with agent.query("hi") as turn:
        await anext(turn)
        asyncio.get_running_loop().call_later(0.05, gated.gate.set)

    assert [("external", "hi"), ("sdk", "system"), ("sdk", "assistant"), ("sdk", "result")] == (
        await stores.history("s")
    )


async def test_a_full_disk_is_reported_retried_and_loses_nothing(stores: Stores) -> None:
    gated = GatedStore(stores.chat)
    gated.errors = [full(), full()]
    agent = runtime(gated, FakeBackend(FakeQuery(INIT, RESULT, None)), record_wait_seconds=0.01)

    async with agent.query("hi") as turn:
        await anext(turn)
        while_full = turn.status
        await turn.collect()

    assert "disk full" in while_full.recording_error
    assert "" == turn.status.recording_error
    assert [("external", "hi"), ("sdk", "system"), ("sdk", "result")] == await stores.history("s")


async def test_strict_mode_raises_to_the_reader(stores: Stores) -> None:
    gated = GatedStore(stores.chat)
    gated.errors = [full()]
    agent = runtime(gated, FakeBackend(FakeQuery(INIT, RESULT, None)), record_strict=True)

    with pytest.raises(StorageUnavailableError, match="disk full"):
        async with agent.query("hi") as turn:
            await turn.collect()

    assert "disk full" in turn.status.recording_error
    assert [] == await stores.history("s")


async def test_input_sent_later_stands_where_it_was_said(stores: Stores) -> None:
    agent = runtime(stores.chat, ScriptedBackend())

    async with agent.query(None, session_id="s") as turn:
        await turn.send("one")
        async for message in turn:
            if message.is_result:
                if message.text.endswith("two"):
                    break
                await turn.send("two")

    assert [
        ("external", "one"),
        ("sdk", "system"),
        ("sdk", "assistant"),
        ("sdk", "result"),
        ("external", "two"),
        ("sdk", "system"),
        ("sdk", "assistant"),
        ("sdk", "result"),
    ] == await stores.history("s")


async def test_a_streamed_prompt_is_recorded(stores: Stores) -> None:
    async def prompts() -> AsyncIterator[Mapping[str, Any]]:
        yield user_message("one")

    agent = runtime(stores.chat, ScriptedBackend())

    async with agent.query(prompts(), session_id="s") as turn:
        await turn.collect()

    assert ("external", "one") == (await stores.history("s"))[0]


async def test_switches_choose_what_is_recorded(stores: Stores) -> None:
    async def recorded(session: str, **settings: Any) -> list[tuple[str, str]]:
        agent = runtime(stores.chat, ScriptedBackend(), **settings)
        async with agent.query("hi", session_id=session, include_partial_messages=True) as turn:
            await turn.collect()
        return await stores.history(session)

    output = [("sdk", "system"), ("sdk", "assistant"), ("sdk", "result")]
    partial = [
        ("sdk", "system"),
        *[("sdk", "stream_event")] * 3,
        ("sdk", "assistant"),
        ("sdk", "result"),
    ]
    assert output == await recorded("a", record_input=False)
    assert [("external", "hi")] == await recorded("b", record_output=False)
    assert [("external", "hi"), *partial] == await recorded("c", record_partial=True)


async def test_a_query_can_be_recorded_by_hand_under_another_session(stores: Stores) -> None:
    query = FakeQuery(INIT, said("a"), RESULT, None)
    async with QuerySupervisor() as supervisor:
        handle = await supervisor.submit(_starting(query))
        await anext(handle)

        recorded = ChatHistory(stores.chat).with_recorder(handle, session_id="mine", source="replay")
        await recorded.collect()
        await handle.aclose()

    assert recorded is handle
    assert [("replay", "assistant"), ("replay", "result")] == await stores.history("mine")


async def test_a_prompt_is_recorded_though_the_agent_never_named_a_session(stores: Stores) -> None:
    query = FakeQuery()
    async with QuerySupervisor() as supervisor:
        handle = await supervisor.submit(_starting(query), taps=[ChatHistory(stores.chat).recorder()])
        await handle.send(user_message("hi", session_id="given"))
        query.feed.put_nowait(None)
        await handle.collect()
        await handle.aclose()

    assert [("external", "hi")] == await stores.history("given")


async def test_the_session_index_knows_the_session(stores: Stores) -> None:
    agent = runtime(stores.chat, ScriptedBackend())

    async with agent.query("hi", session_id="s") as turn:
        await turn.collect()

    assert ["s"] == [meta.session_id for meta in await stores.index.list()]


def _starting(query: FakeQuery) -> Any:
    async def start(prompt: object) -> FakeQuery:
        return query

    return start
