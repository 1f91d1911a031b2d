"""
The audit of one query: hooks that see what the agent is about to do, and a tap that sees how it ended.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, final

from agentlayers.errors import AgentError
from agentlayers.logs import get_logger
from agentlayers.runtime.background_writer import BackgroundWriter
from agentlayers.runtime.hooks import HookMatcher, merge_hooks, read_decision
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.query_handle import QueryHandle
from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt

if TYPE_CHECKING:
    from agentlayers.storage.audit_log import AuditEventStore

__all__ = ["AuditTrail"]

logger = get_logger(__name__)

AUDITED_EVENTS: Final = (
    "PreToolUse", "PostToolUse", "PostToolUseFailure", "Notification", "UserPromptSubmit", "SessionStart",
    "SessionEnd", "Stop", "SubagentStart", "SubagentStop", "PreCompact", "PermissionRequest", "Setup",
)  # fmt: skip
"""The hook events of the reference's audit. SessionStart and SessionEnd are read from the messages instead."""

_TOOL_EVENTS: Final = frozenset({"PreToolUse", "PostToolUse", "PostToolUseFailure", "PermissionRequest"})
_FROM_MESSAGES: Final = frozenset({"SessionStart", "SessionEnd"})
_DECISIONS: Final = {"allow": "allow", "deny": "deny", "ask": "prompt", "defer": "prompt"}

_BY_RULE: Final = "by a rule or the permission mode"
_SOURCES: Final = {
    ("config", "rule"): "by a rule",
    ("config", "mode"): "by the permission mode",
    ("config", "subcommandResults"): "by a rule about a part of the command",
}
"""Where a decision came from, as far as the messages tell (``tool_result_meta``)."""

_Event = tuple[str, dict[str, Any]]


@dataclasses.dataclass(slots=True)
class _OpenTool:
    name: str
    session_id: str
    started: float
    is_subagents: bool


