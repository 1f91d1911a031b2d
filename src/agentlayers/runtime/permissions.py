"""
Whether a tool call is permitted: hooks first, then rules, then whoever can be asked.

The order is the one the real software follows: ``PreToolUse`` hooks, forbidding rules, allowing rules and the
permission mode, and only for what is left ``PermissionRequest`` hooks and ``can_use_tool``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, final

from agentlayers.logs import get_logger
from agentlayers.runtime.hooks import HookDecision, run_hooks
from agentlayers.runtime.options import QueryOptions

__all__ = ["Permission", "ToolPermissionContext", "ask_permission"]

logger = get_logger(__name__)

_WRITING_TOOLS: Final = frozenset({"write_file", "run_command"})


@final
@dataclass(frozen=True, slots=True)
class ToolPermissionContext:
    """
    Told to ``can_use_tool`` beside the call.

    Attributes:
        tool_use_id: The call.
        signal: Set by backends that can tell that nobody waits for the answer any more.
        suggestions: Rules the backend proposes to add.
    """

    tool_use_id: str
    signal: Any = None
    suggestions: tuple[Any, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Permission:
    """
    What was decided about one tool call.

    Attributes:
        granted: It may run.
        reason: Why not, as the agent is told.
        interrupt: The whole turn shall end.
        defer: Neither: the turn ends so that the caller decides.
        stop: It runs, and the turn ends after it.
        input: The arguments to run it with; hooks may have replaced them.
        source: Who decided: ``hook``, ``rule``, ``mode`` or ``can_use_tool``.
    """

    granted: bool
    input: Mapping[str, Any]
    source: Literal["hook", "rule", "mode", "can_use_tool"]
    reason: str = ""
    interrupt: bool = False
    defer: bool = False
    stop: bool = False


async def ask_permission(
    options: QueryOptions, mode: str, hook_input: Mapping[str, Any], tool_use_id: str
) -> Permission:
    """
    Decide about one tool call.

    Args:
        options: Rules, hooks and ``can_use_tool``.
        mode: The permission mode of the moment.
        hook_input: What hooks are told, with ``tool_name`` and ``tool_input``.
        tool_use_id: The call.
    """
    name, arguments = hook_input["tool_name"], hook_input["tool_input"]
    before = await run_hooks(options.hooks, "PreToolUse", {**hook_input, "hook_event_name": "PreToolUse"}, tool_use_id)
    if before.updated_input is not None:
        arguments = before.updated_input
    if before.behavior in {"deny", "defer"}:
        return Permission(
            granted=False,
            input=arguments,
            source="hook",
            reason=before.reason or "denied by a PreToolUse hook",
            defer=before.behavior == "defer",
        )
    if name in options.disallowed_tools:
        return Permission(granted=False, input=arguments, source="rule", reason=f"{name} is a disallowed tool")
    if before.behavior == "allow":
        return Permission(granted=True, input=arguments, source="hook", reason=before.reason, stop=before.stop)
    decided = None if before.behavior == "ask" else _by_rules(options, mode, name, arguments, stop=before.stop)
    if decided is not None:
        return decided
    return await _ask(options, {**hook_input, "tool_input": arguments}, tool_use_id, before)


def _by_rules(
    options: QueryOptions, mode: str, name: str, arguments: Mapping[str, Any], *, stop: bool
) -> Permission | None:
    if name in options.allowed_tools:
        return Permission(granted=True, input=arguments, source="rule", stop=stop)
    if mode == "bypassPermissions" or (mode == "acceptEdits" and name == "write_file"):
        return Permission(granted=True, input=arguments, source="mode", stop=stop)
    if mode == "plan" and name in _WRITING_TOOLS:
        reason = f"{name} is not permitted in plan mode"
        return Permission(granted=False, input=arguments, source="mode", reason=reason)
    if mode == "dontAsk":
        reason = f"{name} is no allowed tool, and the permission mode is dontAsk"
        return Permission(granted=False, input=arguments, source="mode", reason=reason)
    return None


async def _ask(
    options: QueryOptions, hook_input: Mapping[str, Any], tool_use_id: str, before: HookDecision
) -> Permission:
    name, arguments = hook_input["tool_name"], hook_input["tool_input"]
    answer = await run_hooks(
        options.hooks,
        "PermissionRequest",
        {**hook_input, "hook_event_name": "PermissionRequest"},
        tool_use_id,
    )
    if answer.updated_input is not None:
        arguments = answer.updated_input
    if answer.behavior in {"allow", "deny"}:
        return Permission(
            granted=answer.behavior == "allow",
            input=arguments,
            source="hook",
            reason=answer.reason or ("" if answer.behavior == "allow" else "denied by a PermissionRequest hook"),
            interrupt=answer.interrupt,
            stop=before.stop,
        )
    if options.can_use_tool is not None:
        return await _ask_caller(options, name, arguments, tool_use_id, stop=before.stop)
    # Nobody can be asked. A script is trusted as code is, so its tools run, unless a hook wanted a question.
    # That a PermissionRequest hook merely listens (an audit does) must not change what happens.
    if before.behavior == "ask":
        reason = f"{name} needs a permission that nobody gave"
        return Permission(granted=False, input=arguments, source="mode", reason=reason)
    return Permission(granted=True, input=arguments, source="mode", stop=before.stop)


async def _ask_caller(
    options: QueryOptions, name: str, arguments: Mapping[str, Any], tool_use_id: str, *, stop: bool
) -> Permission:
    assert options.can_use_tool is not None
    try:
        answer = await options.can_use_tool(name, dict(arguments), ToolPermissionContext(tool_use_id))
    except Exception as error:  # noqa: BLE001 - the caller's code may raise anything
        logger.warning("can_use_tool_failed", tool_name=name, error=str(error), error_type=type(error).__name__)
        reason = f"can_use_tool failed: {error}"
        return Permission(granted=False, input=arguments, source="can_use_tool", reason=reason)
    behavior = _field(answer, "behavior")
    updated = _field(answer, "updated_input")
    if behavior == "allow":
        return Permission(
            granted=True,
            input=updated if isinstance(updated, Mapping) else arguments,
            source="can_use_tool",
            stop=stop,
        )
    reason = _field(answer, "message") or "denied by can_use_tool"
    if behavior != "deny":
        reason = f"can_use_tool answered {answer!r}; expected an object with behavior 'allow' or 'deny'"
    return Permission(
        granted=False,
        input=arguments,
        source="can_use_tool",
        reason=str(reason),
        interrupt=_field(answer, "interrupt") is True,
    )


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
