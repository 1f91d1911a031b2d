"""A program that records a conversation until it is killed, and tells each message it was given."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.runtime import (
    AgentRuntime,
    CallTool,
    QuerySupervisor,
    RuntimeSettings,
    Say,
    Script,
    ScriptedBackend,
    Turn,
)
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore

SCRIPT = Script([
    Turn(
        [Say("I write."), CallTool("write_file", {"path": "a.txt", "content": "{turn}"}), Say("Written: {result}")],
        repeat=True,
    )
])  # fmt: skip


async def converse(directory: Path, mode: str) -> None:
    """Ask again and again; a line for each message: its session, its id, and whether it is recorded already."""
    identity = Identity.load_or_create(directory / "identity")
    settings = RuntimeSettings(record_strict=mode == "strict")
    async with (
        SQLiteJournal(directory) as journal,
        ChatHistoryStore(journal, identity) as chat,
        ArtifactStore(journal, identity) as artifacts,
        AuditEventStore(journal, identity) as audit,
        QuerySupervisor() as supervisor,
        AgentRuntime(
            ScriptedBackend(SCRIPT, directory=directory / "work"),
            supervisor,
            settings=settings,
            chat_history=chat,
            artifacts=artifacts,
            audit_log=audit,
        ) as runtime,
    ):
        while True:
            async with runtime.query("go") as turn:
                async for message in turn:
                    state = "behind" if turn.status.recording_behind else "recorded"
                    print(message.session_id, message.uuid, state, flush=True)


if __name__ == "__main__":
    asyncio.run(converse(Path(sys.argv[1]), sys.argv[2]))
