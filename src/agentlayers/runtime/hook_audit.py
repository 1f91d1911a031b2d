"""
Write what an agent does to the audit log: tool uses, permission decisions and hook outcomes.

The hooks of :class:`HookAudit` come after the user's and never have an opinion. Writing goes on in the
background: an audit log that is slow or broken does not slow down or break the agent, unless ``strict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from agentlayers.limits import RECORD_WAIT_SECONDS_MAX
from agentlayers.runtime.audit_trail import AuditTrail

if TYPE_CHECKING:
    from agentlayers.storage.audit_log import AuditEventStore

__all__ = ["HookAudit"]


@final
class HookAudit:
    """
    Makes audit trails that write to one audit log.

    Args:
        audit_log: Where events are written.
        strict: An event that cannot be written blocks the tool it is about.
        log_hook_outcomes: Write a ``hook_event`` for every hook event, and for each hook of the user's that fails.
        log_permission_decisions: Write a ``permission_decision`` for every decision seen.
        matcher: Only tools whose whole name matches this regular expression.
        timeout: Seconds for the audit hooks; past it a tool is blocked, as for any hook.
        wait_seconds: How long a tool waits for its start to be durable.
    """

    def __init__(
        self,
        audit_log: AuditEventStore,
        *,
        strict: bool = False,
        log_hook_outcomes: bool = True,
        log_permission_decisions: bool = True,
        matcher: str | None = None,
        timeout: float | None = None,
        wait_seconds: float = RECORD_WAIT_SECONDS_MAX,
    ) -> None:
        self._audit_log = audit_log
        self._settings: Final[dict[str, Any]] = {
            "strict": strict,
            "log_hook_outcomes": log_hook_outcomes,
            "log_permission_decisions": log_permission_decisions,
            "matcher": matcher,
            "timeout": timeout,
            "wait_seconds": wait_seconds,
        }

    def with_audit(self, options: Mapping[str, Any] | None = None, *, session_id: str = "") -> AuditTrail:
        """
        Add audit hooks to the options of one query.

        The user's hooks stay as they are: same order, same matchers, same ``on_failure``. Pass the returned
        trail's ``options`` to the query and ``attach`` it, so that tools which were denied or interrupted (no
        hook tells of those) end as such in the audit log::

            trail = HookAudit(audit_log).with_audit({"hooks": hooks})
            async with runtime.query("hello", **trail.options) as turn:
                trail.attach(turn)

        Args:
            options: Of the query; ``hooks`` and ``can_use_tool`` are looked at.
            session_id: Noted with each event; ``""`` takes the session that the hook's input names.
        """
        return AuditTrail(self._audit_log, dict(options or {}), session_id=session_id, **self._settings)
