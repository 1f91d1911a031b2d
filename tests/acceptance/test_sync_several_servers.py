"""``agentlayers sync`` with several servers: all get everything, whichever of them can be reached."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.chat_history import ChatHistoryStore

TOKENS = ("the-token-of-the-first", "the-token-of-the-second")
AWAY = "ws://127.0.0.1:1/event-log"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "SYNC_TOKEN"}
    return subprocess.run(
        [sys.executable, "-m", "agentlayers", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip


def fails(status: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    outcome = run(*arguments)
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert not any(token in outcome.stderr + outcome.stdout for token in TOKENS)
    return outcome


async def write_replica(directory: Path, identity: Identity, count: int) -> Path:
    """Make a replica that holds messages."""
    identity.save(directory / "identity")
    async with SQLiteJournal(directory) as journal, ChatHistoryStore(journal, identity) as chat:
        for number in range(count):
            await chat.append("session", {"type": "user", "text": f"message {number}"})
    return directory


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[tuple[str, str]]]:
    """Two servers, each with a token of its own: the WebSocket address of one, the TCP address of the other."""
    found = []
    with contextlib.ExitStack() as stack:
        for number, token in enumerate(TOKENS):
            token_file = tmp_path / f"token-{number}"
            token_file.write_text(token)
            command = [sys.executable, "-m", "agentlayers", "serve", "--data", str(tmp_path / f"data-{number}")]
            options = ["--port", "0", "--tcp-port", "0", "--token-file", str(token_file)]
            process = stack.enter_context(subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            addresses = [process.stdout.readline().split()[-1] for _ in range(2)]
            found.append((addresses[number], str(token_file)))
        yield found


def to(*servers: tuple[str, str]) -> list[str]:
    return [part for url, token_file in servers for part in ("--to", url, "--token-file", token_file)]


async def test_what_is_at_one_server_comes_to_the_other(servers: list[tuple[str, str]], tmp_path: Path) -> None:
    """By way of a replica that is synced with both."""
    identity = Identity.generate()
    one = await write_replica(tmp_path / "one", identity, 5)
    bridge = await write_replica(tmp_path / "bridge", identity, 2)
    late = await write_replica(tmp_path / "late", identity, 0)
    first, second = servers
    assert run("sync", str(one), *to(first)).returncode == 0
    outcome = run("sync", str(bridge), *to(first, second), "--json")
    report = json.loads(outcome.stdout)
    shown = run("sync", str(late), *to(second)).stdout
    state = json.loads(run("status", str(bridge), "--json").stdout)

    assert [one["url"] for one in report["remotes"]] == [first[0], second[0]]
    assert [one["sent"]["chat_history"] for one in report["remotes"]] == [2, 7]
    assert [one["received"]["chat_history"] for one in report["remotes"]] == [5, 0]
    assert "received        7" in shown
    (chat,) = [store for store in state["stores"] if store["store"] == "chat_history"]
    assert [(one["pending"], one["relays"]) for one in chat["remotes"]] == [(0, True), (0, True)]


async def test_a_server_that_is_away_keeps_nothing_from_the_other(
    servers: list[tuple[str, str]], tmp_path: Path
) -> None:
    """What was done is said before the error is."""
    one = await write_replica(tmp_path / "one", Identity.generate(), 5)
    first, second = servers
    outcome = fails(5, "sync", str(one), *to(first, (AWAY, second[1])))
    report = json.loads(fails(5, "sync", str(one), *to(first, (AWAY, second[1])), "--json").stdout)

    assert "127.0.0.1:1" in outcome.stderr
    assert first[0] in outcome.stdout
    assert "sent        5" in outcome.stdout
    assert [bool(one["error"]) for one in report["remotes"]] == [False, True]


async def test_each_server_needs_a_token_file_if_one_has(tmp_path: Path) -> None:
    """And no two may have one address."""
    one = await write_replica(tmp_path / "one", Identity.generate(), 1)
    (tmp_path / "token").write_text("x")
    file = str(tmp_path / "token")
    count = fails(2, "sync", str(one), *to((AWAY, file), ("tcp://127.0.0.1:1", file)), "--token-file", file)
    twice = fails(2, "sync", str(one), *to((AWAY, file), (AWAY, file)))

    assert "one for each of the 2" in count.stderr
    assert "different addresses" in twice.stderr
