"""A whole application on the real ``claude`` command: recorded, audited, its tool results kept as artifacts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dependency_injector import providers

from agentlayers.layer import Layer
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.backend import AgentBackend
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.hooks import HookMatcher
from agentlayers.runtime.presets import load_preset
from agentlayers.runtime.query_handle import QueryHandle
from agentlayers.runtime.query_supervisor import QuerySupervisor
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.testing.messages_api import Answer, ApiReply, ApiRequest, use_tool
from helpers.claude_world import ClaudeWorld, claude_world, needs_claude, own_environment, until_file
from unit.runtime.conftest import Stores, stores

__all__ = ["own_environment", "stores"]

pytestmark = [needs_claude, pytest.mark.timeout(30)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ClaudeWorld]:
    async with claude_world(tmp_path) as made:
        yield made


def runtime_of(world: ClaudeWorld, stores: Stores) -> AgentRuntime:
    return AgentRuntime(
        world.backend(),
        QuerySupervisor(),
        chat_history=stores.chat,
        artifacts=stores.artifacts,
        audit_log=stores.audit,
    )


async def read(turn: QueryHandle) -> str:
    async for message in turn:
        assert message.raw
    return turn.session_id


async def story(stores: Stores) -> list[tuple[Any, ...]]:
    """What the audit log tells of tools and decisions, in order."""
    told: list[tuple[Any, ...]] = []
    for entry in await stores.audit.entries():
        fields = entry.payload
        if entry.event == "tool_use":
            told.append((fields["toolUseId"], fields["status"], fields.get("reason")))
        elif entry.event == "permission_decision":
            told.append((fields.get("toolUseId"), fields["decision"], fields.get("reason")))
    return told


async def hooks_told(stores: Stores) -> list[tuple[Any, Any]]:
    return [(fields["hook"], fields.get("toolUseId")) for fields in await stores.audited("hook_event")]


async def test_every_message_is_recorded_whole_and_every_tool_result_is_an_artifact(
    world: ClaudeWorld, stores: Stores
) -> None:
    def script(request: ApiRequest) -> Answer:
        if request.prompt.endswith("count"):
            return use_tool("Bash", {"command": "echo inside"}, tool_use_id="toolu_inner")
        if not request.tool_results:
            arguments = {"description": "counts", "prompt": "count", "subagent_type": "counter"}
            return use_tool("Agent", {**arguments, "run_in_background": False}, tool_use_id="toolu_outer")
        return "done"

    world.api.play(script)
    agents = {"counter": {"description": "Counts.", "prompt": "You count.", "tools": ["Bash"]}}
    options = {"agents": agents, "allowed_tools": ["Agent", "Bash"]}
    async with runtime_of(world, stores) as runtime, runtime.query("go", **options) as turn:
        yielded = [message.raw async for message in turn]

    recorded = [event.message for event in await stores.chat.list(turn.session_id)]
    assert "go" == recorded[0]["message"]["content"]
    assert yielded == recorded[1:]
    kept = await stores.artifacts.list(turn.session_id)
    assert [("toolu_inner", "Bash"), ("toolu_outer", "Agent")] == [(a.tool_use_id, a.tool_name) for a in kept]
    assert "inside" in kept[0].content
    tools = [(fields["toolUseId"], fields["status"]) for fields in await stores.audited("tool_use")]
    inner, outer = "toolu_inner", "toolu_outer"
    assert [(outer, "start"), (inner, "start"), (inner, "success"), (outer, "success")] == tools
    hooks = await hooks_told(stores)
    assert "SessionEnd" == hooks[-1][0]
    assert {"SessionStart", "SessionEnd", "Stop", "SubagentStart", "SubagentStop"} <= {hook for hook, _ in hooks}
    assert {inner, outer, None} == {tool_use_id for _, tool_use_id in hooks}


async def test_the_audit_tells_who_permitted_and_who_refused(world: ClaudeWorld, stores: Stores) -> None:
    async def refuse(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
        decision = {"permissionDecision": "deny", "permissionDecisionReason": "not today"}
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **decision}}

    async def can_use_tool(name: str, arguments: Mapping[str, Any], context: Any) -> Any:
        if "bad" in str(arguments):
            return {"behavior": "deny", "message": "bad"}
        return {"behavior": "allow"}

    def bash(command: str, tool_use_id: str) -> dict[str, Any]:
        return use_tool("Bash", {"command": command}, tool_use_id=tool_use_id)

    world.api.play([
        bash("touch good", "by_caller"),
        bash("touch bad", "refused_by_caller"),
        bash("cp a b", "refused_by_rule"),
        bash("touch c; exit 3", "failed"),
        use_tool("Read", {"file_path": "good"}, tool_use_id="refused_by_hook"),
        use_tool("Write", {"file_path": "w", "content": ""}, tool_use_id="by_mode"),
        bash("mkdir d", "by_rule"),
        "done",
    ])  # fmt: skip
    options: dict[str, Any] = {
        "hooks": {"PreToolUse": [HookMatcher("Read", [refuse])]},
        "permission_mode": "acceptEdits",
        "allowed_tools": ["Bash(mkdir:*)"],
        "disallowed_tools": ["Bash(cp:*)"],
        "can_use_tool": can_use_tool,
    }
    # acceptEdits would permit touch by itself.
    world.options["settings"] = '{"permissions": {"ask": ["Bash(touch:*)"]}}'
    async with runtime_of(world, stores) as runtime, runtime.query("go", **options) as turn:
        await read(turn)

    told = await story(stores)
    # Hooks and can_use_tool are asked at the same time, so what is noted meanwhile has no fixed order.
    by_tool = {tool_use_id: {entry[1:] for entry in told if entry[0] == tool_use_id} for tool_use_id, *_ in told}
    start, success, denied = ("start", None), ("success", None), ("failure", "denied")
    asked = {start, ("prompt", None)}
    by_part_rule = ("deny", "by a rule about a part of the command")
    expected: dict[str, set[Any]] = {
        "by_caller": {*asked, ("allow", None), success},
        "refused_by_caller": {*asked, ("deny", "bad"), denied},
        "refused_by_rule": {start, by_part_rule, denied},
        "failed": {*asked, ("allow", None), ("failure", None)},
        "refused_by_hook": {start, ("deny", "not today"), denied},
        "by_mode": {start, success, ("allow", "by the permission mode")},
        "by_rule": {start, success, ("allow", "by a rule about a part of the command")},
    }
    assert expected == by_tool
    assert sum(len(entries) for entries in expected.values()) == len(told)


async def test_an_interrupted_tool_ends_as_such_in_the_audit(world: ClaudeWorld, stores: Stores) -> None:
    world.api.play([use_tool("Bash", {"command": "touch begun; while :; do sleep 0.1; done"}, tool_use_id="toolu_1")])
    async with runtime_of(world, stores) as runtime, runtime.query("go", allowed_tools=["Bash"]) as turn:
        await until_file(world.directory / "begun")
        await turn.interrupt()
        await read(turn)

    told = [entry for entry in await story(stores) if entry[1] in {"start", "success", "failure"}]
    assert [("toolu_1", "start", None), ("toolu_1", "failure", "interrupted")] == told
    assert "interrupted" == turn.status.state


async def test_a_query_that_is_left_early_is_recorded_and_gone(world: ClaudeWorld, stores: Stores) -> None:
    world.api.play([ApiReply(hangs=True)])
    async with runtime_of(world, stores) as runtime:
        async with runtime.query("go") as turn:
            await world.api.until_asked()
            assert 1 == runtime.stats.active
        assert 0 == runtime.stats.active

    types = [event.message["type"] for event in await stores.chat.list(turn.session_id)]
    assert ["user", "system"] == types[:2]
    assert "result" == types[-1]


def as_container(world: ClaudeWorld, tmp_path: Path) -> type[AgentRuntimeContainer]:
    from agentlayers.runtime.claude import ClaudeBackend

    class App(AgentRuntimeContainer):
        agent_backend = providers.Singleton(
            ClaudeBackend, env=world.env, options={"cwd": str(world.directory), "setting_sources": []}
        )

    return App


def as_yaml(world: ClaudeWorld, tmp_path: Path) -> type[AgentRuntimeContainer]:
    options = {"cwd": str(world.directory), "setting_sources": []}
    file = tmp_path / "app.yaml"
    file.write_text(yaml.safe_dump({"agent_backend": {"claude": {"env": world.env, "options": options}}}))
    return load_preset(file)


def as_layers(world: ClaudeWorld, tmp_path: Path) -> Layer:
    options = {"cwd": str(world.directory), "setting_sources": []}
    backend = AgentBackend.layer_claude(env=world.env, options=options)
    return AgentRuntimeContainer.layer(outputs=(AgentRuntime, AgentSessionStore), agent_backend=backend)


@pytest.mark.parametrize("spelling", [as_container, as_yaml, as_layers])
async def test_an_application_wired_with_claude_keeps_its_sessions(
    world: ClaudeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: Any
) -> None:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "storage"))
    world.api.play("hello yourself")

    async with spelling(world, tmp_path).build() as app:
        runtime, sessions = app.get(AgentRuntime), app.get(AgentSessionStore)
        async with runtime.query("hello") as turn:
            session_id = await read(turn)
        project = str(world.directory.resolve()).replace("/", "-").replace("_", "-")
        kept = await sessions.load({"project_key": project, "session_id": session_id})

    assert {"user", "assistant"} <= {line["type"] for line in kept or ()}
