"""Conversations with the real ``claude`` command, which talks to our stand-in of the Messages API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentlayers.errors import StateError, UsageError
from agentlayers.runtime.claude_process import marked_processes
from agentlayers.runtime.claude_sdk import load_claude_sdk
from agentlayers.runtime.hooks import HookMatcher
from agentlayers.runtime.message import AgentMessage, user_message
from agentlayers.testing.messages_api import Answer, ApiRequest, say, think, use_tool
from helpers.claude_world import children, claude_world, foreign_connections, needs_claude, own_environment

__all__ = ["own_environment"]

pytestmark = [needs_claude, pytest.mark.timeout(30)]


def echo(request: ApiRequest) -> Answer:
    return f"you said {request.prompt.splitlines()[-1]}"


def once(*blocks: Mapping[str, Any]) -> list[Answer]:
    """Call tools, and say "done" when they are."""
    return [list(blocks), "done"]


def write(name: str = "x.txt") -> dict[str, Any]:
    return use_tool("Write", {"file_path": name, "content": "written"})


def results(messages: list[AgentMessage]) -> list[tuple[bool, str]]:
    return [(result.is_error, result.text) for message in messages for result in message.tool_results]


async def test_a_text_prompt_is_answered_and_the_command_is_gone(tmp_path: Path) -> None:
    async with claude_world(tmp_path, [[think("hm"), say("hello yourself")]]) as world:
        messages = [message for message in await world.ask("hello") if message.subtype != "thinking_tokens"]

    assert ["system", "assistant", "assistant", "result"] == [message.type for message in messages]
    assert "hello yourself" == messages[-1].text
    assert messages[0].is_init
    assert messages[0].session_id == messages[-1].session_id != ""


def strays() -> list[tuple[Path, int]]:
    """Where the command leaves files if nobody tells it not to, with the times of their last change."""
    paths = [*Path("/tmp").glob("claude*"), *Path("/tmp").glob("cc-socks*"), *Path.home().glob(".claude*")]
    return sorted((path, path.stat().st_mtime_ns) for path in paths)


async def test_nothing_reaches_the_outside_and_no_file_is_left_outside(tmp_path: Path) -> None:
    before = strays()
    seen = list[str]()
    others = children()

    def look(request: ApiRequest) -> Answer:
        seen.extend(foreign_connections(children() - others))
        return "done" if request.tool_results else use_tool("Bash", {"command": "echo hi > here.txt"})

    async with claude_world(tmp_path, look) as world:
        await world.ask("write", allowed_tools=["Bash"])

        assert {"/v1/messages"} == {request.path for request in world.api.all_requests}
        assert "hi\n" == (world.directory / "here.txt").read_text()
    assert [] == seen
    assert before == strays()


async def test_messages_are_the_wire_objects_whole(tmp_path: Path) -> None:
    """The SDK's dataclasses drop the session, the time and who permitted the tool."""
    async with claude_world(tmp_path, once(use_tool("Bash", {"command": "echo hi"}, tool_use_id="toolu_1"))) as world:
        messages = await world.ask("go", allowed_tools=["Bash"])

    (answered,) = (message for message in messages if message.tool_results)
    assert "hi" == answered.raw["tool_use_result"]["stdout"]
    assert messages[0].session_id == answered.raw["session_id"]
    assert "rule" == answered.raw["tool_result_meta"][0]["permission_decision"]["reason_type"]
    assert "timestamp" in answered.raw
    assert "toolu_1" == answered.tool_results[0].tool_use_id
    json.dumps([message.raw for message in messages])


async def test_one_command_answers_several_prompts_until_the_input_is_closed(tmp_path: Path) -> None:
    async with claude_world(tmp_path, echo) as world, world.query(None) as query:
        before = children()
        messages = aiter(query)
        said = []
        for text in ("one", "two", "three"):
            await query.send(user_message(text))
            async for message in messages:
                if message.is_result:
                    said.append(message.text)
                    break
        assert children() == before
        await query.close_input()

        assert [] == [message async for message in messages]
        assert ["you said one", "you said two", "you said three"] == said
        with pytest.raises(StateError, match="closed"):
            await query.send(user_message("four"))


