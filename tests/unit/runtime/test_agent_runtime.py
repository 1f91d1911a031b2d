"""The runtime: queries, options, timeouts, retries, artifacts, and closing."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import (
    BackendError,
    QueryTimeoutError,
    ScriptError,
    SettingsError,
    StateError,
    UsageError,
)
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.message import ToolResult
from agentlayers.runtime.query_supervisor import QuerySupervisor
from agentlayers.runtime.script import CallTool, Say, Script, Turn
from agentlayers.runtime.scripted import ScriptedBackend
from agentlayers.runtime.settings import RuntimeSettings, SupervisorSettings
from agentlayers.runtime.tool_artifacts import artifact_of
from agentlayers.schedule import fixed
from unit.runtime.conftest import Stores
from unit.runtime.fake_agent import INIT, RESULT, FakeBackend, FakeQuery


def runtime(backend: Any = None, *, supervisor: QuerySupervisor | None = None, **settings: Any) -> AgentRuntime:
    return AgentRuntime(
        backend or ScriptedBackend(),
        supervisor or QuerySupervisor(),
        settings=RuntimeSettings(**settings),
        random=random.Random(1),
    )


async def test_a_query_is_answered() -> None:
    async with runtime().query("hello") as turn:
        texts = [message.text async for message in turn]

    assert ["", "You said: hello", "You said: hello"] == texts
    assert "completed" == turn.status.state


async def test_stream_yields_the_same_and_may_be_left_early() -> None:
    agent = runtime()

    assert 3 == len([message async for message in agent.stream("hello")])
    async with aclosing(agent.stream("hello")) as messages:  # type: ignore[type-var]
        await anext(messages)
    assert (0, 2) == (agent.stats.active, agent.stats.completed)


async def test_defaults_are_merged_with_the_options_of_the_call() -> None:
    backend = FakeBackend(FakeQuery(INIT, RESULT, None))
    agent = runtime(backend, default_options={"model": "a", "env": {"A": "1"}})

    async with agent.query("x", model="b", env={"B": "2"}) as turn:
        await turn.collect()

    ((_prompt, options),) = backend.started
    assert ("b", {"A": "1", "B": "2"}) == (options.model, options.env)


@pytest.mark.parametrize("prompt", [7, b"bytes", "", ["a"]])
async def test_a_prompt_that_is_none_is_refused_at_once(prompt: Any) -> None:
    backend = FakeBackend()

    with pytest.raises(UsageError, match="prompt"):
        async with runtime(backend).query(prompt):
            pass
    assert [] == backend.started


async def test_an_unknown_option_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="did you mean 'session_id'"):
        async with runtime().query("x", sesion_id="s"):
            pass


async def test_timeouts_interrupt_and_raise_and_query_raw_has_none() -> None:
    slow = FakeQuery(INIT)
    agent = runtime(FakeBackend(slow), query_timeout=0.03)
    with pytest.raises(QueryTimeoutError, match="no end of the query"):
        async with agent.query("x") as turn:
            await turn.collect()
    assert "interrupt" in slow.calls

    raw = FakeQuery(INIT)
    agent = runtime(FakeBackend(raw), query_timeout=0.01, first_message_timeout=0.01)
    async with agent.query_raw("x") as turn:
        await anext(turn)
        await asyncio.sleep(0.03)
        assert "running" == turn.status.state


async def test_a_first_message_that_does_not_come_raises() -> None:
    agent = runtime(FakeBackend(FakeQuery()), first_message_timeout=0.02)

    with pytest.raises(QueryTimeoutError, match="no first message within"):
        async with agent.query("x") as turn:
            await anext(turn)


async def test_only_the_start_is_retried() -> None:
    backend = FakeBackend(FakeQuery(INIT, RESULT, None), errors=(BackendError("a"), BackendError("b")))
    agent = runtime(backend, retry_max_retries=2, retry_base_delay=0.001)

    async with agent.query("x") as turn:
        assert 2 == len(await turn.collect())
    assert 3 == len(backend.started)

    broken = FakeBackend(FakeQuery(INIT, BackendError("later")))
    with pytest.raises(BackendError, match="later"):
        async with runtime(broken, retry_max_retries=2, retry_base_delay=0.001).query("x") as turn:
            await turn.collect()
    assert 1 == len(broken.started)


async def test_retries_follow_a_schedule_of_the_callers() -> None:
    backend = FakeBackend(errors=tuple(BackendError(str(n)) for n in range(9)))
    with pytest.raises(BackendError, match="3"):
        async with runtime(backend, retry_max_retries=1, retry_schedule=fixed("1 ms").limited(3)).query("x"):
            pass

    assert 4 == len(backend.started)
    doubling = RuntimeSettings(retry_max_retries=3, retry_base_delay=8, retry_max_delay=20).retries.delays()
    assert all(most / 2 <= delay <= most for most, delay in zip((8, 16, 20), doubling, strict=True))
    assert [] == RuntimeSettings().retries.delays()
    assert 2 == len(RuntimeSettings(retry_max_retries=2, retry_base_delay=0).retries.delays())


async def test_retries_are_bounded_and_hopeless_errors_are_not_retried() -> None:
    backend = FakeBackend(errors=tuple(BackendError(str(n)) for n in range(9)))
    with pytest.raises(BackendError, match="2"):
        async with runtime(backend, retry_max_retries=2, retry_base_delay=0.001).query("x"):
            pass
    assert 3 == len(backend.started)

    for error in (ScriptError("wrong"), UsageError("wrong")):
        hopeless = FakeBackend(errors=(error,))
        with pytest.raises(type(error)):
            async with runtime(hopeless, retry_max_retries=5).query("x"):
                pass
        assert 1 == len(hopeless.started)


async def test_events_stats_and_interrupt_all_are_the_supervisors() -> None:
    supervisor = QuerySupervisor(SupervisorSettings(emit_events=True))
    query = FakeQuery(INIT)
    agent = runtime(FakeBackend(query), supervisor=supervisor)
    events = agent.events()

    async with agent.query("x") as turn:
        assert 1 == agent.stats.active
        await agent.interrupt_all()
        messages = await turn.collect()

    assert messages[-1].is_error
    assert turn.query_id == (await anext(events)).query_id


async def test_closing_the_runtime_ends_its_queries() -> None:
    query = FakeQuery(INIT)
    agent = runtime(FakeBackend(query))
    entered = asyncio.Event()

    async def use() -> str:
        async with agent.query("x") as turn:
            entered.set()
            await turn.collect()
        return turn.status.state

    async with agent:
        using = asyncio.create_task(use())
        await entered.wait()

    assert query.closed.is_set()
    assert "interrupted" == await asyncio.wait_for(using, 5)
    with pytest.raises(StateError, match="runtime is closed"):
        async with agent.query("x"):
            pass


async def test_tool_results_become_artifacts_with_their_tool(stores: Stores) -> None:
    script = Script(
        [
            Turn(
                [
                    CallTool("write_file", {"path": "a", "content": "x"}),
                    CallTool("run_command", {"command": "echo out"}),
                    CallTool("read_file", {"path": "missing"}),
                    Say("done"),
                ]
            )
        ]
    )
    agent = AgentRuntime(ScriptedBackend(script), QuerySupervisor(), artifacts=stores.artifacts)

    async with agent.query("x", session_id="s") as turn:
        messages = await turn.collect()

    uses = [message.tool_uses[0] for message in messages if message.tool_uses]
    # The store lists what was made in one millisecond by id.
    by_id = {record.id: record for record in await stores.artifacts.list("s")}
    records = [by_id[use.id] for use in uses]
    assert 3 == len(by_id)
    assert [(use.id, use.id, use.name, "tool_result") for use in uses] == [
        (record.id, record.tool_use_id, record.tool_name, record.kind) for record in records
    ]
    assert ["application/json", "application/json", "text/plain"] == [record.content_type for record in records]
    assert '"stdout": "out\\n"' in str(records[1].content)
    assert [None, None, {"isError": True}] == [record.metadata for record in records]


def test_a_result_without_a_structured_one_keeps_what_was_told() -> None:
    blocks = [{"type": "text", "text": "a"}]
    told = artifact_of(ToolResult("t", "told", is_error=False), session_id="s", tool_name=None)
    listed = artifact_of(ToolResult("t", blocks, is_error=False), session_id="s", tool_name=None)
    nothing = artifact_of(ToolResult("", None, is_error=False), session_id="s", tool_name=None)
    odd = artifact_of(ToolResult("t", {1, 2}, is_error=False), session_id="s", tool_name=None)

    assert ("told", "text/plain") == (told.content, told.content_type)
    assert ('[{"type": "text", "text": "a"}]', "application/json") == (
        listed.content,
        listed.content_type,
    )
    assert ("", None, True) == (nothing.content, nothing.tool_use_id, bool(nothing.id))
    assert ("{1, 2}", "text/plain") == (odd.content, odd.content_type)


async def test_a_hundred_queries_are_recorded_each_in_its_session(stores: Stores, tmp_path: Path) -> None:
    agent = AgentRuntime(
        ScriptedBackend(Script([Turn([Say("a {prompt}"), Say("b {prompt}")])])),
        QuerySupervisor(SupervisorSettings(concurrency_limit=16, pending_queue_capacity=10)),
        chat_history=stores.chat,
        audit_log=stores.audit,
    )

    async def one(number: int) -> None:
        async with agent.query(f"p{number}", session_id=f"s{number}") as turn:
            await turn.collect()

    async with asyncio.timeout(30):
        await asyncio.gather(*(one(number) for number in range(100)))

    for number in range(100):
        events = await stores.chat.list(f"s{number}")
        assert [1, 2, 3, 4, 5] == [event.sequence for event in events]
        assert f"p{number}" == events[0].message["message"]["content"]
        assert f"b p{number}" == events[-1].message["result"]
    assert (0, 0, 100) == (agent.stats.active, agent.stats.pending, agent.stats.completed)


@pytest.mark.parametrize(
    ("variable", "options", "expected"),
    [
        ("", {}, None),
        ("2 minutes", {}, 120.0),
        ("", {"sync_interval": "1 minute"}, 60.0),
        ("9 s", {"sync_interval": 60}, 60.0),
    ],
)
async def test_a_synced_runtime_keeps_its_files_and_its_timer_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, options: dict[str, Any], expected: float | None
) -> None:
    monkeypatch.setenv("AGENTSDK_STORAGE_SYNC_INTERVAL", variable)
    # Nobody answers there; the timer runs all the same.
    layer = AgentRuntime.layer_with_remote_sync("ws://127.0.0.1:9", directory=tmp_path / "replica", **options)

    async with layer.build(AgentRuntime) as agent:
        assert agent.sync is not None
        timers = [task for task in asyncio.all_tasks() if task.get_name() == "sync interval"]
        assert (expected is not None, expected) == (bool(timers), agent.sync._interval_seconds or None)
        assert (tmp_path / "replica" / "journal.sqlite").exists()


def test_a_synced_runtime_refuses_what_is_no_address_and_no_duration() -> None:
    with pytest.raises(SettingsError, match=r"begins with ws://.*begins with ftp://"):
        AgentRuntime.layer_with_remote_sync("ftp://127.0.0.1")
    with pytest.raises(SettingsError, match="sync_interval"):
        AgentRuntime.layer_with_remote_sync("ws://127.0.0.1", sync_interval="soon")
