"""
The control requests of the ``claude`` command beyond those every backend knows.

Some the command knows and ``ClaudeSDKClient`` has no method for; all are sent the way it sends its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentlayers.errors import BackendError
from agentlayers.runtime.backend import Control

__all__ = ["claude_control"]


async def claude_control(client: Any, request: Control, arguments: Mapping[str, Any]) -> Any:
    """
    Ask the command.

    Args:
        client: A connected ``ClaudeSDKClient``.
        request: What to ask.
        arguments: As :class:`~agentlayers.runtime.query_controls.QueryControls` names them.
    """
    if request == "initialization_result":
        return await client.get_server_info()
    answer = await _send(client, _wire(request, arguments))
    return answer.get("mcpServers", []) if request == "mcp_server_status" else answer


def _wire(request: Control, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a request as the command reads it."""
    match request:
        case "mcp_server_status":
            return {"subtype": "mcp_status"}
        case "set_max_thinking_tokens":
            return {"subtype": request, "max_thinking_tokens": arguments["tokens"]}
        case "set_mcp_servers":
            return {"subtype": "mcp_set_servers", "servers": arguments["servers"]}
        case "rewind_files":
            dry_run = {"dry_run": True} if arguments["dry_run"] else {}
            return {"subtype": request, "user_message_id": arguments["user_message_id"], **dry_run}
        case "stop_task":
            return {"subtype": request, "task_id": arguments["task_id"]}
    raise AssertionError(request)


async def _send(client: Any, request: dict[str, Any]) -> Mapping[str, Any]:
    send = getattr(getattr(client, "_query", None), "_send_control_request", None)
    if send is None:
        raise BackendError("this release of claude-agent-sdk is not known here; install another one (>= 0.2.187)")
    answer = await send(request)
    return answer if isinstance(answer, Mapping) else {}
