"""
Run agents with the ``claude`` command, through claude-agent-sdk (extra ``claude``).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, final

from agentlayers.errors import UsageError
from agentlayers.logs import get_logger
from agentlayers.runtime.backend import AgentBackend, Prompt
from agentlayers.runtime.claude_options import CLAUDE_OPTIONS, claude_options
from agentlayers.runtime.claude_process import MARK_VARIABLE, ClaudeProcess
from agentlayers.runtime.claude_query import ClaudeQuery, StderrTail
from agentlayers.runtime.claude_sdk import claude_sdk_is_installed, load_claude_sdk, require_claude_sdk
from agentlayers.runtime.options import QueryOptions, merge_options
from agentlayers.runtime.session_store import AgentSessionStore

__all__ = ["ClaudeBackend"]

logger = get_logger(__name__)

CLOSE_GRACE_SECONDS: Final = 3.0
"""How long a command may take to write its transcript and end, before it is asked firmly and then killed."""

_SESSION_STATE_VARIABLE: Final = "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"


@final
class ClaudeBackend(AgentBackend):
    """
    Starts a ``claude`` command for each query.

    With a session store every transcript is mirrored into it, and ``resume`` finds a session there, whatever
    machine and directory it began in.

    Args:
        sessions: Where transcripts are kept; without it they are only where the command keeps them.
        cli_path: The command; the one that comes with claude-agent-sdk, or the one installed, if not given.
        env: Added to the environment of every command. What this process has is inherited.
        options: Options every query starts from; those of the query are laid over them.
        close_grace_seconds: How long a command may take to end by itself.

    Raises:
        ConfigurationError: The extra ``claude`` is not installed.
        UsageError: An unknown option.
    """

    name = "claude"
    extra_options = CLAUDE_OPTIONS

    def __init__(
        self,
        *,
        sessions: AgentSessionStore | None = None,
        cli_path: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        close_grace_seconds: float = CLOSE_GRACE_SECONDS,
    ) -> None:
        require_claude_sdk()
        self._sessions = sessions
        self._env = dict(env or {})
        base = dict(options or {})
        if cli_path is not None:
            base["cli_path"] = str(cli_path)
        QueryOptions.from_mapping(base, extra_options=self.extra_options)
        self._base = base
        self._grace = close_grace_seconds

    @staticmethod
    def is_available() -> bool:
        """Whether the extra ``claude`` is installed."""
        return claude_sdk_is_installed()

    async def start(self, prompt: Prompt, options: QueryOptions) -> ClaudeQuery:
        """
        Start a command and ask it.

        Raises:
            BackendError: It did not start.
            ConfigurationError: There is no such command.
            UsageError: An option it or the SDK refuses.
        """
        # Half a second of importing must not stop the event loop.
        sdk = await asyncio.to_thread(load_claude_sdk)
        options = self._merged(options)
        mark = uuid.uuid4().hex
        stderr = StderrTail(options.extra.get("stderr"))
        made = claude_options(
            sdk,
            options,
            env={**self._env, **options.env, MARK_VARIABLE: mark, _SESSION_STATE_VARIABLE: "1"},
            session_store=self._session_store(options),
            stderr=stderr,
        )
        try:
            client = sdk.ClaudeSDKClient(made)
        except (TypeError, ValueError) as error:
            raise UsageError(f"claude-agent-sdk refuses the options: {error}") from error
        process = ClaudeProcess(mark, grace_seconds=self._grace)
        query = ClaudeQuery(prompt, client=client, process=process, stderr=stderr)
        await query.open()
        return query

    def _merged(self, options: QueryOptions) -> QueryOptions:
        if not self._base:
            return options
        merged = merge_options(self._base, _given(options))
        return QueryOptions.from_mapping(merged, extra_options=self.extra_options)

    def _session_store(self, options: QueryOptions) -> Any:
        given = options.extra.get("session_store")
        if given is None and self._sessions is not None and options.extra.get("enable_file_checkpointing"):
            logger.warning("sessions_not_mirrored", reason="claude-agent-sdk cannot while it keeps file checkpoints")
            return None
        store = self._sessions if given is None else given
        return store.anywhere() if isinstance(store, AgentSessionStore) else store


def _given(options: QueryOptions) -> dict[str, Any]:
    """Return what a query says beyond the defaults, as a caller would have written it."""
    default = QueryOptions()
    named = {field.name: getattr(options, field.name) for field in fields(options) if field.name != "extra"}
    return {name: value for name, value in named.items() if value != getattr(default, name)} | dict(options.extra)
