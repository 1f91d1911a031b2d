"""
One replica in a process of its own: syncs, asks the real ``claude`` command, syncs again, and prints what it saw.

Started by ``test_claude_resume`` as ``python -m helpers.claude_replica '{...}'``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.claude import ClaudeBackend
from agentlayers.runtime.query_supervisor import QuerySupervisor
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.sync.service import SyncService
from agentlayers.transport.websocket import WebSocketTransport


async def converse(job: dict[str, Any]) -> dict[str, Any]:
    """Ask one prompt on a replica, and return the session and the answer."""
    options = {"cwd": job["cwd"], "setting_sources": [], "allowed_tools": ["Agent", "Bash"], **job["options"]}
    async with (
        SQLiteJournal(Path(job["journal"])) as journal,
        SyncService(WebSocketTransport(job["server"]), AesGcmEncryption(), stores={"agent_sessions": True}) as sync,
        AgentSessionStore(journal, Identity.decode_string(job["identity"]), sync=sync) as sessions,
        QuerySupervisor() as supervisor,
        AgentRuntime(ClaudeBackend(sessions=sessions, env=job["env"]), supervisor) as runtime,
    ):
        await sync.sync_now()
        async with runtime.query(job["prompt"], **options) as turn:
            messages = [message async for message in turn]
        await sync.sync_now()
        project = await sessions.project_of("", turn.session_id)
        subagents = await sessions.list_subkeys({"project_key": project, "session_id": turn.session_id})
        return {"session": turn.session_id, "answer": messages[-1].text, "subagents": subagents}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(converse(json.loads(sys.argv[1])))))
