"""Ready-made hooks, on an agent that really calls tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import UsageError
from agentlayers.runtime import AgentRuntime, CallTool, QuerySupervisor, Say, Script, ScriptedBackend, Turn
from agentlayers.runtime.hook_presets import auto_approve, auto_deny, console_logger, observe, timing
from agentlayers.runtime.hooks import merge_hooks, run_hooks
from agentlayers.runtime.message import AgentMessage

SCRIPT = Script([
    Turn([
        CallTool("write_file", {"path": "a", "content": "x"}),
        CallTool("read_file", {"path": "missing"}),
        Say("done"),
    ]),
])  # fmt: skip


async def ask(tmp_path: Path, hooks: Any, **options: Any) -> list[AgentMessage]:
    runtime = AgentRuntime(ScriptedBackend(SCRIPT, directory=tmp_path), QuerySupervisor())
    async with runtime.query("go", hooks=hooks, **options) as turn:
        return await turn.collect()


def outcomes(messages: list[AgentMessage]) -> list[tuple[bool, str]]:
    return [(result.is_error, result.text) for message in messages for result in message.tool_results]


async def test_denied_tools_do_not_run_and_the_agent_is_told_why(tmp_path: Path) -> None:
    messages = await ask(tmp_path, auto_deny(["write_.*"], message="read only"))

    assert (True, "read only") == outcomes(messages)[0]
    assert not (tmp_path / "a").exists()


async def test_a_denial_that_interrupts_ends_the_turn(tmp_path: Path) -> None:
    messages = await ask(tmp_path, auto_deny(["write_file"], interrupt=True))

    assert "aborted_tools" == messages[-1].raw["terminal_reason"]
    assert not (tmp_path / "a").exists()


async def test_approved_tools_run_where_nobody_else_would_permit_them(tmp_path: Path) -> None:
    messages = await ask(tmp_path, auto_approve(["write_file"]), permission_mode="dontAsk")

    assert [False, True] == [is_error for is_error, _ in outcomes(messages)]
    assert (tmp_path / "a").exists()


async def test_a_question_about_an_approved_tool_is_answered() -> None:
    decision = await run_hooks(auto_approve(["a", "b"]), "PermissionRequest", {"tool_name": "b"}, "t")

    assert "allow" == decision.behavior
    assert (await run_hooks(auto_approve(["a"]), "PermissionRequest", {"tool_name": "ab"}, "t")).behavior is None


async def test_durations_are_told_of_tools_that_succeed_and_of_those_that_fail(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    now = iter(range(100))
    hooks = timing(lambda name, tool_use_id, seconds: told.append((name, seconds)), clock=lambda: float(next(now)))

    await ask(tmp_path, hooks)

    assert [("write_file", 1.0), ("read_file", 1.0)] == told


@pytest.mark.parametrize("style", ["text", "json"])
async def test_the_logger_writes_lines_without_the_arguments_of_tools(tmp_path: Path, style: Any) -> None:
    lines: list[str] = []

    await ask(tmp_path, console_logger(["PreToolUse", "Stop"], format=style, write=lines.append), session_id="s-1")

    assert ["write_file", "read_file"] == [
        json.loads(line)["tool"] if style == "json" else line.split("tool=")[1].split()[0] for line in lines[:2]
    ]
    assert 3 == len(lines)
    assert "content" not in "".join(lines)
    assert all("s-1" in line for line in lines)


async def test_presets_are_put_together_and_observers_have_no_opinion(tmp_path: Path) -> None:
    seen: list[str] = []

    async def look(hook_input: Mapping[str, Any], tool_use_id: str | None) -> None:
        seen.append(hook_input["tool_name"])
        raise RuntimeError("an observer that fails")

    hooks = merge_hooks(observe(["PreToolUse"], look, matcher="write_file"), auto_deny(["read_file"]))
    messages = await ask(tmp_path, hooks)

    assert ["write_file"] == seen
    assert [(False, True), (True, False)] == [
        (is_error, (tmp_path / "a").exists() and not is_error) for is_error, _ in outcomes(messages)
    ]


@pytest.mark.parametrize("tools", ["write_file", [], ["("], [7]])
def test_what_names_no_tools_is_refused(tools: Any) -> None:
    with pytest.raises(UsageError):
        auto_deny(tools)
    with pytest.raises(UsageError, match="one of text, json"):
        console_logger(format="xml")  # type: ignore[arg-type]
