"""``agentlayers journal reactions``: what waits for an application, and how to give up on one that is gone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentlayers.eventlog.event import Event, EventGroup
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.typed_event import TypedEntry
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.schedule import fixed

noted = Event("noted", lambda fields: str(fields["n"]))
other = Event("other", lambda fields: str(fields["n"]))


def run(*arguments: str | Path, status: int = 0) -> str:
    command = [sys.executable, "-m", "agentlayers", "journal", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    async def prepare() -> None:
        async def fail_at_one(entry: TypedEntry[dict[str, int]]) -> None:
            if entry.value["n"] == 1:
                raise ValueError("it cannot be sent")

        async with SQLiteJournal(tmp_path) as journal:
            log = EventLog(
                journal, Identity.generate(), EventGroup.schema("tasks", EventGroup.append_only(noted, other))
            )
            await log.open()
            retry = fixed("1 millis").limited(0)
            async with log.react("mail", fail_at_one, events=[noted], retry=retry, when_exhausted="set_aside") as mail:
                for number in range(3):
                    await log.write_event(noted, {"n": number})
                await mail.caught_up()
            for number in range(3, 7):
                await log.write_event(noted, {"n": number})
            await log.write_event(other, {"n": 7})

    asyncio.run(prepare())
    return tmp_path


def test_it_tells_what_waits_and_what_was_set_aside(replica: Path) -> None:
    (found,) = [json.loads(line) for line in run("reactions", "list", replica, "--json").splitlines()]
    shown = run("reactions", "list", replica)

    assert found == {
        "reaction": "mail", "store": "tasks", "events": ["noted"], "position": 3, "waiting": 4, "set_aside": 1,
    }  # fmt: skip
    assert shown.splitlines()[1].split() == ["mail", "tasks", "4", "1", "3", "noted"]


def test_a_forgotten_reaction_is_gone(replica: Path) -> None:
    unknown = run("reactions", "forget", replica, "post", status=2)
    forgot = run("reactions", "forget", replica, "mail")

    assert "one of mail (--store tasks)" in unknown
    assert forgot == "tasks: forgot mail\n"
    assert run("reactions", "list", replica) == "no reactions\n"
    assert "expected none: there are none" in run("reactions", "forget", replica, "mail", status=2).replace(
        "one of ", ""
    )
