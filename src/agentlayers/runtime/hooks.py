"""
Hooks: the caller's functions that an agent's backend calls on its way.

A hook map is ``{event: [HookMatcher, ...]}``. Its shape is the one claude-agent-sdk uses, so that the
same map works with every backend. Backends without an SDK of their own run it with :func:`run_hooks`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final

from agentlayers.errors import UsageError
from agentlayers.logs import get_logger

__all__ = [
    "HOOK_EVENTS",
    "HookCallback",
    "HookContext",
    "HookDecision",
    "HookMap",
    "HookMatcher",
    "check_hooks",
    "merge_hooks",
    "run_hooks",
]

logger = get_logger(__name__)

HOOK_EVENTS: Final = (
    "PreToolUse", "PostToolUse", "PostToolUseFailure", "Notification", "UserPromptSubmit", "SessionStart",
    "SessionEnd", "Stop", "SubagentStart", "SubagentStop", "PreCompact", "PermissionRequest", "Setup",
    "TeammateIdle", "TaskCompleted",
)  # fmt: skip
"""The events of the reference; a backend may know more."""

HOOK_TIMEOUT_SECONDS: Final = 60.0
"""For a matcher that sets no timeout of its own."""


@final
@dataclass(frozen=True, slots=True)
class HookContext:
    """
    Told to a hook beside its input.

    Attributes:
        signal: Set by backends that can tell a hook that nobody waits for it any more.
    """

    signal: Any = None


HookCallback = Callable[[Mapping[str, Any], str | None, HookContext], Awaitable[Mapping[str, Any]]]
"""``await hook(input, tool_use_id, context)``; an empty mapping means "no opinion"."""


@final
@dataclass(frozen=True, slots=True)
class HookMatcher:
    """
    Some hooks, and for which tools they are called.

    Attributes:
        matcher: Regular expression that the whole tool name must match, such as ``write_file|run_command``;
            :obj:`None`, ``""`` and ``"*"`` match everything. Events that are about no tool ignore it.
        hooks: Called concurrently.
        timeout: Seconds for each; a hook that takes longer blocks the tool.
        on_failure: ``block`` turns a hook that raises into a denial; otherwise it counts as "no opinion".
    """

    matcher: str | None = None
    hooks: Sequence[HookCallback] = ()
    timeout: float | None = None
    on_failure: Literal["continue", "block"] | None = None


HookMap = Mapping[str, Sequence[HookMatcher]]


def matches(matcher: HookMatcher, tool_name: str | None) -> bool:
    """
    Tell whether a matcher's hooks are called for a tool; works for claude-agent-sdk's matchers too.

    >>> matches(HookMatcher("write_file|read_file"), "read_file"), matches(HookMatcher("read"), "read_file")
    (True, False)

    """
    if tool_name is None or matcher.matcher in {None, "", "*"}:
        return True
    return re.fullmatch(matcher.matcher or "", tool_name) is not None


@final
@dataclass(frozen=True, slots=True)
class HookDecision:
    """
    What the hooks of one event decided together.

    Attributes:
        behavior: ``deny`` beats ``defer``, which beats ``ask``, which beats ``allow``; :obj:`None` is no opinion.
        reason: Given by the hook that decided.
        interrupt: The whole turn shall end, not only this tool call.
        stop: A hook answered ``continue_: False``: the turn ends after this step.
        updated_input: Replaces the tool's input.
        outputs: What each hook answered, in order, for callers who need more.
    """

    behavior: Literal["allow", "deny", "ask", "defer"] | None = None
    reason: str = ""
    interrupt: bool = False
    stop: bool = False
    updated_input: Mapping[str, Any] | None = None
    outputs: tuple[Mapping[str, Any], ...] = field(default=())


_RANK: Final = {None: 0, "allow": 1, "ask": 2, "defer": 3, "deny": 4}


def merge_hooks(*maps: HookMap | None) -> dict[str, list[HookMatcher]]:
    """
    Concatenate hook maps event by event; the first map's hooks stay first.

    >>> first, second = HookMatcher("a"), HookMatcher("b")
    >>> [m.matcher for m in merge_hooks({"Stop": [first]}, None, {"Stop": [second]})["Stop"]]
    ['a', 'b']

    """
    merged: dict[str, list[HookMatcher]] = {}
    for hooks in maps:
        for event, matchers in (hooks or {}).items():
            merged.setdefault(event, []).extend(matchers)
    return merged


def check_hooks(hooks: Any) -> None:
    """
    Refuse what is no hook map before an agent runs with it.

    Raises:
        UsageError: It is no mapping of event names to lists of matchers, or a matcher is no regular expression.
    """
    if not isinstance(hooks, Mapping):
        raise UsageError(
            f"hooks: expected a mapping of event names to lists of HookMatcher, got {type(hooks).__name__}"
        )
    for event, matchers in hooks.items():
        if isinstance(matchers, str) or not isinstance(matchers, Sequence):
            raise UsageError(f"hooks[{event!r}]: expected a list of HookMatcher, got {type(matchers).__name__}")
        for matcher in matchers:
            _check_matcher(event, matcher)


def _check_matcher(event: str, matcher: Any) -> None:
    if not (hasattr(matcher, "hooks") and hasattr(matcher, "matcher")):
        raise UsageError(f"hooks[{event!r}]: expected a HookMatcher, got {type(matcher).__name__}")
    try:
        re.compile(matcher.matcher or "") if matcher.matcher != "*" else None
    except re.error as error:
        raise UsageError(f"hooks[{event!r}]: {matcher.matcher!r} is no regular expression: {error}") from error


async def run_hooks(
    hooks: HookMap | None, event: str, hook_input: Mapping[str, Any], tool_use_id: str | None = None
) -> HookDecision:
    """
    Call every hook of ``event`` that fits, concurrently, and combine their answers.

    A hook that raises is "no opinion" unless its matcher says ``on_failure="block"``; one that exceeds its
    timeout denies. Neither ever raises here.
    """
    tool_name = hook_input.get("tool_name")
    matchers = [m for m in (hooks or {}).get(event, ()) if matches(m, tool_name)]
    calls = [_call(matcher, hook, event, hook_input, tool_use_id) for matcher in matchers for hook in matcher.hooks]
    decision = HookDecision()
    for output in await asyncio.gather(*calls):
        decision = _combine(decision, event, output)
    return decision


async def _call(
    matcher: HookMatcher,
    hook: HookCallback,
    event: str,
    hook_input: Mapping[str, Any],
    tool_use_id: str | None,
) -> Mapping[str, Any]:
    timeout = HOOK_TIMEOUT_SECONDS if matcher.timeout is None else matcher.timeout
    try:
        async with asyncio.timeout(timeout) as deadline:
            output = await hook(dict(hook_input), tool_use_id, HookContext())
    except Exception as error:  # noqa: BLE001 - a hook is the caller's code and may raise anything
        if isinstance(error, TimeoutError) and deadline.expired():
            return _denial(event, f"a {event} hook did not respond before its timeout of {timeout:g} s")
        logger.warning("hook_failed", event_name=event, error=str(error), error_type=type(error).__name__)
        if matcher.on_failure == "block":
            return _denial(event, f"a {event} hook failed: {error}")
        return {}
    return output if isinstance(output, Mapping) else {}


def _denial(event: str, reason: str) -> Mapping[str, Any]:
    if event == "PermissionRequest":
        return {
            "hookSpecificOutput": {
                "hookEventName": event,
                "decision": {"behavior": "deny", "message": reason},
            }
        }
    if event == "PreToolUse":
        return {
            "hookSpecificOutput": {
                "hookEventName": event,
                "permissionDecision": "deny",
                "permissionDecisionReason": reason,
            }
        }
    return {"decision": "block", "reason": reason}


def _combine(decision: HookDecision, event: str, output: Mapping[str, Any]) -> HookDecision:
    behavior, reason, interrupt, updated = read_decision(event, output)
    proceed = output.get("continue_", output.get("continue", True))
    wins = _RANK[behavior] > _RANK[decision.behavior]
    return HookDecision(
        behavior=behavior if wins else decision.behavior,
        reason=reason if wins else decision.reason,
        interrupt=decision.interrupt or interrupt,
        stop=decision.stop or proceed is False,
        updated_input=updated if updated is not None else decision.updated_input,
        outputs=(*decision.outputs, output),
    )


_Behavior = Literal["allow", "deny", "ask", "defer"] | None
_LEGACY: Final[dict[Any, _Behavior]] = {"approve": "allow", "block": "deny"}
_BEHAVIORS: Final[dict[Any, _Behavior]] = {
    "allow": "allow",
    "deny": "deny",
    "ask": "ask",
    "defer": "defer",
}


def read_decision(event: str, output: Mapping[str, Any]) -> tuple[_Behavior, str, bool, Mapping[str, Any] | None]:
    """
    Read one hook's answer: what it decides, why, whether it interrupts, and a replaced input.

    >>> read_decision("PreToolUse", {"hookSpecificOutput": {"permissionDecision": "deny"}, "reason": "no"})
    ('deny', 'no', False, None)

    """
    specific = output.get("hookSpecificOutput")
    specific = specific if isinstance(specific, Mapping) else {}
    general_reason = str(output.get("reason") or "")
    if event == "PermissionRequest" and isinstance(choice := specific.get("decision"), Mapping):
        return (
            _BEHAVIORS.get(choice.get("behavior")),
            str(choice.get("message") or general_reason),
            choice.get("interrupt") is True,
            _mapping_or_none(choice.get("updatedInput")),
        )
    if (behavior := _BEHAVIORS.get(specific.get("permissionDecision"))) is not None:
        reason = str(specific.get("permissionDecisionReason") or general_reason)
        return behavior, reason, False, _mapping_or_none(specific.get("updatedInput"))
    return _LEGACY.get(output.get("decision")), general_reason, False, _mapping_or_none(specific.get("updatedInput"))


def _mapping_or_none(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None
