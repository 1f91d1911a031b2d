"""
The port behind the ``agent_backend`` slot: what really runs an agent.

A backend starts queries; a :class:`BackendQuery` is one running agent. Starting it, iterating it and closing
it happen in one task (the query's owner task), so a backend may hold task groups; the control methods
(``send``, ``interrupt``...) may come from any task of the same event loop.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from agentlayers.errors import UsageError
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.options import QueryOptions

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["AgentBackend", "BackendQuery", "Control", "Prompt"]

Prompt = str | AsyncIterable[Mapping[str, Any]] | None
"""
What a query is asked: one text, or user messages as they come (*streaming input*).

:obj:`None` is streaming input without a first message: everything comes through ``send``.
"""

Control = Literal[
    "initialization_result", "mcp_server_status", "rewind_files", "set_max_thinking_tokens", "set_mcp_servers",
    "stop_task",
]  # fmt: skip
"""Requests that only some backends know; see :class:`~agentlayers.runtime.query_controls.QueryControls`."""


class BackendQuery(abc.ABC):
    """
    One running agent.

    Iterating yields each message once, in order, and ends after the result of the last turn: for a text
    prompt that is its only result; with streaming input the input has to be closed first.

    Attributes:
        reads_ahead: It keeps what the agent says until it is read, however much that is. Then the agent is never
            made to wait for a slow reader: that would save no memory, and leave unrecorded what it said.
    """

    reads_ahead: ClassVar[bool] = False

    @abc.abstractmethod
    def __aiter__(self) -> AsyncIterator[AgentMessage]:
        """
        Yield the agent's messages; once.

        Raises:
            BackendError: The agent broke down. An agent that merely failed yields a result with ``is_error``.
        """

    @abc.abstractmethod
    async def send(self, message: Mapping[str, Any]) -> None:
        """
        Hand the agent one more user message.

        Raises:
            StateError: The prompt was one text, or the input is closed.
        """

    @abc.abstractmethod
    async def close_input(self) -> None:
        """Say that no more user messages come; safe to call twice."""

    @abc.abstractmethod
    async def interrupt(self) -> None:
        """Stop the current turn: its tool is stopped and a result says so. Does nothing when no turn runs."""

    @abc.abstractmethod
    async def set_model(self, model: str | None) -> None:
        """Use another model from the next turn on; :obj:`None` is the backend's default."""

    @abc.abstractmethod
    async def set_permission_mode(self, mode: str) -> None:
        """
        Decide about tools in another way from now on.

        Raises:
            UsageError: No such mode.
        """

    async def control(self, request: Control, **arguments: Any) -> Any:  # noqa: ARG002
        """
        Ask something that not every backend knows.

        Raises:
            UsageError: This one does not.
        """
        raise UsageError(f"{request} is nothing this backend can do")

    @abc.abstractmethod
    async def aclose(self) -> None:
        """End the agent and everything it started; nothing of it is left when this returns. Safe to call twice."""


class AgentBackend(abc.ABC):
    """
    Starts agents.

    Attributes:
        name: As in YAML and in logs.
        extra_options: Options this backend knows beyond those of :class:`~agentlayers.runtime.options.QueryOptions`.
    """

    name: ClassVar[str] = "agent"
    extra_options: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    async def start(self, prompt: Prompt, options: QueryOptions) -> BackendQuery:
        """
        Start an agent and ask it.

        Raises:
            BackendError: It could not be started; starting again may help.
            UsageError: An option this backend cannot honour.
        """

    @staticmethod
    def layer_scripted(script: Any = None, **arguments: Any) -> Layer:
        """
        Play a script (see :class:`~agentlayers.runtime.scripted.ScriptedBackend`); the default one echoes.

        Args:
            script: A :class:`~agentlayers.runtime.script.Script`, or the path of a YAML file.
            **arguments: The other parameters of the backend, such as ``directory`` and ``seed``.
        """
        from agentlayers.layer import Layer
        from agentlayers.runtime.scripted import ScriptedBackend

        return Layer.factory(AgentBackend, ScriptedBackend, script=script, **arguments)

    @staticmethod
    def layer_claude(**arguments: Any) -> Layer:
        """
        Run the ``claude`` command (see :class:`~agentlayers.runtime.claude.ClaudeBackend`; extra ``claude``).

        It mirrors transcripts into the graph's :class:`~agentlayers.runtime.session_store.AgentSessionStore`,
        if there is one.

        Args:
            **arguments: The parameters of the backend, such as ``cli_path``, ``env`` and ``options``.

        Raises:
            ConfigurationError: The extra is not installed.
        """
        from agentlayers.layer import Layer
        from agentlayers.runtime.claude import ClaudeBackend
        from agentlayers.runtime.claude_sdk import require_claude_sdk

        require_claude_sdk()
        return Layer.factory(AgentBackend, ClaudeBackend, **arguments)
