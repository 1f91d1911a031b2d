"""A key-value store beside a replica's journal disturbs none of the commands that look for journals."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.key_value import SQLiteKeyValueStore
from helpers.store_replica import Clock, open_replica


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replica with two messages."""
    directory = tmp_path_factory.mktemp("prepared") / "replica"
    asyncio.run(_prepare(directory))
    return directory


async def _prepare(directory: Path) -> None:
    Identity.load_or_create(directory / "identity")
    clock = Clock(1_780_000_000.0)
    async with open_replica(SQLiteJournal(directory, clock=clock), clock=clock) as replica:
        for number in range(2):
            clock.now += 60
            await replica.chat.append("one", {"role": "user", "text": f"message {number}"})


async def _add_key_values(directory: Path) -> None:
    clock = Clock(1_780_000_000.0)
    async with (
        SQLiteKeyValueStore(directory) as store,
        open_replica(KeyValueJournal(store, clock=clock), clock=clock, seed=7) as other,
    ):
        await other.chat.append("hidden", {"text": "not in a journal file"})


def run(*arguments: str | Path) -> tuple[int, str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AGENTLAYERS_")}
    outcome = subprocess.run(
        [sys.executable, "-m", "agentlayers", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=kept | {"COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
    )
    return outcome.returncode, outcome.stdout, outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("stats",),
        ("list", "--json"),
        ("search", "message", "--json"),
        ("conflicts", "--json"),
        ("verify", "--json"),
        ("remotes", "list", "--json"),
        ("rebuild",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_says_the_same_with_and_without(arguments: tuple[str, ...], prepared: Path, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    shutil.copytree(prepared, replica)
    # Behind the name of the command, or of its group.
    at = 2 if arguments[0] == "remotes" else 1
    words = ("journal", *arguments[:at], str(replica), *arguments[at:])
    without = run(*words)
    asyncio.run(_add_key_values(replica))
    beside = run(*words)

    assert without[0] == beside[0] == 0, without + beside
    sizes = ("KiB", "bytes", "size")
    assert [line for line in beside[1].splitlines() if not any(word in line for word in sizes)] == [
        line for line in without[1].splitlines() if not any(word in line for word in sizes)
    ]
    assert "hidden" not in beside[1]


def test_an_export_holds_the_journal_alone(prepared: Path, tmp_path: Path) -> None:
    replica, target = tmp_path / "replica", tmp_path / "export.jsonl"
    shutil.copytree(prepared, replica)
    asyncio.run(_add_key_values(replica))

    assert run("journal", "export", replica, "--output", target)[0] == 0
    assert b"not in a journal file" not in target.read_bytes()


def test_a_directory_with_nothing_but_key_values_has_no_journal(tmp_path: Path) -> None:
    asyncio.run(_add_key_values(tmp_path))
    status, _, error = run("journal", "stats", tmp_path)

    assert status != 0
    assert "there is no journal in it" in error
