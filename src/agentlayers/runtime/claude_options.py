"""Translate the options of a query for claude-agent-sdk."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from agentlayers.errors import UsageError
from agentlayers.limits import MIB
from agentlayers.runtime.claude_hooks import claude_can_use_tool, claude_hooks
from agentlayers.runtime.options import QueryOptions

__all__ = ["CLAUDE_OPTIONS", "claude_options"]

CLAUDE_OPTIONS: Final = frozenset({
    "add_dirs", "betas", "cli_path", "client_app", "continue_conversation", "effort", "enable_file_checkpointing",
    "fallback_model", "fork_session", "forward_subagent_text", "include_hook_events", "load_timeout_ms",
    "max_budget_usd", "max_buffer_size", "max_thinking_tokens", "output_format", "permission_prompt_tool_name",
    "plugins", "resume_drops_turn", "resume_session_at", "sandbox", "session_store", "session_store_flush",
    "setting_sources", "settings", "skills", "stderr", "strict_mcp_config", "task_budget", "thinking", "tools",
    "user", "verbatim_prompts",
})  # fmt: skip
"""Options of ``ClaudeAgentOptions`` beyond those of every backend, passed on as they are."""

MESSAGE_BYTES_MAX: Final = 64 * MIB
"""One message of the command. The SDK's own default of 1 MiB ends the conversation at the first larger image."""


def claude_options(
    sdk: Any,
    options: QueryOptions,
    *,
    env: Mapping[str, str],
    session_store: Any,
    stderr: Callable[[str], None],
) -> Any:
    """
    Make the ``ClaudeAgentOptions`` of one query.

    Args:
        sdk: The loaded claude-agent-sdk.
        options: Of the query.
        env: The complete environment added to the command's.
        session_store: Where its transcript is mirrored, or :obj:`None`.
        stderr: Called with each line the command writes there.

    Raises:
        UsageError: A value that cannot be right.
    """
    _check(options, env)
    given: dict[str, Any] = {
        "max_buffer_size": MESSAGE_BYTES_MAX,
        **{name: value for name, value in options.extra.items() if value is not None},
        "resume": options.resume,
        # The command takes a new name only for a fork of the session it resumes.
        "session_id": options.session_id if not options.resume or options.extra.get("fork_session") else None,
        "cwd": None if options.cwd is None else str(options.cwd),
        "model": options.model,
        "system_prompt": options.system_prompt,
        "permission_mode": options.permission_mode,
        "allowed_tools": list(options.allowed_tools),
        "disallowed_tools": list(options.disallowed_tools),
        "max_turns": options.max_turns,
        "env": dict(env),
        "mcp_servers": options.mcp_servers or {},
        "agents": {name: _agent(sdk, name, agent) for name, agent in options.agents.items()} or None,
        "extra_args": dict(options.extra_args),
        "hooks": claude_hooks(sdk, options.hooks),
        "can_use_tool": claude_can_use_tool(sdk, options.can_use_tool),
        "include_partial_messages": options.include_partial_messages,
        "session_store": session_store,
        "stderr": stderr,
    }
    return sdk.ClaudeAgentOptions(**given)


def _check(options: QueryOptions, env: Mapping[str, str]) -> None:
    if options.cwd is not None and not Path(options.cwd).is_dir():
        raise UsageError(f"cwd {str(options.cwd)!r} is no directory; make it first")
    if options.session_id is not None:
        try:
            uuid.UUID(options.session_id)
        except ValueError:
            raise UsageError(f"session_id {options.session_id!r} is no UUID, which the claude backend needs") from None
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"env[{name!r}] must be a text, got {type(value).__name__}")


def _agent(sdk: Any, name: str, agent: Any) -> Any:
    if not isinstance(agent, Mapping):
        return agent
    known = [field.name for field in fields(sdk.AgentDefinition)]
    for key in agent:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(known)}"
            raise UsageError(f"agents[{name!r}] has no field {key!r}; {hint}")
    try:
        return sdk.AgentDefinition(**agent)
    except TypeError as error:
        raise UsageError(f"agents[{name!r}]: {error}; a subagent needs a description and a prompt") from error