@final
class AuditTrail(MessageTap):
    """
    Audits one query; see :meth:`HookAudit.with_audit <agentlayers.runtime.hook_audit.HookAudit.with_audit>`.

    Attributes:
        options: The caller's options with the audit hooks added; pass these to the query.
    """

    def __init__(
        self,
        audit_log: AuditEventStore,
        options: dict[str, Any],
        *,
        session_id: str,
        strict: bool,
        log_hook_outcomes: bool,
        log_permission_decisions: bool,
        matcher: str | None,
        timeout: float | None,
        wait_seconds: float,
    ) -> None:
        self._audit_log = audit_log
        self._fixed_session_id = session_id
        self._session_id = session_id
        self._strict = strict
        self._log_hook_outcomes = log_hook_outcomes
        self._log_permission_decisions = log_permission_decisions
        self._matcher = matcher
        self._wait_seconds = wait_seconds
        self._open: dict[str, _OpenTool] = {}
        # Apart from the open tools: hooks of one event run concurrently, so a decision may come before the start.
        self._decided: set[str] = set()
        # Tools that ran though no hook and no callback decided; their result's message may tell what did.
        self._undecided: dict[str, Mapping[str, Any]] = {}
        self._started_session: str | None = None
        self._writer: BackgroundWriter[_Event] = BackgroundWriter(self._keep, name="audit-trail")
        self.options = self._audited(options, timeout)

    def attach(self, query: QueryHandle) -> QueryHandle:
        """Watch the query's messages too; returns the same query."""
        query.attach(self)
        return query

    @property
    def pending(self) -> int:
        """Events not durable yet."""
        return self._writer.pending

    @property
    def lost(self) -> int:
        """Events given up."""
        return self._writer.lost

    @property
    def error(self) -> Exception | None:
        """Why an event cannot be written at the moment, or was lost."""
        return self._writer.lost_error or self._writer.error

    # -- hooks ------------------------------------------------------------------------------------------
    def _audited(self, options: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        user = options.get("hooks") or {}
        wrapped = {event: [self._wrap(event, matcher) for matcher in matchers] for event, matchers in user.items()}
        audit = {
            event: [
                HookMatcher(
                    matcher=self._matcher if event in _TOOL_EVENTS else None,
                    hooks=[self._see],
                    timeout=timeout,
                    on_failure="block" if self._strict else None,
                )
            ]
            for event in AUDITED_EVENTS
            if event not in _FROM_MESSAGES
        }
        audited = {**options, "hooks": merge_hooks(wrapped, audit)}
        if options.get("can_use_tool") is not None and self._log_permission_decisions:
            audited["can_use_tool"] = self._wrap_can_use_tool(options["can_use_tool"])
        return audited

    def _wrap(self, event: str, matcher: Any) -> Any:
        """Rebuild a matcher around the same hooks; whatever else it says (also fields we do not know) is kept."""
        return dataclasses.replace(matcher, hooks=[self._wrap_hook(event, hook) for hook in matcher.hooks])

    def _wrap_hook(self, event: str, hook: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def audited(hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> Any:
            try:
                output = await hook(hook_input, tool_use_id, context)
            except Exception:
                await self._hook_event(event, hook_input, tool_use_id, "failure")
                raise
            if event in {"PreToolUse", "PermissionRequest"} and isinstance(output, Mapping):
                behavior, reason, _interrupt, _updated = read_decision(event, output)
                if behavior is not None:
                    await self._decision(hook_input, tool_use_id, _DECISIONS[behavior], reason)
            return output

        return audited

    def _wrap_can_use_tool(self, can_use_tool: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def audited(tool_name: str, tool_input: Mapping[str, Any], context: Any) -> Any:
            answer = await can_use_tool(tool_name, tool_input, context)
            behavior = answer.get("behavior") if isinstance(answer, Mapping) else getattr(answer, "behavior", None)
            reason = answer.get("message") if isinstance(answer, Mapping) else getattr(answer, "message", None)
            if behavior in {"allow", "deny"}:
                tool_use_id = getattr(context, "tool_use_id", None)
                await self._decision({"tool_name": tool_name}, tool_use_id, str(behavior), str(reason or ""))
            return answer

        return audited

    async def _see(self, hook_input: Mapping[str, Any], tool_use_id: str | None, context: Any) -> Mapping[str, Any]:
        """The audit hook of every event; never has an opinion."""
        del context
        event = str(hook_input.get("hook_event_name") or "")
        tool_use_id = tool_use_id or hook_input.get("tool_use_id")
        if event == "PreToolUse" and tool_use_id:
            await self._tool_started(hook_input, tool_use_id)
        elif event in {"PostToolUse", "PostToolUseFailure"} and tool_use_id:
            if tool_use_id in self._open and tool_use_id not in self._decided:
                self._undecided[tool_use_id] = hook_input
            status: Literal["success", "failure"] = "success" if event == "PostToolUse" else "failure"
            reason = "interrupted" if hook_input.get("is_interrupt") is True else None
            await self._tool_ended(tool_use_id, status, hook_input, reason=reason)
        elif event == "PermissionRequest":
            await self._decision(hook_input, tool_use_id, "prompt", "", is_final=False)
        await self._hook_event(event, hook_input, tool_use_id, "success")
        return {}

    # -- messages ---------------------------------------------------------------------------------------
    async def received(self, message: AgentMessage) -> Receipt | None:
        """Read from the messages what no hook tells: how denied and interrupted tools end, and the session's start."""
        if not self._fixed_session_id and message.session_id:
            self._session_id = message.session_id
        if message.is_init and self._started_session != self._session_id:
            await self._end_session()  # as after /clear
            self._started_session = self._session_id
            await self._hook_event("SessionStart", {}, None, "success")
        for result in message.tool_results:
            await self._tool_answered(result.tool_use_id, _decision_of(message, result.tool_use_id))
        if message.is_result:
            await self._close_tools(message)
        return None

    async def ended(self, end: QueryEnd) -> None:  # noqa: ARG002
        """End what is still open, and wait until all of it is durable."""
        await self._settle_undecided()
        for tool_use_id in tuple(self._open):
            await self._tool_ended(tool_use_id, "failure", {}, reason="interrupted")
        await self._end_session()
        await self._writer.aclose()

    async def _end_session(self) -> None:
        if self._started_session is not None:
            await self._hook_event("SessionEnd", {"session_id": self._started_session}, None, "success")

    async def _tool_answered(self, tool_use_id: str, told: Mapping[str, Any]) -> None:
        """Note who decided about a tool, now that its result is here."""
        reason = _SOURCES.get((str(told.get("source")), str(told.get("reason_type"))), _BY_RULE)
        about = self._undecided.pop(tool_use_id, None)
        if about is not None:
            # It ran, so something permitted it that no hook and no callback tells of.
            await self._decision(about, tool_use_id, "allow", reason)
            self._decided.discard(tool_use_id)
        elif told.get("decision") == "reject" and (tool := self._open.get(tool_use_id)) is not None:
            if tool_use_id not in self._decided:
                about = {"tool_name": tool.name, "session_id": tool.session_id}
                await self._decision(about, tool_use_id, "deny", reason)
            await self._tool_ended(tool_use_id, "failure", {}, reason="denied")

    async def _settle_undecided(self) -> None:
        for tool_use_id in tuple(self._undecided):
            await self._tool_answered(tool_use_id, {})

    async def _close_tools(self, result: AgentMessage) -> None:
        await self._settle_undecided()
        denials = result.raw.get("permission_denials")
        for denial in denials if isinstance(denials, Sequence) else ():
            tool_use_id = denial.get("tool_use_id") if isinstance(denial, Mapping) else None
            if tool_use_id in self._open:
                if tool_use_id not in self._decided:
                    await self._decision(denial, tool_use_id, "deny", _BY_RULE)
                await self._tool_ended(tool_use_id, "failure", {}, reason="denied")
        deferred = result.raw.get("deferred_tool_use")
        deferred_id = deferred.get("id") if isinstance(deferred, Mapping) else None
        for tool_use_id, tool in tuple(self._open.items()):
            if tool.is_subagents and not result.is_error:
                continue  # a subagent in the background goes on after the turn that started it
            reason = "deferred" if tool_use_id == deferred_id else "interrupted"
            await self._tool_ended(tool_use_id, "failure", {}, reason=reason)

    # -- events -----------------------------------------------------------------------------------------
    async def _tool_started(self, hook_input: Mapping[str, Any], tool_use_id: str) -> None:
        name, session_id = (
            str(hook_input.get("tool_name") or "unknown"),
            self._session_of(hook_input),
        )
        is_subagents = bool(hook_input.get("agent_id"))
        self._open[tool_use_id] = _OpenTool(name, session_id, time.monotonic(), is_subagents)
        fields = {
            "sessionId": session_id,
            "toolName": name,
            "toolUseId": tool_use_id,
            "status": "start",
        }
        await self._write("tool_use", fields, wait=True)

    async def _tool_ended(
        self,
        tool_use_id: str,
        status: Literal["success", "failure"],
        hook_input: Mapping[str, Any],
        *,
        reason: str | None = None,
    ) -> None:
        tool = self._open.pop(tool_use_id, None)
        self._decided.discard(tool_use_id)
        name = tool.name if tool else str(hook_input.get("tool_name") or "unknown")
        if tool is None and not self._is_audited(name):
            return
        duration = None if tool is None else round((time.monotonic() - tool.started) * 1000, 3)
        fields = {
            "sessionId": tool.session_id if tool else self._session_of(hook_input),
            "toolName": name,
            "toolUseId": tool_use_id,
            "status": status,
            "durationMs": duration,
            "reason": reason,
        }
        await self._write("tool_use", {key: value for key, value in fields.items() if value is not None})

    async def _decision(
        self,
        about: Mapping[str, Any],
        tool_use_id: str | None,
        decision: str,
        reason: str,
        *,
        is_final: bool = True,
    ) -> None:
        name = str(about.get("tool_name") or "unknown")
        if tool_use_id and is_final:
            self._decided.add(tool_use_id)
        if not self._log_permission_decisions or not self._is_audited(name):
            return
        fields = {"sessionId": self._session_of(about), "toolName": name, "decision": decision}
        if reason:
            fields["reason"] = reason
        if tool_use_id:
            fields["toolUseId"] = tool_use_id
        await self._write("permission_decision", fields)

    async def _hook_event(
        self, event: str, hook_input: Mapping[str, Any], tool_use_id: str | None, outcome: str
    ) -> None:
        if not self._log_hook_outcomes or not event:
            return
        fields: dict[str, Any] = {
            "sessionId": self._session_of(hook_input),
            "hook": event,
            "outcome": outcome,
        }
        # For events that are about no tool, backends pass a random id here, which would only mislead.
        if tool_use_id and event in _TOOL_EVENTS:
            fields["toolUseId"] = tool_use_id
        await self._write("hook_event", {key: value for key, value in fields.items() if value != ""})

    async def _write(self, event: str, fields: dict[str, Any], *, wait: bool = False) -> None:
        if self._strict:
            try:
                await self._audit_log.write(event, fields)
            except Exception as error:
                raise AgentError(f"the audit log could not take a {event}, and the audit is strict: {error}") from error
            return
        done = await self._writer.put((event, fields))
        if wait:
            await asyncio.wait({done}, timeout=self._wait_seconds)

    async def _keep(self, batch: Sequence[_Event]) -> int:
        event, fields = batch[0]
        await self._audit_log.write(event, fields)
        return 1

    def _session_of(self, hook_input: Mapping[str, Any]) -> str:
        named = hook_input.get("session_id")
        return self._fixed_session_id or (named if isinstance(named, str) and named else self._session_id)

    def _is_audited(self, tool_name: str) -> bool:
        return self._matcher in {None, "", "*"} or re.fullmatch(self._matcher or "", tool_name) is not None


def _decision_of(message: AgentMessage, tool_use_id: str) -> Mapping[str, Any]:
    """Find what the message of a tool's result tells of the decision about the tool."""
    told = message.raw.get("tool_result_meta")
    for meta in told if isinstance(told, Sequence) else ():
        if isinstance(meta, Mapping) and meta.get("id") == tool_use_id:
            decision = meta.get("permission_decision")
            return decision if isinstance(decision, Mapping) else {}
    return {}
