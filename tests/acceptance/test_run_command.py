"""``agentlayers run``: an agent from a layer file, on a terminal and in a pipe, on good and bad days."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlayers.runtime.claude import ClaudeBackend
from agentlayers.runtime.options import PERMISSION_MODES
from agentlayers.storage.journal_file import read_journal_file
from agentlayers.testing import run_sync_server
from agentlayers.testing.messages_api import MessagesApi, claude_environment

AGENTLAYERS = [sys.executable, "-m", "agentlayers"]
TALK = """
turns:
  - steps:
      - say: "First a [bold]note."
      - tool: write_file
        input: {path: note.txt, content: "one\\ntwo\\n"}
      - tool: run_command
        input: {command: [cat, note.txt, missing]}
      - say: "Read:\\n{result}"
"""
SLOW = """
turns:
  - steps:
      - say: "Begin."
      - delay: 60 seconds
      - say: "End."
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory of the test's own, with two scripts in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTLAYERS_STORAGE_DIRECTORY", raising=False)
    (tmp_path / "talk.yaml").write_text(TALK)
    (tmp_path / "slow.yaml").write_text(SLOW)
    return tmp_path


def run(*arguments: str, **given: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AGENTLAYERS, "run", *arguments], capture_output=True, text=True, timeout=60, check=False, **given
    )


def recorded(directory: Path) -> list[str]:
    entries = read_journal_file(directory / "journal.sqlite", stores={"chat_history"})
    return [stored.entry.primary_key for stored in entries]


def test_the_agent_is_shown_and_recorded(place: Path) -> None:
    outcome = run("local", "--script", "talk.yaml", "--directory", "replica", "go")

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == [
        "First a [bold]note.",
        "▸ write_file: note.txt",
        "  ⎿ created note.txt (8 bytes)",
        '▸ run_command: command=["cat", "note.txt", "missing"]',
        "  ✗ exit status 1  (+3 lines)",
        "Read:",
        "exit status 1",
        "one",
        "two",
        "cat: missing: No such file or directory",
    ]
    assert "recorded" in outcome.stderr
    assert len(recorded(place / "replica")) > 5


def test_a_session_is_resumed(place: Path) -> None:
    first = run("local", "hello")
    session = first.stderr.split("session ")[1].split(",")[0]
    second = run("local", "--resume", session, "again")

    assert second.returncode == 0
    assert session in second.stderr
    assert {key.split(":")[0] for key in recorded(place / "storage")} == {session}


def test_a_prompt_comes_from_a_pipe_and_messages_go_into_one(place: Path) -> None:
    outcome = run("memory", "--json", input="from a pipe\n")
    messages = [json.loads(line) for line in outcome.stdout.splitlines()]

    assert outcome.returncode == 0
    assert [message["type"] for message in messages] == ["system", "assistant", "result"]
    assert messages[-1]["result"] == "You said: from a pipe"
    assert outcome.stderr == ""
    assert not (place / "storage").exists()


def test_slots_are_filled_otherwise(place: Path) -> None:
    outcome = run("local", "--set", "journal=memory", "--set", "identity=generated", "hello")

    assert outcome.returncode == 0, outcome.stderr
    assert not (place / "storage" / "journal.sqlite").exists()


async def test_what_was_said_is_sent_to_the_server(place: Path) -> None:
    async with run_sync_server(place / "server") as server:
        environment = {**os.environ, "SYNC_URL": server.websocket_url}
        outcome = await asyncio.to_thread(run, "synced", "hello", env=environment)

    assert outcome.returncode == 0, outcome.stderr
    assert f"sent to {server.websocket_url}" in outcome.stderr


def test_a_server_that_does_not_answer_loses_nothing(place: Path) -> None:
    outcome = run("synced", "hello", env={**os.environ, "SYNC_URL": "ws://127.0.0.1:9/event-log"})

    assert outcome.returncode == 0
    assert "not sent: cannot connect to ws://127.0.0.1:9" in outcome.stderr
    assert len(recorded(place / "storage")) == 4


def test_an_interrupted_agent_keeps_what_it_said(place: Path) -> None:
    with subprocess.Popen(
        [*AGENTLAYERS, "run", "local", "--script", "slow.yaml", "go"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "Begin.\n"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "recorded" in errors
    assert "End." not in rest
    assert len(recorded(place / "storage")) == 4


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("nothing", "hello"), 2, "no preset 'nothing'"),
        (("server", "hello"), 2, "runs no agent"),
        (("local", " "), 2, "the prompt is empty"),
        (("local", "--backend", "cluade", "hello"), 2, "did you mean 'claude'?"),
        (("local", "--backend", "claude", "--script", "talk.yaml", "hello"), 2, "--script is played by"),
        (("local", "--script", "missing.yaml", "hello"), 6, "missing.yaml: cannot read the script"),
        (("local", "--set", "compaction", "hello"), 2, "expected SLOT=YAML"),
        (("local", "--set", "compactio=none", "hello"), 2, "did you mean 'compaction'?"),
        (("local", "--cwd", "nowhere", "hello"), 2, "is no directory"),
        (("local", "--directory", "talk.yaml", "hello"), 2, "talk.yaml"),
        (("synced", "hello"), 2, "SYNC_URL"),
    ],
)
@pytest.mark.usefixtures("place")
def test_bad_input_is_one_clear_error(arguments: tuple[str, ...], status: int, text: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SYNC_URL"}
    outcome = run(*arguments, env=environment)

    assert outcome.returncode == status, outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert text in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.usefixtures("place")
def test_the_permission_modes_of_a_query_are_those_of_the_command() -> None:
    wrong, right = run("memory", "--permission-mode", "all", "hello"), run("memory", "--permission-mode", "auto", "hi")

    offered = re.sub(r"[│\s]", "", wrong.stderr)  # the message is wrapped into a frame
    assert wrong.returncode == 2
    assert all(f"'{mode}'" in offered for mode in PERMISSION_MODES), wrong.stderr
    assert (right.returncode, right.stdout) == (0, "You said: hi\n")


@pytest.mark.skipif(not ClaudeBackend.is_available(), reason="claude-agent-sdk is not installed")
async def test_the_real_agent_command_runs(place: Path) -> None:
    home = place / "home"
    (home / "tmp").mkdir(parents=True)
    async with MessagesApi("all is well") as api:
        environment = {**os.environ, **claude_environment(api.url, home)}
        outcome = await asyncio.to_thread(
            run, "local", "--backend", "claude", "--set", "compaction=none", "how are you?", env=environment
        )

    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip().endswith("all is well")
    assert len(recorded(place / "storage")) >= 4
    shutil.rmtree(home)