async def test_prompts_of_an_iterable_are_asked_in_turn(tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def prompts() -> AsyncIterator[Mapping[str, Any]]:
        yield user_message("one")
        await answered.wait()
        yield user_message("two")

    async with claude_world(tmp_path, echo) as world, world.query(prompts()) as query:
        said = []
        async for message in query:
            if message.is_result:
                said.append(message.text)
                answered.set()

    assert ["you said one", "you said two"] == said


async def test_an_error_of_the_callers_iterable_is_raised_to_the_caller(tmp_path: Path) -> None:
    async def prompts() -> AsyncIterator[Mapping[str, Any]]:
        yield user_message("one")
        raise OSError("the microphone is gone")

    async with claude_world(tmp_path, echo) as world:
        with pytest.raises(OSError, match="microphone"):
            await world.ask(prompts())


async def test_partial_messages_come_when_asked_for(tmp_path: Path) -> None:
    async with claude_world(tmp_path, "abcdefghi") as world:
        messages = await world.ask("go", include_partial_messages=True)

    deltas = [m.raw["event"]["delta"] for m in messages if m.raw.get("event", {}).get("type") == "content_block_delta"]
    assert ["abc", "def", "ghi"] == [delta["text"] for delta in deltas]


async def test_hooks_decide_and_are_told_only_true_tool_use_ids(tmp_path: Path) -> None:
    told = list[tuple[str, str | None]]()

    async def watch(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
        assert context.signal is None
        told.append((hook_input["hook_event_name"], tool_use_id))
        return {}

    async def refuse(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
        decision = {"permissionDecision": "deny", "permissionDecisionReason": "not today"}
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **decision}}

    hooks = {
        "PreToolUse": [HookMatcher("Wri.*", [refuse]), HookMatcher("rit", [refuse]), HookMatcher(None, [watch])],
        "PostToolUse": [HookMatcher("Bash|Write", [watch])],
        "Stop": [HookMatcher(None, [watch])],
        "UserPromptSubmit": [HookMatcher(None, [watch])],
    }
    calls = once(use_tool("Write", {"file_path": "x", "content": ""}, tool_use_id="toolu_w"))
    calls.insert(1, use_tool("Bash", {"command": "echo hi"}, tool_use_id="toolu_b"))
    async with claude_world(tmp_path, calls) as world:
        messages = await world.ask("go", hooks=hooks, allowed_tools=["Bash", "Write"])

        assert not (world.directory / "x").exists()
    assert [(True, "not today"), (False, "hi")] == results(messages)
    before = [("UserPromptSubmit", None), ("PreToolUse", "toolu_w")]
    assert [*before, ("PreToolUse", "toolu_b"), ("PostToolUse", "toolu_b"), ("Stop", None)] == told


async def test_a_hook_that_fails_blocks_where_it_is_told_to(tmp_path: Path) -> None:
    async def fail(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
        raise RuntimeError("the guard is asleep")

    hooks = {"PreToolUse": [HookMatcher("Bash", [fail], on_failure="block"), HookMatcher("Write", [fail])]}
    script: list[Answer] = [use_tool("Bash", {"command": "echo hi > no.txt"}), write(), "done"]
    async with claude_world(tmp_path, script) as world:
        messages = await world.ask("go", hooks=hooks, allowed_tools=["Bash", "Write"])

        assert not (world.directory / "no.txt").exists()
        assert (world.directory / "x.txt").exists()
    assert [True, False] == [is_error for is_error, _ in results(messages)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"behavior": "allow", "updated_input": {"file_path": "other.txt", "content": "changed"}}, None),
        (SimpleNamespace(behavior="deny", message="hands off"), "hands off"),
        ("rubbish", "expected an object with behavior"),
        (RuntimeError("cannot decide"), "can_use_tool failed: cannot decide"),
    ],
)
async def test_can_use_tool_is_asked_and_may_answer_in_any_shape(
    tmp_path: Path, answer: Any, expected: str | None
) -> None:
    asked = list[tuple[str, str]]()

    async def can_use_tool(name: str, arguments: Mapping[str, Any], context: Any) -> Any:
        asked.append((name, context.tool_use_id))
        if isinstance(answer, Exception):
            raise answer
        return answer

    call = use_tool("Write", {"file_path": "x.txt", "content": "c"}, tool_use_id="toolu_1")
    async with claude_world(tmp_path, once(call)) as world:
        messages = await world.ask("go", can_use_tool=can_use_tool)

        assert (expected is None) == (world.directory / "other.txt").exists()
        assert not (world.directory / "x.txt").exists()
    assert [("Write", "toolu_1")] == asked
    ((is_error, text),) = results(messages)
    assert (expected is not None, True) == (is_error, (expected or "") in text)


