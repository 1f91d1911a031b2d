"""
The replica process of the demo: an agent application like any other, driven by JSON lines.

Standard input takes one command a line (``{"id": 1, "do": "append", ...}``), standard output gives one
answer a line (``{"reply": 1, ...}``) and, in between, notices: ``acknowledged`` once an entry of this
replica is durable, ``received`` once one of another replica is durable and projected here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from agentlayers.cli.interpreter import tune_interpreter
from agentlayers.cli.logs import configure_logs
from agentlayers.errors import AgentLayersError
from agentlayers.journal.event_journal import EventJournal
from agentlayers.layer.app import App
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.presets import load_preset
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.digest import is_synced, journal_digest
from agentlayers.sync.service import SyncService

__all__ = ["main"]

CONVERSATION: Final = Path(__file__).with_name("conversation.yaml")


class Replica:
    """The commands the demo's parent may give."""

    def __init__(self, app: App) -> None:
        self._runtime = app.get(AgentRuntime)
        self._chat = app.get(ChatHistoryStore)
        self._journal = app.get(EventJournal)
        self._sync = app.get(SyncService)
        self._commands: Mapping[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "converse": self._converse,
            "append": self._append,
            "offline": self._offline,
            "online": self._online,
            "state": self._state,
        }

    async def answer(self, command: dict[str, Any]) -> None:
        """Carry out one command and print its answer; a known fault becomes the answer."""
        identifier, action = command.pop("id"), command.pop("do")
        try:
            result = await self._commands[action](**command)
        except AgentLayersError as error:
            result = {"error": str(error)}
        say({"reply": identifier, **result})

    async def report_entries(self) -> None:
        """Tell the parent of each synced entry; the journal publishes a change only once it is durable."""
        async for stored in self._journal.changes():
            if is_synced(stored):
                key = "acknowledged" if stored.is_local else "received"
                say({key: stored.entry.id.hex(), "store": stored.store, "at": time.monotonic()})

    async def _converse(self, session: str, prompts: list[str]) -> dict[str, Any]:
        messages = tools = 0
        for prompt in prompts:
            async with self._runtime.query(prompt, session_id=session) as turn:
                async for message in turn:
                    messages += 1
                    tools += len(message.tool_uses)
        return {"messages": messages, "tools": tools}

    async def _append(self, session: str, texts: list[str]) -> dict[str, Any]:
        for text in texts:
            await self._chat.append(session, {"type": "user", "message": {"role": "user", "content": text}})
        return {"appended": len(texts)}

    async def _offline(self) -> dict[str, Any]:
        await self._sync.disconnect()
        return {}

    async def _online(self) -> dict[str, Any]:
        await self._sync.connect()
        return {}

    async def _state(self) -> dict[str, Any]:
        status = await self._sync.refresh()
        digest = await journal_digest(self._journal)
        return {
            "state": status.state,
            "pending": status.pending,
            "entries": digest.entries,
            "digest": digest.hex,
        }


def say(message: Mapping[str, object]) -> None:
    """Write one line at once: a notice must not sit in a buffer when this process is killed."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def _serve(preset: str) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    reader = asyncio.StreamReader(limit=4 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    layers = {"extends": preset, "agent_backend": {"scripted": {"script": str(CONVERSATION)}}}
    async with load_preset(yaml.safe_dump(layers)).build() as app:
        replica = Replica(app)
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(replica.report_entries())
            await asyncio.sleep(0)
            say({"ready": True})
            reading = tasks.create_task(_read_commands(reader, replica, tasks))
            await stopping.wait()
            reading.cancel()
            reporting.cancel()


async def _read_commands(reader: asyncio.StreamReader, replica: Replica, tasks: asyncio.TaskGroup) -> None:
    while line := await reader.readline():
        tasks.create_task(replica.answer(json.loads(line)))


def main() -> None:
    """Run one replica until SIGTERM."""
    parser = argparse.ArgumentParser(prog="agentlayers.cli.demo.replica", description=__doc__)
    parser.add_argument("--preset", required=True)
    configure_logs()
    tune_interpreter()
    asyncio.run(_serve(parser.parse_args().preset))


if __name__ == "__main__":
    main()
