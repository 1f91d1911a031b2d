"""The audit: every tool use with its end, every decision, and the user's hooks untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import StorageUnavailableError
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.hook_audit import HookAudit
from agentlayers.runtime.hooks import HookMatcher
from agentlayers.runtime.query_supervisor import QuerySupervisor
from agentlayers.runtime.script import CallTool, Delay, Say, Script, Turn
from agentlayers.runtime.scripted import ScriptedBackend
from agentlayers.runtime.settings import RuntimeSettings
from unit.runtime.conftest import Stores

WRITE = CallTool("write_file", {"path": "a.txt", "content": "x"})
FAIL = CallTool("run_command", {"command": "exit 1"})


def runtime(stores: Stores, *steps: Any, audit: Any = None, **settings: Any) -> AgentRuntime:
    return AgentRuntime(
        ScriptedBackend(Script([Turn(steps, repeat=True)])),
        QuerySupervisor(),
        settings=RuntimeSettings(**settings),
        audit_log=audit or stores.audit,
    )


def answering(output: Mapping[str, Any]) -> Any:
    async def hook(hook_input: object, tool_use_id: object, context: object) -> Mapping[str, Any]:
        return output

    return hook


def tool_uses(payloads: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(p["toolName"], p["status"], p.get("reason"), "durationMs" in p) for p in payloads]


def decisions(payloads: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [(p["toolName"], p["decision"], p.get("reason")) for p in payloads]


RULE = "by a rule or the permission mode"


async def test_every_tool_use_has_a_start_an_end_a_duration_and_its_id(stores: Stores) -> None:
    async with runtime(stores, WRITE, FAIL, Say("done")).query("x", session_id="s") as turn:
        messages = await turn.collect()

    written = await stores.audited("tool_use")
    assert [
        ("write_file", "start", None, False),
        ("write_file", "success", None, True),
        ("run_command", "start", None, False),
        ("run_command", "failure", None, True),
    ] == tool_uses(written)
    ids = [message.tool_uses[0].id for message in messages if message.tool_uses]
    assert [ids[0], ids[0], ids[1], ids[1]] == [payload["toolUseId"] for payload in written]
    assert {"s"} == {payload["sessionId"] for payload in written}


async def test_a_tool_that_hooks_deny_ends_as_denied(stores: Stores) -> None:
    denial = {
        "hookSpecificOutput": {
            "permissionDecision": "deny",
            "permissionDecisionReason": "no writing",
        }
    }
    hooks = {"PreToolUse": [HookMatcher("write_file", [answering(denial)])]}

    async with runtime(stores, WRITE).query("x", hooks=hooks) as turn:
        await turn.collect()

    assert [
        ("write_file", "start", None, False),
        ("write_file", "failure", "denied", True),
    ] == tool_uses(await stores.audited("tool_use"))
    assert [("write_file", "deny", "no writing")] == decisions(await stores.audited("permission_decision"))


async def test_a_rule_or_mode_that_decides_is_recorded_too(stores: Stores) -> None:
    async with runtime(stores, WRITE).query("x", disallowed_tools=["write_file"]) as turn:
        await turn.collect()
    async with runtime(stores, WRITE).query("x", permission_mode="acceptEdits") as turn:
        await turn.collect()

    assert [("write_file", "deny", RULE), ("write_file", "allow", RULE)] == decisions(
        await stores.audited("permission_decision")
    )


async def test_decisions_of_can_use_tool_are_recorded(stores: Stores) -> None:
    async def can_use_tool(name: str, tool_input: object, context: object) -> Any:
        return {"behavior": "deny", "message": "ask me later"}

    async with runtime(stores, WRITE).query("x", can_use_tool=can_use_tool) as turn:
        await turn.collect()

    assert [("write_file", "prompt", None), ("write_file", "deny", "ask me later")] == decisions(
        await stores.audited("permission_decision")
    )


async def test_a_deferred_tool_ends_as_deferred(stores: Stores) -> None:
    defer = {"hookSpecificOutput": {"permissionDecision": "defer"}}
    hooks = {"PreToolUse": [HookMatcher(hooks=[answering(defer)])]}

    async with runtime(stores, WRITE).query("x", hooks=hooks) as turn:
        await turn.collect()

    assert ("write_file", "failure", "deferred", True) == tool_uses(await stores.audited("tool_use"))[-1]
    assert [("write_file", "prompt", None)] == decisions(await stores.audited("permission_decision"))


@pytest.mark.parametrize("leave_early", [True, False])
async def test_a_tool_that_is_interrupted_ends_as_interrupted(stores: Stores, leave_early: bool) -> None:
    sleep = CallTool("run_command", {"command": "sleep 60"})
    async with asyncio.timeout(10), runtime(stores, sleep).query("x") as turn:
        async for message in turn:
            if message.tool_uses:
                while len(await stores.audited("tool_use")) < 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                if leave_early:
                    break
                await turn.interrupt()

    assert [
        ("run_command", "start", None, False),
        ("run_command", "failure", "interrupted", True),
    ] == tool_uses(await stores.audited("tool_use"))


async def test_the_session_begins_and_ends_and_hook_events_are_recorded(stores: Stores) -> None:
    async with runtime(stores, Say("a")).query("x", session_id="s") as turn:
        await turn.collect()

    assert [
        ("UserPromptSubmit", "s"),
        ("SessionStart", "s"),
        ("Stop", "s"),
        ("SessionEnd", "s"),
    ] == [(payload["hook"], payload["sessionId"]) for payload in await stores.audited("hook_event")]


async def test_the_users_hooks_keep_their_order_matcher_timeout_and_on_failure(
    stores: Stores,
) -> None:
    first = HookMatcher("write_file", [answering({})], timeout=7, on_failure="block")
    second = HookMatcher("read_file", [answering({}), answering({})])

    trail = HookAudit(stores.audit).with_audit({"hooks": {"PreToolUse": [first, second]}, "model": "m"})

    kept = trail.options["hooks"]["PreToolUse"]
    assert [("write_file", 7, "block", 1), ("read_file", None, None, 2), (None, None, None, 1)] == [
        (matcher.matcher, matcher.timeout, matcher.on_failure, len(matcher.hooks)) for matcher in kept
    ]
    assert "m" == trail.options["model"]
    await trail.ended(_end())


async def test_a_users_hook_that_fails_is_recorded_and_still_decides_as_it_would(
    stores: Stores,
) -> None:
    async def failing(hook_input: object, tool_use_id: object, context: object) -> Any:
        raise ValueError("broken")

    hooks = {"PreToolUse": [HookMatcher(hooks=[failing], on_failure="block")]}
    async with runtime(stores, WRITE).query("x", hooks=hooks) as turn:
        messages = await turn.collect()

    assert "a PreToolUse hook failed: broken" == messages[2].tool_results[0].text
    failures = [p["hook"] for p in await stores.audited("hook_event") if p["outcome"] == "failure"]
    assert ["PreToolUse"] == failures


async def test_the_audit_changes_nothing_the_agent_does(stores: Stores, tmp_path: Path) -> None:
    async def transcript(agent: AgentRuntime) -> list[Any]:
        async with agent.query("x", cwd=tmp_path, session_id="s") as turn:
            return [(m.type, m.subtype, m.text, [r.content for r in m.tool_results]) for m in await turn.collect()]

    steps = (WRITE, FAIL, CallTool("list_files"), Say("{result}"))
    plain = AgentRuntime(ScriptedBackend(Script([Turn(steps, repeat=True)])), QuerySupervisor())
    (tmp_path / "a.txt").write_text("there already")

    assert await transcript(plain) == await transcript(runtime(stores, *steps))


class BrokenLog:
    """An audit log whose medium is gone."""

    is_enabled = True

    async def write(self, event: str, payload: Mapping[str, Any]) -> None:
        raise StorageUnavailableError(backend="test", operation="write", reason="gone")


async def test_a_broken_audit_log_does_not_break_the_agent(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlayers.runtime.background_writer.CLOSE_SECONDS_MAX", 0.05)
    trail = HookAudit(BrokenLog(), wait_seconds=0.01).with_audit()  # type: ignore[arg-type]
    trail._writer._close_seconds_max = 0.05
    agent = AgentRuntime(ScriptedBackend(Script([Turn([WRITE, Say("fine")])])), QuerySupervisor())

    async with asyncio.timeout(5), agent.query("x", **trail.options) as turn:
        trail.attach(turn)
        messages = await turn.collect()

    assert "fine" == messages[-1].text
    assert trail.error is not None


async def test_a_strict_audit_blocks_the_tool_it_cannot_record(stores: Stores, tmp_path: Path) -> None:
    agent = runtime(stores, WRITE, Say("told {result}"), audit=BrokenLog(), audit_strict=True)

    async with agent.query("x", cwd=tmp_path) as turn:
        messages = await turn.collect()

    assert not (tmp_path / "a.txt").exists()
    assert "the audit is strict" in messages[-1].text


async def test_only_matching_tools_are_audited(stores: Stores) -> None:
    trail = HookAudit(stores.audit, matcher="write_.*", log_hook_outcomes=False).with_audit(session_id="mine")
    agent = AgentRuntime(ScriptedBackend(Script([Turn([WRITE, FAIL, Delay(0)])])), QuerySupervisor())

    async with agent.query("x", **trail.options) as turn:
        trail.attach(turn)
        await turn.collect()

    assert [("write_file", "start"), ("write_file", "success")] == [
        (payload["toolName"], payload["status"]) for payload in await stores.audited("tool_use")
    ]
    assert {"mine"} == {entry.session_id for entry in await stores.audit.entries()}
    assert [] == await stores.audited("hook_event")


def _end() -> Any:
    from agentlayers.runtime.tap import QueryEnd

    return QueryEnd("completed", "s")
