"""No process is left of an agent, however a query of the runtime is left: the process table tells."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import AgentLayersError, QueryTimeoutError, StateError
from agentlayers.runtime import AgentRuntime, QuerySupervisor, RuntimeSettings, SupervisorSettings
from agentlayers.runtime.claude_process import MARK_VARIABLE
from agentlayers.testing.messages_api import Answer, ApiReply, use_tool
from helpers.claude_world import (
    ClaudeWorld,
    children,
    claude_world,
    needs_claude,
    own_environment,
    processes_of,
    until_file,
)
from unit.runtime.conftest import Stores, stores

__all__ = ["own_environment", "stores"]

pytestmark = [needs_claude, pytest.mark.timeout(30)]

BUSY: list[Answer] = [use_tool("Bash", {"command": "touch begun; while :; do sleep 0.1; done"}), "done"]
"""A tool that never ends, with a shell of its own; a file tells when it has begun."""

Leave = Callable[[ClaudeWorld, Stores], Awaitable[None]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ClaudeWorld]:
    async with claude_world(tmp_path, BUSY) as made:
        yield made


def runtime_of(world: ClaudeWorld, stores: Stores, **settings: Any) -> AgentRuntime:
    backend = world.backend(close_grace_seconds=0.5)
    supervisor = QuerySupervisor(SupervisorSettings(interrupt_grace_seconds=1))
    return AgentRuntime(
        backend,
        supervisor,
        settings=RuntimeSettings(default_options={"allowed_tools": ["Bash"]}, **settings),
        chat_history=stores.chat,
        audit_log=stores.audit,
    )


async def busy(world: ClaudeWorld) -> None:
    await until_file(world.directory / "begun")
    assert len(processes_of(world)) > 1, "the tool runs, or the test shows nothing"


async def read_to_the_end(world: ClaudeWorld, stores: Stores) -> None:
    world.api.play("done")
    async with runtime_of(world, stores) as runtime, runtime.query("go") as turn:
        assert "done" == (await turn.collect_success()).text


async def stop_reading(world: ClaudeWorld, stores: Stores) -> None:
    async with runtime_of(world, stores) as runtime, runtime.query("go") as turn:
        async for message in turn:
            if message.tool_uses:
                break
        await busy(world)


async def raise_in_the_block(world: ClaudeWorld, stores: Stores) -> None:
    async def use() -> None:
        async with runtime_of(world, stores) as runtime, runtime.query("go"):
            await busy(world)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()


async def cancel_the_caller(world: ClaudeWorld, stores: Stores) -> None:
    async def use() -> None:
        async with runtime_of(world, stores) as runtime, runtime.query("go") as turn:
            await turn.collect()

    using = asyncio.create_task(use())
    await busy(world)
    using.cancel()
    await asyncio.wait({using})
    assert using.cancelled()


async def cancel_the_caller_twice(world: ClaudeWorld, stores: Stores) -> None:
    async def use() -> None:
        async with runtime_of(world, stores) as runtime, runtime.query("go") as turn:
            await turn.collect()

    using = asyncio.create_task(use())
    await busy(world)
    using.cancel()
    await asyncio.sleep(0.05)
    using.cancel()
    await asyncio.wait({using})
    # The ending goes on in the background.
    ending = [task for task in asyncio.all_tasks() if task.get_name().startswith(("close-", "query-", "claude-"))]
    assert ending
    await asyncio.wait_for(asyncio.gather(*ending, return_exceptions=True), 10)


async def interrupt(world: ClaudeWorld, stores: Stores) -> None:
    async with runtime_of(world, stores) as runtime, runtime.query("go") as turn:
        await busy(world)
        await runtime.interrupt_all()
        assert (await turn.collect())[-1].is_error


async def close_the_runtime(world: ClaudeWorld, stores: Stores) -> None:
    runtime = runtime_of(world, stores)
    async with runtime:
        query = runtime.query("go")
        await query.__aenter__()
        await busy(world)
    assert [] == processes_of(world), "before the block of the query is left"
    await query.__aexit__(None, None, None)


async def time_out(world: ClaudeWorld, stores: Stores) -> None:
    async with runtime_of(world, stores, query_timeout=2) as runtime:
        with pytest.raises(QueryTimeoutError):
            async with runtime.query("go") as turn:
                await turn.collect()


async def wait_for_a_first_message(world: ClaudeWorld, stores: Stores) -> None:
    async with runtime_of(world, stores, first_message_timeout=0.001) as runtime:
        with pytest.raises(QueryTimeoutError, match="no first message"):
            async with runtime.query(None) as turn:
                await turn.collect()


async def kill_the_command(world: ClaudeWorld, stores: Stores) -> None:
    async with runtime_of(world, stores) as runtime, runtime.query("go") as turn:
        await busy(world)
        os.kill(min(children_with_mark()), signal.SIGKILL)
        with pytest.raises(AgentLayersError, match="SIGKILL"):
            await turn.collect()


async def stop_the_command(world: ClaudeWorld, stores: Stores) -> None:
    """A stopped process hears neither the interrupt nor the end of its input nor SIGTERM."""
    async with runtime_of(world, stores) as runtime, runtime.query("go"):
        await busy(world)
        os.kill(min(children_with_mark()), signal.SIGSTOP)


async def fail_to_record(world: ClaudeWorld, stores: Stores) -> None:
    async with runtime_of(world, stores, record_strict=True) as runtime, runtime.query("go") as turn:
        await stores.chat.__aexit__(None, None, None)
        with pytest.raises(StateError, match="not open"):
            await turn.collect()


def children_with_mark() -> list[int]:
    return [pid for pid in children() if MARK_VARIABLE.encode() in Path(f"/proc/{pid}/environ").read_bytes()]


async def be_refused_by_the_api(world: ClaudeWorld, stores: Stores) -> None:
    world.api.play([ApiReply(status=401, error_type="authentication_error")])
    async with runtime_of(world, stores) as runtime:
        with pytest.raises(AgentLayersError, match="ANTHROPIC_API_KEY"):
            async with runtime.query("go") as turn:
                await turn.collect()


@pytest.mark.parametrize(
    "leave",
    [
        read_to_the_end,
        stop_reading,
        raise_in_the_block,
        cancel_the_caller,
        cancel_the_caller_twice,
        interrupt,
        close_the_runtime,
        time_out,
        wait_for_a_first_message,
        kill_the_command,
        stop_the_command,
        fail_to_record,
        be_refused_by_the_api,
    ],
    ids=lambda leave: leave.__name__,
)
async def test_no_process_is_left(world: ClaudeWorld, stores: Stores, leave: Leave) -> None:
    await leave(world, stores)

    assert [] == processes_of(world)
