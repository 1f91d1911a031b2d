"""Hook maps: matching, combining answers, failures and timeouts."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from agentlayers.errors import UsageError
from agentlayers.runtime.hooks import HookMatcher, check_hooks, matches, merge_hooks, run_hooks


def answering(output: Any, seen: list[Any] | None = None) -> Any:
    async def hook(hook_input: Mapping[str, Any], tool_use_id: str | None, context: object) -> Any:
        if seen is not None:
            seen.append((dict(hook_input), tool_use_id))
        return output

    return hook


async def failing(hook_input: object, tool_use_id: object, context: object) -> Any:
    raise ValueError("broken hook")


async def sleeping(hook_input: object, tool_use_id: object, context: object) -> Any:
    await asyncio.sleep(30)


def deny(reason: str = "no") -> dict[str, Any]:
    return {"hookSpecificOutput": {"permissionDecision": "deny", "permissionDecisionReason": reason}}


def allow() -> dict[str, Any]:
    return {"hookSpecificOutput": {"permissionDecision": "allow"}}


CALL = {"tool_name": "write_file", "tool_input": {"path": "a"}}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, True),
        ("", True),
        ("*", True),
        ("write_file", True),
        ("read_file|write_file", True),
        ("write", False),
    ],
)
def test_a_matcher_matches_whole_tool_names(pattern: str | None, expected: bool) -> None:
    assert expected == matches(HookMatcher(pattern), "write_file")


async def test_no_hooks_have_no_opinion() -> None:
    decision = await run_hooks({}, "PreToolUse", CALL)

    assert decision.behavior is None


async def test_a_denial_wins_whatever_the_order() -> None:
    for outputs in ([allow(), deny()], [deny(), allow()]):
        hooks = {"PreToolUse": [HookMatcher(hooks=[answering(output) for output in outputs])]}

        decision = await run_hooks(hooks, "PreToolUse", CALL)

        assert ("deny", "no") == (decision.behavior, decision.reason)


async def test_only_matching_hooks_are_called_with_the_tool_use_id() -> None:
    seen: list[Any] = []
    hooks = {
        "PreToolUse": [
            HookMatcher("read_file", [answering(deny())]),
            HookMatcher("write_file", [answering({}, seen)]),
        ]
    }

    decision = await run_hooks(hooks, "PreToolUse", CALL, "toolu_1")

    assert decision.behavior is None
    assert [(CALL, "toolu_1")] == seen


async def test_a_hook_that_raises_has_no_opinion_unless_it_blocks() -> None:
    lenient = {"PreToolUse": [HookMatcher(hooks=[failing])]}
    blocking = {"PreToolUse": [HookMatcher(hooks=[failing], on_failure="block")]}

    assert (await run_hooks(lenient, "PreToolUse", CALL)).behavior is None
    decision = await run_hooks(blocking, "PreToolUse", CALL)

    assert decision.behavior == "deny"
    assert "broken hook" in decision.reason


async def test_a_hook_that_times_out_blocks_either_way() -> None:
    for event in ("PreToolUse", "PermissionRequest", "UserPromptSubmit"):
        decision = await run_hooks({event: [HookMatcher(hooks=[sleeping], timeout=0.01)]}, event, CALL)

        assert decision.behavior == "deny"
        assert "did not respond before its timeout of 0.01 s" in decision.reason


async def test_rubbish_is_no_opinion() -> None:
    for output in (None, "yes", {"hookSpecificOutput": "x"}, {"decision": "perhaps"}):
        decision = await run_hooks({"PreToolUse": [HookMatcher(hooks=[answering(output)])]}, "PreToolUse", CALL)

        assert decision.behavior is None


async def test_the_legacy_decision_and_the_request_decision_are_read() -> None:
    block = {"decision": "block", "reason": "legacy"}
    request = {
        "hookSpecificOutput": {"decision": {"behavior": "deny", "message": "m", "interrupt": True, "updatedInput": {}}}
    }

    first = await run_hooks({"PreToolUse": [HookMatcher(hooks=[answering(block)])]}, "PreToolUse", CALL)
    second = await run_hooks(
        {"PermissionRequest": [HookMatcher(hooks=[answering(request)])]}, "PermissionRequest", CALL
    )

    assert ("deny", "legacy") == (first.behavior, first.reason)
    assert ("deny", "m", True) == (second.behavior, second.reason, second.interrupt)


async def test_continue_false_asks_to_stop() -> None:
    hooks = {"PreToolUse": [HookMatcher(hooks=[answering({"continue_": False})])]}

    assert (await run_hooks(hooks, "PreToolUse", CALL)).stop


async def test_hooks_of_one_event_run_concurrently() -> None:
    met = asyncio.Barrier(2)

    async def meeting(hook_input: object, tool_use_id: object, context: object) -> dict[str, Any]:
        await met.wait()
        return {}

    decision = await run_hooks({"Stop": [HookMatcher(hooks=[meeting, meeting], timeout=5)]}, "Stop", {})

    assert decision.behavior is None


def test_merging_keeps_the_order_and_the_matchers_themselves() -> None:
    first, second, third = HookMatcher("a", on_failure="block"), HookMatcher("b"), HookMatcher("c")

    merged = merge_hooks({"Stop": [first]}, {"Stop": [second], "Setup": [third]})

    assert {"Stop": [first, second], "Setup": [third]} == merged


@pytest.mark.parametrize(
    ("hooks", "text"),
    [
        ([], "expected a mapping"),
        ({"Stop": "x"}, "expected a list of HookMatcher"),
        ({"Stop": [print]}, "expected a HookMatcher"),
        ({"Stop": [HookMatcher("(")]}, "is no regular expression"),
    ],
)
def test_what_is_no_hook_map_is_refused(hooks: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        check_hooks(hooks)