async def test_the_permission_mode_and_the_model_change_between_turns(tmp_path: Path) -> None:
    script: list[Answer] = [write("one.txt"), "refused", write("two.txt"), "done"]
    async with claude_world(tmp_path, script) as world:
        async with world.query(None, permission_mode="plan", model="claude-opus-4-5") as query:
            messages = aiter(query)
            await query.send(user_message("first"))
            async for message in messages:
                if message.is_result:
                    break
            await query.set_permission_mode("acceptEdits")
            await query.set_model("claude-haiku-4-5")
            await query.send(user_message("second"))
            await query.close_input()
            last = [message async for message in messages][-1]
            with pytest.raises(UsageError, match="permission mode 'acceptAll' is unknown"):
                await query.set_permission_mode("acceptAll")

        assert "done" == last.text
        assert not (world.directory / "one.txt").exists()
        assert (world.directory / "two.txt").exists()
        models = [request.body["model"] for request in world.api.requests]
        assert ["opus", "opus", "haiku", "haiku"] == [model.split("-")[1] for model in models]


async def test_tools_of_an_mcp_server_in_this_process_are_called(tmp_path: Path) -> None:
    sdk = load_claude_sdk()

    async def add(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": str(arguments["a"] + arguments["b"])}]}

    server = sdk.create_sdk_mcp_server("sums", tools=[sdk.tool("add", "Adds.", {"a": int, "b": int})(add)])
    async with claude_world(tmp_path, once(use_tool("mcp__sums__add", {"a": 2, "b": 40}))) as world:
        messages = await world.ask("go", mcp_servers={"sums": server}, allowed_tools=["mcp__sums__add"])

    assert [(False, "42")] == results(messages)


def delegating(request: ApiRequest) -> Answer:
    if request.prompt.endswith("count"):
        return use_tool("Bash", {"command": "echo forty-two"}, tool_use_id="toolu_inner")
    if not request.tool_results:
        arguments = {"description": "counts", "prompt": "count", "subagent_type": "counter"}
        return use_tool("Agent", {**arguments, "run_in_background": False}, tool_use_id="toolu_outer")
    return "inner done" if request.tool_results[0]["tool_use_id"] == "toolu_inner" else "outer done"


async def test_a_subagents_messages_name_the_call_they_work_for(tmp_path: Path) -> None:
    agents = {"counter": {"description": "Counts.", "prompt": "You count.", "tools": ["Bash"]}}
    async with claude_world(tmp_path, delegating) as world:
        messages = await world.ask("go", agents=agents, allowed_tools=["Agent", "Bash"])

    by_id = {result.tool_use_id: message for message in messages for result in message.tool_results}
    assert ["toolu_inner", "toolu_outer"] == list(by_id)
    assert "toolu_outer" == by_id["toolu_inner"].parent_tool_use_id
    assert by_id["toolu_outer"].parent_tool_use_id is None
    assert "outer done" == messages[-1].text


async def test_hooks_are_served_while_nobody_reads(tmp_path: Path) -> None:
    """The SDK holds 100 messages and then stops; a query that is not read must go on all the same."""
    called = asyncio.Event()

    async def hook(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
        called.set()
        return {}

    talk = [say("x" * 9) for _ in range(60)]
    async with claude_world(tmp_path, once(*talk, use_tool("Bash", {"command": "echo hi"}))) as world:
        options = {"include_partial_messages": True, "allowed_tools": ["Bash"]}
        async with world.query("go", hooks={"PreToolUse": [HookMatcher(None, [hook])]}, **options) as query:
            await asyncio.wait_for(called.wait(), 10)
            messages = [message async for message in query]

    assert len(messages) > 200
    assert messages[-1].is_result


async def test_what_the_agent_left_in_the_background_ends_with_it(tmp_path: Path) -> None:
    """The command forgets a child that put itself into a session of its own."""
    command = "setsid sh -c 'while :; do sleep 0.1; done' >/dev/null 2>&1 & echo started"
    async with claude_world(tmp_path, once(use_tool("Bash", {"command": command}))) as world:
        async with world.query("go", allowed_tools=["Bash"]) as query:
            mark = query.mark
            messages = [message async for message in query]
            left = marked_processes(mark)

        assert [(False, "started")] == results(messages)
        assert left
        assert [] == marked_processes(mark)
