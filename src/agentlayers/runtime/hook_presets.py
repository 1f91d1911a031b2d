"""
Hook maps for common wishes; put several together with :func:`~agentlayers.runtime.hooks.merge_hooks`.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Literal

from agentlayers.errors import UsageError
from agentlayers.runtime.hooks import HOOK_EVENTS, HookContext, HookMatcher

__all__ = ["auto_approve", "auto_deny", "console_logger", "observe", "timing"]

TOOLS_TIMED_MAX: Final = 1024
"""Tool calls whose start is remembered; one that was denied or interrupted never ends."""

Hooks = dict[str, list[HookMatcher]]


def observe(
    events: Iterable[str],
    handler: Callable[[Mapping[str, Any], str | None], Awaitable[None]],
    *,
    matcher: str | None = None,
    timeout: float | None = None,
) -> Hooks:
    """
    Call ``handler(hook_input, tool_use_id)`` at some events, without having an opinion.

    Args:
        events: Names of hook events, such as those of ``HOOK_EVENTS``.
        handler: Its errors are logged and change nothing.
        matcher: Only tools whose whole name matches this regular expression.
        timeout: Seconds it may take; past it a tool is blocked, as for any hook.
    """

    async def call(hook_input: Mapping[str, Any], tool_use_id: str | None, context: HookContext) -> Mapping[str, Any]:  # noqa: ARG001
        await handler(hook_input, tool_use_id)
        return {}

    return {event: [HookMatcher(matcher, [call], timeout=timeout)] for event in events}


def auto_approve(tools: Iterable[str]) -> Hooks:
    """Permit these tools (regular expressions over the whole name) without asking."""
    return _deciding(_any_of(tools), "allow", "permitted by auto_approve", interrupt=False)


def auto_deny(tools: Iterable[str], *, message: str = "this tool is not permitted", interrupt: bool = False) -> Hooks:
    """
    Refuse these tools.

    Args:
        tools: Regular expressions over the whole name.
        message: What the agent is told.
        interrupt: End the whole turn, where a permission would have been asked for.
    """
    return _deciding(_any_of(tools), "deny", message, interrupt=interrupt)


def console_logger(
    events: Iterable[str] = HOOK_EVENTS,
    *,
    format: Literal["text", "json"] = "text",  # noqa: A002 - the reference's name
    write: Callable[[str], object] | None = None,
) -> Hooks:
    """
    Write a line at each of these events: which, about which tool, in which session.

    Args:
        events: Names of hook events.
        format: A line for people, or one JSON object.
        write: Called with each line; standard error unless given. Arguments of tools are never in it.

    Raises:
        UsageError: An unknown format.
    """
    if format not in {"text", "json"}:
        raise UsageError(f"format {format!r} is unknown; it is one of text, json")

    async def note(hook_input: Mapping[str, Any], tool_use_id: str | None) -> None:
        told = {
            "event": hook_input.get("hook_event_name"),
            "tool": hook_input.get("tool_name"),
            "tool_use_id": tool_use_id,
            "session_id": hook_input.get("session_id"),
        }
        told = {name: value for name, value in told.items() if value}
        line = json.dumps(told) if format == "json" else " ".join(f"{name}={value}" for name, value in told.items())
        if write is None:
            sys.stderr.write(f"{line}\n")
        else:
            write(line)

    return observe(events, note)


def timing(on_complete: Callable[[str, str, float], object], *, clock: Callable[[], float] = time.monotonic) -> Hooks:
    """
    Call ``on_complete(tool_name, tool_use_id, seconds)`` for every tool call that ran, whether it failed or not.

    Args:
        on_complete: A plain function.
        clock: Seconds.
    """
    begun: OrderedDict[str, float] = OrderedDict()

    async def note(hook_input: Mapping[str, Any], tool_use_id: str | None) -> None:
        if tool_use_id is None:
            return
        if hook_input.get("hook_event_name") == "PreToolUse":
            begun[tool_use_id] = clock()
            while len(begun) > TOOLS_TIMED_MAX:
                begun.popitem(last=False)
        elif (started := begun.pop(tool_use_id, None)) is not None:
            on_complete(str(hook_input.get("tool_name")), tool_use_id, clock() - started)

    return observe(("PreToolUse", "PostToolUse", "PostToolUseFailure"), note)


def _deciding(matcher: str, behavior: Literal["allow", "deny"], reason: str, *, interrupt: bool) -> Hooks:
    async def before(hook_input: Mapping[str, Any], tool_use_id: str | None, context: HookContext) -> Mapping[str, Any]:  # noqa: ARG001
        decision = {"permissionDecision": behavior, "permissionDecisionReason": reason}
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **decision}}

    async def asked(hook_input: Mapping[str, Any], tool_use_id: str | None, context: HookContext) -> Mapping[str, Any]:  # noqa: ARG001
        refused = {"message": reason, "interrupt": interrupt} if behavior == "deny" else {}
        decision = {"behavior": behavior, **refused}
        return {"hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": decision}}

    hooks = {"PermissionRequest": [HookMatcher(matcher, [asked])]}
    # A refusal that shall end the turn must be the answer to the question: a PreToolUse hook cannot interrupt.
    return hooks if interrupt else {"PreToolUse": [HookMatcher(matcher, [before])], **hooks}


def _any_of(tools: Iterable[str]) -> str:
    names = list(tools)
    if isinstance(tools, str) or not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"tools must be a list of tool names, got {tools!r}")
    for name in names:
        try:
            re.compile(name)
        except re.error as error:
            raise UsageError(f"{name!r} is no regular expression: {error}") from error
    return "|".join(names)
