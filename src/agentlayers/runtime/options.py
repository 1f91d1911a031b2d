"""
Options of one query: what the caller may say about it, merged from defaults and the call.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final, get_args

from agentlayers.errors import UsageError
from agentlayers.runtime.hooks import HookMap, check_hooks, merge_hooks

__all__ = ["PERMISSION_MODES", "CanUseTool", "PermissionMode", "QueryOptions", "merge_options"]

PermissionMode: TypeAlias = Literal["default", "acceptEdits", "plan", "bypassPermissions", "dontAsk", "auto"]
"""
How the agent's tools are permitted; the names are those of claude-agent-sdk.

With ``auto`` the agent's command decides. What it wants checked by the API's server is refused where that check is not
to be had, as behind a gateway that does not pass it through.
"""

PERMISSION_MODES: Final[tuple[str, ...]] = get_args(PermissionMode)

CanUseTool = Callable[[str, Mapping[str, Any], Any], Awaitable[Any]]
"""``await can_use_tool(tool_name, tool_input, context)``: an object with ``behavior`` allow or deny."""

_MERGED_MAPS: Final = frozenset({"env", "mcp_servers", "agents", "extra_args"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions:
    """
    Everything a backend is told about a query besides its prompt.

    The names are those of ``ClaudeAgentOptions``.

    Attributes:
        session_id: Name of the new session; the backend chooses one if it is :obj:`None`.
        resume: Continue this session instead.
        cwd: Working directory of the agent's tools.
        model: The model, or the backend's default.
        system_prompt: Instructions put before the conversation.
        permission_mode: How tools are permitted, one of ``PERMISSION_MODES``.
        allowed_tools: Permitted without asking.
        disallowed_tools: Never permitted.
        max_turns: End the query with an error after so many replies of the agent.
        env: Added to the environment of the agent's processes.
        mcp_servers: MCP servers by name, in the backend's spelling.
        agents: Subagents by name, in the backend's spelling.
        extra_args: Further command-line arguments of the backend's command.
        hooks: The caller's hooks (see :mod:`agentlayers.runtime.hooks`).
        can_use_tool: Asked for each tool that no rule permits or forbids.
        include_partial_messages: Also yield pieces of messages while they are made.
        extra: Options only this backend knows.
    """

    session_id: str | None = None
    resume: str | None = None
    cwd: str | Path | None = None
    model: str | None = None
    system_prompt: Any = None
    permission_mode: str | None = None
    allowed_tools: Sequence[str] = ()
    disallowed_tools: Sequence[str] = ()
    max_turns: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    mcp_servers: Any = field(default_factory=dict)
    agents: Mapping[str, Any] = field(default_factory=dict)
    extra_args: Mapping[str, str | None] = field(default_factory=dict)
    hooks: HookMap = field(default_factory=dict)
    can_use_tool: CanUseTool | None = None
    include_partial_messages: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any], *, extra_options: frozenset[str] = frozenset()) -> QueryOptions:
        """
        Check the caller's options and sort out those only the backend knows.

        Raises:
            UsageError: An unknown name (with the nearest known one), or a value that cannot be right.
        """
        own = {f.name for f in fields(cls)} - {"extra"}
        for name in options:
            if name not in own and name not in extra_options:
                raise UsageError(_unknown(name, sorted(own | extra_options)))
        _check(options)
        return cls(
            # None means "the default" for every option, also for those whose default is an empty mapping.
            **{name: value for name, value in options.items() if name in own and value is not None},
            extra={name: value for name, value in options.items() if name not in own},
        )


def merge_options(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """
    Lay the options of a call over the defaults.

    The call wins; ``env``, ``mcp_servers``, ``agents`` and ``extra_args`` are merged key by key, and hooks are
    concatenated, the defaults' first.

    >>> merge_options({"env": {"A": "1"}, "model": "x"}, {"env": {"B": "2"}, "model": "y"})
    {'env': {'A': '1', 'B': '2'}, 'model': 'y'}

    """
    merged = dict(base)
    for name, value in override.items():
        before = merged.get(name)
        if name in _MERGED_MAPS and isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[name] = {**before, **value}
        elif name == "hooks" and before:
            check_hooks(value)
            merged[name] = merge_hooks(before, value)
        else:
            merged[name] = value
    return merged


def _check(options: Mapping[str, Any]) -> None:
    mode = options.get("permission_mode")
    if mode is not None and mode not in PERMISSION_MODES:
        raise UsageError(f"permission_mode {mode!r} is unknown; it is one of {', '.join(PERMISSION_MODES)}")
    for name in ("session_id", "resume", "model"):
        value = options.get(name)
        if value is not None and not (isinstance(value, str) and value):
            raise UsageError(f"{name} must be a text that is not empty, got {value!r}")
    for name in ("allowed_tools", "disallowed_tools"):
        if isinstance(options.get(name), str):
            raise UsageError(f"{name} must be a list of tool names, got the text {options[name]!r}")
    turns = options.get("max_turns")
    if turns is not None and (isinstance(turns, bool) or not isinstance(turns, int) or turns < 1):
        raise UsageError(f"max_turns must be a whole number from 1, got {turns!r}")
    if options.get("hooks"):
        check_hooks(options["hooks"])


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; it is one of {', '.join(known)}"
    return f"unknown query option {name!r}{hint}"
