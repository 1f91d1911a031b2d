"""``agentlayers import claude-code`` and ``watch claude-code``: the commands, and what the real ``claude`` writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.claude_transcript_files import find_transcripts
from agentlayers.runtime.claude_transcript_import import TranscriptImporter
from agentlayers.runtime.claude_transcript_stores import open_transcript_stores
from agentlayers.runtime.query_supervisor import QuerySupervisor
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.testing.messages_api import Answer, ApiRequest, use_tool
from helpers.claude_transcripts import SESSION, TranscriptWriter
from helpers.claude_world import claude_world, needs_claude, only_own_environment

SECRET = "sk-live-do-not-log-me"


def environment(**changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AGENTLAYERS_", "SYNC_"))}
    return kept | {"COLUMNS": "100"} | changes


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "agentlayers", *map(str, arguments)]


def run(*arguments: str | Path, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    outcome = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=environment(**variables),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "chat" in arguments or SECRET not in outcome.stdout + outcome.stderr
    return outcome


def fails(status: int, *arguments: str | Path) -> str:
    text = run(*arguments, status=status).stderr
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    return text


def imported(*arguments: str | Path, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("import", "claude-code", *arguments, "--json", status=status).stdout)
    return found


@pytest.fixture
def writer(tmp_path: Path) -> TranscriptWriter:
    made = TranscriptWriter(tmp_path / "home" / ".claude" / "projects")
    made.conversation()
    made.prompt(f"the key is {SECRET}")
    return made


# -- import -------------------------------------------------------------------------------------------------
def test_a_replica_is_made_filled_and_good(writer: TranscriptWriter, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    dry = imported(writer.projects, "--to", replica, "--dry-run")
    assert not replica.exists()
    done = imported(writer.projects, "--to", replica)
    again = imported(writer.projects, "--to", replica)
    text = run("-vv", "import", "claude-code", writer.projects, "--to", replica)

    assert done == dry | {"dry_run": False}
    assert (9, 9, 5, 1) == tuple(done[name] for name in ("lines", "new_lines", "messages", "artifacts"))
    assert (9, 0, 0, 0) == tuple(again[name] for name in ("lines", "new_lines", "messages", "artifacts"))
    assert "imported 0 lines" in text.stdout
    assert "9 lines already there" in text.stdout
    assert run("journal", "verify", replica).stdout.endswith("good\n")
    assert (replica / "identity").stat().st_mode & 0o77 == 0


def test_without_arguments_it_is_the_users_own_transcripts_and_the_configured_replica(
    writer: TranscriptWriter, tmp_path: Path
) -> None:
    home, replica = str(tmp_path / "home"), tmp_path / "configured"
    run("import", "claude-code", HOME=home, AGENTLAYERS_STORAGE_DIRECTORY=str(replica), CLAUDE_CONFIG_DIR="")
    moved = run("import", "claude-code", "--to", replica, CLAUDE_CONFIG_DIR=str(tmp_path / "home" / ".claude"))

    assert SESSION in run("chat", "list", replica).stdout
    assert "9 lines already there" in moved.stdout


def test_broken_lines_and_files_are_told_and_the_rest_is_imported(writer: TranscriptWriter, tmp_path: Path) -> None:
    writer.raw(f'{{"key": "{SECRET}"')
    writer.raw("\x00\x00")
    writer.say("after")
    writer.raw('{"type":"us', end="")
    outcome = run("import", "claude-code", writer.path, "--to", tmp_path / "replica", status=1)
    found = imported(writer.path, "--to", tmp_path / "replica", status=1)

    assert f"warning: {writer.path}:10: it is not JSON; left out" in outcome.stderr
    assert [10, 11] == [broken["line"] for broken in found["broken"]]
    assert 10 == found["lines"]


def test_input_that_is_none_is_refused_with_one_line(writer: TranscriptWriter, tmp_path: Path) -> None:
    empty, text = tmp_path / "empty", tmp_path / "note.jsonl"
    empty.mkdir()
    text.write_text("hello\n")

    assert "no such path" in fails(2, "import", "claude-code", tmp_path / "missing")
    assert "there is no transcript" in fails(2, "import", "claude-code", empty)
    assert "there is no transcript" in fails(2, "import", "claude-code", text, "--to", tmp_path / "replica")
    assert "not a file" in fails(2, "import", "claude-code", writer.projects, "--to", text)
    assert "cannot be written" in fails(2, "import", "claude-code", writer.projects, "--to", "/dev/null/replica")
    assert "exists" in fails(2, "watch", "claude-code", tmp_path / "missing")
    assert "--sync" in fails(2, "watch", "claude-code", writer.projects, "--tenant", "a")
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "journal.sqlite").write_text("no database")
    for options in ((), ("--dry-run",)):
        fails(4, "import", "claude-code", writer.projects, "--to", tmp_path / "journal", *options)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(writer: TranscriptWriter, tmp_path: Path) -> None:
    TranscriptWriter(writer.projects, project="-other", session=SESSION.replace("5", "6")).prompt("readable")
    writer.path.chmod(0)
    found = imported(writer.projects, "--to", tmp_path / "replica", status=1)

    assert ["Permission denied"] == [one["reason"] for one in found["unreadable"]]
    assert 1 == found["messages"]


async def test_importing_beside_a_running_replica_is_safe(writer: TranscriptWriter, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    identity = Identity.load_or_create(replica / "identity")
    async with SQLiteJournal(replica) as journal, ChatHistoryStore(journal, identity) as chat:
        following = chat.follow(SESSION)
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        done = asyncio.to_thread(imported, writer.projects, "--to", replica)
        own = [chat.append("own", {"n": number}) for number in range(20)]
        await asyncio.gather(done, *own)

        assert "Where is the fault?" in str((await asyncio.wait_for(first, 10)).message)
        assert 5 == len(await chat.list(SESSION))
        assert 20 == len(await chat.list("own"))
        await following.aclose()


def test_a_backup_brings_transcripts_back(writer: TranscriptWriter, tmp_path: Path) -> None:
    run("import", "claude-code", writer.projects, "--to", tmp_path / "replica")
    run("journal", "export", tmp_path / "replica", "--output", tmp_path / "backup.jsonl")
    for options in ((), ("--store", "agent_sessions", "--store", "chat_history", "--store", "artifacts")):
        restored = tmp_path / f"restored-{len(options)}"
        back = run("journal", "import", restored, tmp_path / "backup.jsonl", "--json", *options)
        again = imported(writer.projects, "--to", restored)

        assert 9 == json.loads(back.stdout)["stores"]["agent_sessions"]["imported"]
        assert (9, 0, 0, 0) == tuple(again[name] for name in ("lines", "new_lines", "messages", "artifacts"))
        assert "Find the fault" in run("chat", "list", restored).stdout


# -- watch --------------------------------------------------------------------------------------------------
@contextmanager
def watching(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("watch", "claude-code", *arguments, "--interval", "0.05"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} not in {lines}")


def test_watching_follows_and_goes_on_after_a_restart(writer: TranscriptWriter, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    with watching(writer.projects, "--to", replica) as process:
        lines_until(process, "9 lines")
        writer.say("while watched")
        lines_until(process, "10 lines")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (0, "") == (process.returncode, err)
    assert out.splitlines()[-1] == "stopped: 10 lines, 6 messages, 1 artifact imported"

    writer.say("while nobody watched")
    with watching(writer.projects, "--to", replica) as process:
        lines_until(process, "1 line,")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert 0 == process.returncode
    assert 7 == len(run("chat", "show", replica, "--last", "--json").stdout.splitlines())


def test_a_killed_watcher_loses_and_doubles_nothing(writer: TranscriptWriter, tmp_path: Path) -> None:
    replica = tmp_path / "replica"
    for _ in range(400):
        writer.say("x" * 2000)
    for wait in (0.6, 0.9):
        with watching(writer.projects, "--to", replica) as process:
            time.sleep(wait)
            process.kill()
    done = imported(writer.projects, "--to", replica)
    shown = [
        json.loads(line)["message"]["uuid"]
        for line in run("chat", "show", replica, "--last", "--json").stdout.splitlines()
    ]

    assert 409 == done["lines"]
    assert 405 == len(shown) == len(set(shown))
    assert run("journal", "verify", replica).stdout.endswith("good\n")


async def test_what_is_watched_reaches_another_replica_through_a_server(
    writer: TranscriptWriter, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    secret = Identity.load_or_create(one / "identity").encode_string()
    assert secret == Identity.load_or_create(one / "identity").encode_string()
    other.mkdir(mode=0o700)
    (other / "identity").write_bytes((one / "identity").read_bytes())
    (other / "identity").chmod(0o600)
    elsewhere = TranscriptWriter(tmp_path / "elsewhere", session=SESSION.replace("5", "6"))
    elsewhere.prompt("from the other side")
    async with MemoryServerStorage() as storage, SyncServer(storage, auth=None, port=0) as server:

        def both() -> None:
            with (
                watching(writer.projects, "--to", one, "--sync", server.websocket_url) as first,
                watching(elsewhere.projects, "--to", other, "--sync", server.websocket_url) as second,
            ):
                lines_until(first, "9 lines")
                until(lambda: len(sessions(one)) == len(sessions(other)) == 2)
                until(lambda: messages(other) == 5)
                for process in (first, second):
                    process.send_signal(signal.SIGINT)
                    _, err = process.communicate(timeout=20)
                    assert (0, "") == (process.returncode, err)

        await asyncio.to_thread(both)
    (found,) = [session for session in sessions(other) if session["session_id"] == SESSION]

    assert ("Find the fault", "/home/me/app", "main") == (found["title"], found["project"], found["branch"])


def sessions(replica: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("chat", "list", replica, "--json").stdout.splitlines()]


def messages(replica: Path) -> int:
    return int(sum(one["messages"] for one in sessions(replica) if one["session_id"] == SESSION))


def until(is_so: Any) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- with the real command ----------------------------------------------------------------------------------
def remembering(request: ApiRequest) -> Answer:
    if request.prompt.endswith("hide it"):
        return "hidden"
    if "delegate" in request.prompt and not request.tool_results:
        arguments = {"description": "hides", "prompt": "hide it", "subagent_type": "hider"}
        return use_tool("Agent", {**arguments, "run_in_background": False})
    if "list" in request.prompt and not request.tool_results:
        return use_tool("Bash", {"command": "echo listed", "description": "lists"}, tool_use_id="toolu_listed")
    return f"I remember {'swordfish' if 'swordfish' in json.dumps(request.messages) else 'nothing'}"


@pytest.fixture
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with only_own_environment(tmp_path, monkeypatch):
        yield


@needs_claude
@pytest.mark.timeout(90)
@pytest.mark.usefixtures("own_environment")
async def test_what_the_real_command_wrote_is_imported_and_goes_on_from_the_replica(tmp_path: Path) -> None:
    hider = {"hider": {"description": "Hides.", "prompt": "You hide.", "tools": ["Bash"]}}
    options: dict[str, Any] = {"allowed_tools": ["Agent", "Bash"], "agents": hider}
    replica = tmp_path / "replica"
    async with (
        claude_world(tmp_path, remembering, name="one") as one,
        claude_world(tmp_path, remembering, name="other") as other,
    ):
        begun = await one.ask("the password is swordfish; delegate", **options)
        session = begun[-1].session_id
        await one.ask("list", resume=session, **options)
        found = await asyncio.to_thread(imported, one.home / ".claude", "--to", replica)
        identity = Identity.load_or_create(replica / "identity")
        async with (
            SQLiteJournal(replica) as journal,
            AgentSessionStore(journal, identity) as kept,
            ChatHistoryStore(journal, identity) as chat,
            ArtifactStore(journal, identity) as artifacts,
        ):
            history = await chat.list(session)
            listed = await artifacts.get("toolu_listed", session)
            other.sessions = kept
            resumed = await other.ask("what do you remember?", resume=session, **options)
            went_on = await kept.project_of("", session)
            lines = await kept.load({"project_key": went_on, "session_id": session})

    assert [] == found["broken"] == found["unreadable"]
    assert (2, 1) == (found["files"], found["sessions"])
    assert "I remember swordfish" == resumed[-1].text
    assert session == resumed[-1].session_id
    assert listed is not None
    assert ("Bash", "listed") == (listed.tool_name, json.loads(listed.data)["stdout"])
    live = {
        message.uuid for message in begun if message.type in ("user", "assistant") and not message.parent_tool_use_id
    }
    assert live <= {event.message["uuid"] for event in history}
    assert any(event.message["parent_tool_use_id"] for event in history)
    assert "what do you remember?" in json.dumps(lines)
    assert "swordfish" in json.dumps(lines)


@needs_claude
@pytest.mark.timeout(90)
@pytest.mark.usefixtures("own_environment")
async def test_what_the_real_command_said_to_a_recorder_is_not_imported_again(tmp_path: Path) -> None:
    async with (
        claude_world(tmp_path, remembering) as world,
        open_transcript_stores(tmp_path / "replica") as stores,
    ):
        sessions, chat, artifacts = cast("tuple[Any, Any, Any]", (stores.sessions, stores.chat, stores.artifacts))
        world.sessions = sessions
        async with (
            QuerySupervisor() as supervisor,
            AgentRuntime(world.backend(), supervisor, chat_history=chat, artifacts=artifacts) as runtime,
            runtime.query("list", allowed_tools=["Bash"]) as turn,
        ):
            async for _ in turn:
                pass
        recorded = await chat.list(turn.session_id)
        (file,) = find_transcripts(world.home / ".claude")
        report = await TranscriptImporter(stores).take(file)
        kept = await chat.list(turn.session_id)
        lines = await sessions.load(
            {"project_key": file.transcript.project, "session_id": turn.session_id, "subpath": ""}
        )

    assert lines is not None
    assert len(recorded) >= 5
    assert recorded == kept
    assert (0, 0, []) == (report.messages, report.artifacts, report.broken)
    told = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert sorted(json.dumps(one, sort_keys=True) for one in told) == sorted(
        json.dumps(one, sort_keys=True) for one in lines
    )
