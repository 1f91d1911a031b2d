"""Hand the caller's hooks and ``can_use_tool`` to claude-agent-sdk, with the meaning they have everywhere here."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agentlayers.logs import get_logger
from agentlayers.runtime.hooks import HookContext, HookMap
from agentlayers.runtime.options import CanUseTool

__all__ = ["claude_can_use_tool", "claude_hooks"]

logger = get_logger(__name__)

TOOL_EVENTS: Final = frozenset({"PreToolUse", "PostToolUse", "PostToolUseFailure", "PermissionRequest"})
"""Events about one tool call. For all others the command passes a random id in place of a tool use id."""

_PLAIN_MATCHER: Final = re.compile(r"[A-Za-z0-9_|]*|\*")
"""What the command compares with the whole name already."""


def claude_hooks(sdk: Any, hooks: HookMap) -> dict[str, list[Any]] | None:
    """
    Convert a hook map.

    Args:
        sdk: The loaded claude-agent-sdk.
        hooks: With matchers of ours or of claude-agent-sdk.
    """
    converted = {
        event: [
            sdk.HookMatcher(
                matcher=_matcher(event, matcher.matcher),
                hooks=[_hook(event, hook) for hook in matcher.hooks],
                timeout=getattr(matcher, "timeout", None),
                on_failure=getattr(matcher, "on_failure", None),
            )
            for matcher in matchers
        ]
        for event, matchers in hooks.items()
    }
    return converted or None


def claude_can_use_tool(sdk: Any, can_use_tool: CanUseTool | None) -> Callable[..., Awaitable[Any]] | None:
    """
    Convert a ``can_use_tool``; one that raises or answers rubbish denies.

    Args:
        sdk: The loaded claude-agent-sdk.
        can_use_tool: The caller's; may answer with a mapping or any object with the fields.
    """
    if can_use_tool is None:
        return None

    async def asked(tool_name: str, tool_input: dict[str, Any], context: Any) -> Any:
        try:
            answer = await can_use_tool(tool_name, tool_input, context)
        except Exception as error:  # noqa: BLE001 - the caller's code may raise anything
            logger.warning("can_use_tool_failed", tool_name=tool_name, error=str(error))
            return sdk.PermissionResultDeny(message=f"can_use_tool failed: {error}")
        return _answer(sdk, answer)

    return asked


def _answer(sdk: Any, answer: Any) -> Any:
    if isinstance(answer, sdk.PermissionResultAllow | sdk.PermissionResultDeny):
        return answer
    behavior = _field(answer, "behavior")
    if behavior == "allow":
        updated = _field(answer, "updated_input")
        return sdk.PermissionResultAllow(
            updated_input=dict(updated) if isinstance(updated, Mapping) else None,
            updated_permissions=_field(answer, "updated_permissions"),
        )
    reason = str(_field(answer, "message") or "denied by can_use_tool")
    if behavior != "deny":
        reason = f"can_use_tool answered {answer!r}; expected an object with behavior 'allow' or 'deny'"
    return sdk.PermissionResultDeny(message=reason, interrupt=_field(answer, "interrupt") is True)


def _matcher(event: str, matcher: str | None) -> str | None:
    if event not in TOOL_EVENTS or matcher is None or _PLAIN_MATCHER.fullmatch(matcher):
        return matcher
    return f"^(?:{matcher})$"


def _hook(event: str, hook: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[dict[str, Any]]]:
    async def called(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
        about = tool_use_id if event in TOOL_EVENTS else None
        signal = context.get("signal") if isinstance(context, Mapping) else None
        try:
            output = await hook(hook_input, about, HookContext(signal))
        except Exception as error:
            logger.warning("hook_failed", event_name=event, error=str(error), error_type=type(error).__name__)
            raise
        return dict(output) if isinstance(output, Mapping) else {}

    return called


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
