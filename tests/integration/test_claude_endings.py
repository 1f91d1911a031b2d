"""However a conversation with the real ``claude`` command ends, nothing of it is left, and the reason is clear."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import AgentLayersError, BackendError, ConfigurationError, UsageError
from agentlayers.runtime.claude import ClaudeBackend
from agentlayers.runtime.claude_errors import ClaudeCommandNotFoundError, ClaudeExitError, ClaudeLoginError
from agentlayers.runtime.claude_process import marked_processes
from agentlayers.runtime.claude_query import ClaudeQuery
from agentlayers.runtime.message import AgentMessage, user_message
from agentlayers.runtime.options import QueryOptions
from agentlayers.testing.messages_api import Answer, ApiReply, use_tool
from helpers.claude_world import claude_world, needs_claude, own_environment, until_file

__all__ = ["own_environment"]

pytestmark = [needs_claude, pytest.mark.timeout(30)]

LOOP = "while :; do sleep 0.1; done"
HANGS = [ApiReply(hangs=True)]


BUSY: list[Answer] = [use_tool("Bash", {"command": f"touch begun; {LOOP}"}), "done"]
"""The agent runs a command that never ends, and a file tells when it has begun."""


async def rest(query: ClaudeQuery) -> list[AgentMessage]:
    return [message async for message in query]


async def test_an_interrupt_stops_what_the_model_says(tmp_path: Path) -> None:
    async with claude_world(tmp_path, HANGS) as world, world.query("go") as query:
        await world.api.until_asked()
        await query.interrupt()
        messages = await rest(query)

    assert ("aborted_streaming", True) == (messages[-1].raw["terminal_reason"], messages[-1].is_error)


async def test_an_interrupt_that_comes_before_anything_runs_is_not_lost(tmp_path: Path) -> None:
    async with claude_world(tmp_path, HANGS) as world, world.query("go") as query:
        await query.interrupt()
        messages = await rest(query)

    assert messages[-1].raw["terminal_reason"].startswith("aborted")


async def test_an_interrupt_stops_a_tool_and_its_processes_and_the_conversation_goes_on(tmp_path: Path) -> None:
    async with claude_world(tmp_path, BUSY) as world, world.query(None, allowed_tools=["Bash"]) as query:
        messages = aiter(query)
        await query.send(user_message("go"))
        await until_file(world.directory / "begun")
        running = len(marked_processes(query.mark))
        await query.interrupt()
        async for message in messages:
            if message.is_result:
                break
        await query.send(user_message("and now?"))
        await query.close_input()
        last = [message async for message in messages][-1]
        left = marked_processes(query.mark)

    assert "aborted_tools" == message.raw["terminal_reason"]
    assert "done" == last.text
    assert running > 1
    assert [] == left


async def test_an_interrupt_when_nothing_runs_does_nothing(tmp_path: Path) -> None:
    async with claude_world(tmp_path) as world, world.query(None) as query:
        await query.interrupt()
        await query.send(user_message("go"))
        await query.close_input()
        messages = await rest(query)
        await query.interrupt()

    assert "done" == messages[-1].text


@pytest.mark.parametrize("is_read", [True, False])
async def test_closing_in_the_middle_of_a_tool_leaves_nothing(tmp_path: Path, is_read: bool) -> None:
    async with claude_world(tmp_path, BUSY) as world:
        async with world.query("go", allowed_tools=["Bash"]) as query:
            if is_read:
                await anext(aiter(query))
            await until_file(world.directory / "begun")
            assert marked_processes(query.mark)

        assert [] == marked_processes(query.mark)
        await query.aclose()


async def test_a_killed_command_is_reported_and_what_it_started_ends_with_it(tmp_path: Path) -> None:
    async with claude_world(tmp_path, BUSY) as world:
        async with world.query("go", allowed_tools=["Bash"]) as query:
            await until_file(world.directory / "begun")
            os.kill(min(marked_processes(query.mark)), signal.SIGKILL)
            with pytest.raises(ClaudeExitError, match="was killed by SIGKILL") as raised:
                await rest(query)
            orphans = marked_processes(query.mark)

        assert -signal.SIGKILL == raised.value.exit_code
        assert orphans
        assert [] == marked_processes(query.mark)


async def test_a_command_that_does_not_end_by_itself_is_killed(tmp_path: Path) -> None:
    """A stopped process hears neither the end of its input nor SIGTERM."""
    async with claude_world(tmp_path, HANGS) as world:
        query = await world.backend(close_grace_seconds=0.1).start("go", QueryOptions())
        await world.api.until_asked()
        os.kill(min(marked_processes(query.mark)), signal.SIGSTOP)

        await query.aclose()

        assert [] == marked_processes(query.mark)


@pytest.mark.parametrize("after_seconds", [0.0, 0.1, 0.3])
async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path, after_seconds: float) -> None:
    async with claude_world(tmp_path) as world:
        starting = asyncio.create_task(world.ask("go"))
        await asyncio.sleep(after_seconds)
        starting.cancel()
        await asyncio.wait({starting})

    assert starting.cancelled()


async def test_a_reader_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with claude_world(tmp_path, HANGS) as world:
        reading = asyncio.create_task(world.ask("go"))
        await world.api.until_asked()
        reading.cancel()
        await asyncio.wait({reading})

    assert reading.cancelled()


@pytest.mark.parametrize(
    ("script", "key", "text"),
    [
        ("done", "", "Not logged in"),
        ([ApiReply(status=401, error_type="authentication_error")], "x", "401"),
    ],
)
async def test_missing_and_wrong_credentials_say_what_to_set(tmp_path: Path, script: Any, key: str, text: str) -> None:
    async with claude_world(tmp_path, script) as world:
        with pytest.raises(ClaudeLoginError, match=f"{text}.*set ANTHROPIC_API_KEY"):
            await world.ask("go", env={"ANTHROPIC_API_KEY": key})


async def test_an_error_of_the_api_is_a_result_and_no_exception(tmp_path: Path) -> None:
    error = ApiReply(status=529, error_type="overloaded_error", error_message="too much to do")
    async with claude_world(tmp_path, [error]) as world:
        messages = await world.ask("go")

    assert (True, 529) == (messages[-1].is_error, messages[-1].raw["api_error_status"])


async def test_too_many_turns_are_a_result_and_no_exception(tmp_path: Path) -> None:
    async with claude_world(tmp_path, [use_tool("Bash", {"command": "echo hi"})]) as world:
        messages = await world.ask("go", max_turns=1, allowed_tools=["Bash"])

    assert "error_max_turns" == messages[-1].subtype


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"cli_path": "/no/such/claude"}, ClaudeCommandNotFoundError, "no claude command.*cli_path"),
        ({"cwd": "/no/such/directory"}, UsageError, "is no directory; make it first"),
        ({"session_id": "mine"}, UsageError, "is no UUID"),
        ({"modell": "x"}, UsageError, "unknown query option 'modell'; did you mean 'model'?"),
        ({"max_budget_eur": 1}, UsageError, "did you mean 'max_budget_usd'?"),
        ({"env": {"A": 1}}, UsageError, "must be a text, got int"),
        ({"agents": {"a": {"description": "d", "promt": "p"}}}, UsageError, "did you mean 'prompt'?"),
        ({"agents": {"a": {"description": "d"}}}, UsageError, "needs a description and a prompt"),
        ({"skills": "one"}, UsageError, "skills must be a list"),
        ({"resume": "5b3e0a0e-0000-4000-8000-000000000000"}, ClaudeExitError, "No conversation found with session ID"),
        ({"extra_args": {"no-such-flag": None}}, BackendError, "unknown option '--no-such-flag'"),
    ],
)
async def test_what_cannot_be_started_says_why(
    tmp_path: Path, options: Mapping[str, Any], kind: type[AgentLayersError], text: str
) -> None:
    async with claude_world(tmp_path) as world:
        with pytest.raises(kind, match=text):
            await world.ask("go", **options)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser is refused")
async def test_the_reason_on_stderr_is_in_the_error(tmp_path: Path) -> None:
    lines = list[str]()
    async with claude_world(tmp_path) as world:
        with pytest.raises(ClaudeExitError, match="cannot be used with root/sudo"):
            await world.ask("go", permission_mode="bypassPermissions", stderr=lines.append)

    assert any("root/sudo" in line for line in lines)


async def test_without_the_extra_the_backend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlayers.runtime.claude_sdk.find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match=r"pip install 'agentlayers\[claude\]'"):
        ClaudeBackend()
