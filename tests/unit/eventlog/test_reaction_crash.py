"""A reaction whose process is killed misses nothing and repeats at most what it was handling."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

from agentlayers.eventlog.event import EventGroup
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.typed_event import TypedEntry
from agentlayers.journal.sqlite import SQLiteJournal

KILLS = 8

CHILD = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
import test_reaction_crash as story

asyncio.run(story.live(story.Path(sys.argv[1])))
"""


def log_of(journal: SQLiteJournal) -> EventLog:
    from agentlayers.eventlog.event import Event

    group = EventGroup.append_only(Event("step", lambda fields: str(fields["n"])))
    return EventLog(journal, Identity("test", bytes(32)), EventGroup.schema("steps", group))


class Witness:
    """Notes what it handled in a file that a killed process leaves behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def __call__(self, entry: TypedEntry[dict[str, int]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{entry.value['n']}\n")


async def live(directory: Path) -> None:
    """Write and react until the process is killed; every acknowledged number goes to standard output."""
    async with SQLiteJournal(directory, durability="normal") as journal:
        log = log_of(journal)
        await log.open()
        number = len(await journal.entries("steps", entries_max=100_000))
        async with log.react("witness", Witness(directory / "handled"), start="beginning"):
            while True:
                await log.write("step", str(number), {"n": number})
                print(number, flush=True)
                number += 1


async def test_killed_at_any_moment_it_handles_everything_in_order(tmp_path: Path) -> None:
    chance = random.Random(3)
    acknowledged: list[int] = []
    for _kill in range(KILLS):
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: ASYNC220
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(chance.uniform(0, 0.08))  # noqa: ASYNC251
            child.kill()
            acknowledged += [int(line) for line in [first, *child.stdout] if line.endswith("\n")]
    async with SQLiteJournal(tmp_path, durability="normal") as journal:
        log = log_of(journal)
        await log.open()
        held = len(await journal.entries("steps", entries_max=1_000_000))
        async with log.react("witness", Witness(tmp_path / "handled")) as reaction:
            async with asyncio.timeout(30):
                await reaction.caught_up()
    handled = [int(line) for line in (tmp_path / "handled").read_text().split()]

    assert len(acknowledged) > KILLS
    assert set(handled) == set(range(held)) >= set(acknowledged)
    assert list(dict.fromkeys(handled)) == list(range(held))
    # Only what was being handled when the process was killed can be there twice.
    assert len(handled) - held <= KILLS
