"""``agentlayers sync`` and ``agentlayers journal export`` on good and bad days."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.chat_history import ChatHistoryStore

TOKEN = "a-token-that-must-not-show"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "SYNC_TOKEN"}
    return subprocess.run(
        [sys.executable, "-m", "agentlayers", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip


def fails(status: int, *arguments: str) -> str:
    outcome = run(*arguments)
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert TOKEN not in outcome.stderr + outcome.stdout
    assert outcome.stderr.startswith("error: ")
    return outcome.stderr


def exported(directory: Path) -> list[dict[str, object]]:
    outcome = run("journal", "export", str(directory))
    assert outcome.returncode == 0, outcome.stderr
    header, *entries = (json.loads(line) for line in outcome.stdout.splitlines())
    assert header["format"] == "agentlayers-journal"
    return entries


@pytest.fixture
async def replica(tmp_path: Path) -> Path:
    directory = tmp_path / "replica"
    identity = Identity.load_or_create(directory / "identity")
    async with SQLiteJournal(directory) as journal, ChatHistoryStore(journal, identity) as chat:
        for number in range(20):
            await chat.append("session", {"type": "user", "text": f"message {number}"})
    return directory


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    command = [sys.executable, "-m", "agentlayers", "serve", "--data", str(tmp_path / "data"), "--port", "0"]
    with subprocess.Popen(
        [*command, "--tcp-port", "0", "--token-file", str(token_file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], process.stdout.readline().split()[-1]
        process.kill()


def test_two_replicas_exchange_what_they_hold(replica: Path, server: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    shutil.copy(replica / "identity", other / "identity")
    run("sync", str(replica), "--to", server[0], "--token", TOKEN)

    # An identity alone is a new replica, which gets everything from the server.
    outcome = run("sync", str(other), "--to", server[1], "--token", TOKEN)

    assert outcome.returncode == 0, outcome.stderr
    assert "chat_history" in outcome.stdout
    assert [entry["id"] for entry in exported(other)] == [entry["id"] for entry in exported(replica)]
    assert len(exported(other)) == 20


@pytest.mark.parametrize("which", [0, 1], ids=["websocket", "tcp"])
def test_a_wrong_token_is_one_clear_error_and_loses_nothing(replica: Path, server: tuple[str, str], which: int) -> None:
    before = exported(replica)
    text = fails(3, "sync", str(replica), "--to", server[which], "--token", "wrong")

    assert "token" in text
    assert exported(replica) == before


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/event-log", "tcp://127.0.0.1:1"])
def test_an_unreachable_server_is_named(replica: Path, url: str) -> None:
    before = exported(replica)

    assert "127.0.0.1:1" in fails(5, "sync", str(replica), "--to", url, "--token", TOKEN)
    assert exported(replica) == before


def test_a_token_in_the_address_is_refused_without_showing_it(replica: Path) -> None:
    fails(2, "sync", str(replica), "--to", f"ws://127.0.0.1:1/event-log?token={TOKEN}")


def test_an_unknown_store_is_refused_with_the_ones_there_are(replica: Path) -> None:
    text = fails(2, "sync", str(replica), "--to", "ws://127.0.0.1:1", "--store", "chat")

    assert "chat_history" in text


@pytest.mark.parametrize("arguments", [("journal", "export"), ("sync", "--to", "ws://127.0.0.1:1")])
def test_a_corrupt_journal_is_named_and_left_alone(replica: Path, arguments: tuple[str, ...]) -> None:
    journal = replica / "journal.sqlite"
    whole = journal.read_bytes()
    damaged = b"not a database at all" + whole[21:]
    journal.write_bytes(damaged)
    text = fails(4, *arguments, str(replica))

    assert "journal.sqlite" in text
    assert journal.read_bytes() == damaged


def test_a_truncated_journal_is_named_and_left_alone(replica: Path) -> None:
    journal = replica / "journal.sqlite"
    half = journal.read_bytes()[: journal.stat().st_size // 2]
    journal.write_bytes(half)
    text = fails(4, "sync", str(replica), "--to", "ws://127.0.0.1:1")

    assert "journal.sqlite" in text
    assert journal.read_bytes() == half


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv to give up root's rights")
def test_a_directory_that_cannot_be_read_is_named(replica: Path) -> None:
    outcome = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
         sys.executable, "-m", "agentlayers", "journal", "export", str(replica)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "HOME": "/tmp"},
    )  # fmt: skip
    if "No module named" in outcome.stderr or outcome.returncode == 126:
        pytest.skip("this user cannot reach the interpreter")

    assert outcome.returncode == 4, outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert str(replica.name) in outcome.stderr


def test_a_directory_without_a_journal_is_said_to_have_none(tmp_path: Path) -> None:
    assert "no journal" in fails(4, "journal", "export", str(tmp_path))
