"""
What can be asked of a running agent besides its messages: control requests.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentlayers.errors import BackendError, UsageError
from agentlayers.runtime.backend import BackendQuery

__all__ = ["QueryControls"]


class QueryControls(abc.ABC):
    """
    The control requests of a query; may be used from any task of the event loop.

    Not every backend knows every one; what it does not know it refuses.
    """

    @abc.abstractmethod
    def _running(self) -> BackendQuery:
        """
        Return the running agent.

        Raises:
            StateError: It does not run.
        """

    async def set_model(self, model: str | None = None) -> None:
        """Use another model from the next turn on."""
        await self._running().set_model(model)

    async def set_permission_mode(self, mode: str) -> None:
        """Decide about tools in another way from now on."""
        await self._running().set_permission_mode(mode)

    async def set_max_thinking_tokens(self, tokens: int | None) -> None:
        """
        Let the agent think so much, from the next turn on; :obj:`None` is the backend's default.

        Raises:
            UsageError: A negative number, or the backend cannot.
        """
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0):
            raise UsageError(f"max thinking tokens must be a whole number from 0 or None, got {tokens!r}")
        await self._running().control("set_max_thinking_tokens", tokens=tokens)

    async def rewind_files(self, user_message_id: str, *, dry_run: bool = False) -> Mapping[str, Any]:
        """
        Put the files back to what they were at a prompt (needs the option ``enable_file_checkpointing``).

        Args:
            user_message_id: ``uuid`` of the user message.
            dry_run: Only say what would change.

        Returns:
            What was, or would be, changed, in the backend's words.
        """
        return _mapping(
            await self._running().control("rewind_files", user_message_id=user_message_id, dry_run=dry_run),
            "rewind_files",
        )

    async def stop_task(self, task_id: str) -> None:
        """Stop one task that the agent runs in the background; ``system`` messages tell the ids."""
        await self._running().control("stop_task", task_id=task_id)

    async def mcp_server_status(self) -> Sequence[Mapping[str, Any]]:
        """Tell which MCP servers the agent has, and how each is doing."""
        return _list(await self._running().control("mcp_server_status"), "mcp_server_status")

    async def set_mcp_servers(self, servers: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Replace the MCP servers that were added while the query runs, by name, in the backend's spelling.

        Returns:
            What was added and removed, and what failed, in the backend's words.
        """
        return _mapping(await self._running().control("set_mcp_servers", servers=dict(servers)), "set_mcp_servers")

    async def initialization_result(self) -> Mapping[str, Any]:
        """Tell what the agent said about itself when it started: commands, models, subagents, account."""
        return _mapping(await self._running().control("initialization_result"), "initialization_result")

    async def supported_commands(self) -> Sequence[Mapping[str, Any]]:
        """Tell which slash commands may be prompts."""
        return await self._told("commands")

    async def supported_models(self) -> Sequence[Mapping[str, Any]]:
        """Tell which models :meth:`set_model` may name."""
        return await self._told("models")

    async def account_info(self) -> Mapping[str, Any]:
        """Tell whose account the agent uses; never a secret."""
        return _mapping((await self.initialization_result()).get("account") or {}, "account")

    async def _told(self, what: Literal["commands", "models"]) -> Sequence[Mapping[str, Any]]:
        return _list((await self.initialization_result()).get(what) or [], what)


def _mapping(answer: Any, what: str) -> Mapping[str, Any]:
    if answer is None:
        return {}
    if not isinstance(answer, Mapping):
        raise BackendError(f"the agent answered {what} with {type(answer).__name__}, expected a mapping")
    return answer


def _list(answer: Any, what: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(answer, list):
        raise BackendError(f"the agent answered {what} with {type(answer).__name__}, expected a list")
    return answer
