"""Whoever looks at a journal that is open in the same process takes nothing from it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentlayers.journal.sqlite import JOURNAL_FILE, SQLiteJournal
from agentlayers.storage.export import export_lines
from agentlayers.storage.import_ import import_export
from agentlayers.storage.rebuild import rebuild
from agentlayers.storage.verify import verify
from helpers.store_replica import open_replica

OTHER = """
import asyncio, sys
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.chat_history import ChatHistoryStore

async def main(directory, text):
    async with SQLiteJournal(directory) as journal, ChatHistoryStore(journal, Identity.generate()) as chat:
        await chat.append("s", {"text": text})
        print(*[event.message["text"] for event in await chat.list("s")])

asyncio.run(main(*sys.argv[1:]))
"""


def other(directory: Path, text: str) -> list[str]:
    """Open the journal in another process, append, close it; return what it saw."""
    command = [sys.executable, "-c", OTHER, str(directory), text]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


async def open_again(directory: Path) -> None:
    async with SQLiteJournal(directory):
        pass


async def take_over(directory: Path) -> None:
    export = directory.with_name("export.jsonl")
    export.write_text("".join(f"{line}\n" for line in export_lines(directory)), encoding="utf-8")
    await import_export(directory, export)


async def check(directory: Path) -> None:
    assert await asyncio.to_thread(lambda: verify(directory, now_ms=int(time.time() * 1000)).is_good)


LOOKS: dict[str, Callable[[Path], Awaitable[object]]] = {
    "open": open_again, "import": take_over, "rebuild": rebuild, "verify": check
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
async def test_what_is_written_after_a_look_is_seen_by_other_processes(tmp_path: Path, look: str) -> None:
    """
    A process that closes a file drops all locks it has on it: had the look done that, the next process to close the
    journal would take itself for the last one and delete the log that this one writes to.
    """
    directory = tmp_path / "replica"
    async with open_replica(SQLiteJournal(directory)) as replica:
        await replica.chat.append("s", {"text": "before"})
        await LOOKS[look](directory)
        await asyncio.to_thread(other, directory, "theirs")
        log = directory / f"{JOURNAL_FILE}-wal"
        is_there = log.exists()
        await replica.chat.append("s", {"text": "after"})
        seen = await asyncio.to_thread(other, directory, "last")

    assert is_there
    assert seen == ["before", "theirs", "after", "last"]
