"""What a user can get wrong, and what can go wrong under the runtime: one clear error each; what is recorded stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import (
    AgentLayersError,
    IdentityError,
    LayerError,
    QueryTimeoutError,
    ScriptError,
    StorageCorruptionError,
    StorageUnavailableError,
    UsageError,
)
from agentlayers.runtime import (
    AgentRuntime,
    ClaudeBackend,
    Delay,
    QuerySupervisor,
    RuntimeSettings,
    Say,
    Script,
    ScriptedBackend,
    Turn,
)
from agentlayers.runtime.claude_errors import ClaudeCommandNotFoundError, ClaudeExitError, ClaudeLoginError
from agentlayers.runtime.presets import load_preset
from agentlayers.testing.messages_api import say, use_tool
from helpers.claude_world import ClaudeWorld, children, claude_world, needs_claude, own_environment, until_file
from helpers.small_disk import SmallDisk, mounted
from unit.runtime.conftest import Stores, stores

__all__ = ["own_environment", "stores"]

pytestmark = pytest.mark.timeout(40)


def runtime_of(backend: Any, stores: Stores, **settings: Any) -> AgentRuntime:
    return AgentRuntime(
        backend,
        QuerySupervisor(),
        settings=RuntimeSettings(**settings),
        chat_history=stores.chat,
        audit_log=stores.audit,
    )


TALK = Script([Turn([Say("one"), Say("two")], repeat=True)])


# -- what is asked ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "options", "text"),
    [
        (7, {}, "a prompt is a text, an async iterable of user messages, or None, but not int"),
        (b"hi", {}, "but not bytes"),
        ("", {}, "the prompt is an empty text"),
        ("hi", {"sesion_id": "s"}, "unknown query option 'sesion_id'; did you mean 'session_id'?"),
        ("hi", {"max_turns": 0}, "max_turns must be a whole number from 1, got 0"),
        ("hi", {"permission_mode": "all"}, "permission_mode 'all' is unknown; it is one of default, acceptEdits"),
        ("hi", {"allowed_tools": "Bash"}, "allowed_tools must be a list of tool names, got the text 'Bash'"),
        ("hi", {"hooks": {"Stop": "x"}}, "hooks['Stop']: expected a list of HookMatcher, got str"),
        ("hi", {"cwd": "/no/such/directory"}, "cwd '/no/such/directory' is no directory; make it first"),
    ],
)
async def test_a_wrong_call_says_what_is_wrong_and_records_nothing(
    stores: Stores, prompt: Any, options: dict[str, Any], text: str
) -> None:
    runtime = runtime_of(ScriptedBackend(TALK), stores)

    with pytest.raises(UsageError) as raised:
        async with runtime.query(prompt, **options):
            pass

    assert text in str(raised.value)
    assert [] == await stores.index.list_ids()
    assert (0, 0) == (runtime.stats.active, runtime.stats.pending)


async def test_a_script_that_cannot_be_read_says_where(stores: Stores, tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("turns:\n  - steps:\n      - sey: hello\n")

    with pytest.raises(ScriptError, match=r"script\.yaml.*3.*say"):
        async with runtime_of(ScriptedBackend(file), stores).query("hi"):
            pass


# -- the agent --------------------------------------------------------------------------------------------
@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ClaudeWorld]:
    async with claude_world(tmp_path) as made:
        yield made


Break = Callable[[ClaudeWorld], Awaitable[None]]


async def nothing(world: ClaudeWorld) -> None: ...


async def kill_the_agent(world: ClaudeWorld) -> None:
    await until_file(world.directory / "begun")
    os.kill(min(agents()), signal.SIGKILL)


def agents() -> list[int]:
    return [pid for pid in children() if b"AGENTLAYERS_QUERY=" in Path(f"/proc/{pid}/environ").read_bytes()]


@needs_claude
@pytest.mark.parametrize(
    ("options", "break_it", "kind", "text", "recorded"),
    [
        ({"env": {"ANTHROPIC_API_KEY": ""}}, nothing, ClaudeLoginError, "set ANTHROPIC_API_KEY",
         ["user", "system", "assistant", "result"]),
        ({"cli_path": "/no/such/claude"}, nothing, ClaudeCommandNotFoundError, "there is no claude command to run", []),
        ({"modell": "x"}, nothing, UsageError, "unknown query option 'modell'; did you mean 'model'?", []),
        ({"session_id": "mine"}, nothing, UsageError, "session_id 'mine' is no UUID", []),
        ({"allowed_tools": ["Bash"]}, kill_the_agent, ClaudeExitError, "was killed by SIGKILL",
         ["user", "system", "assistant", "assistant"]),
    ],
    ids=["no API key", "no command", "unknown option", "no UUID", "killed"],
)  # fmt: skip
async def test_what_is_wrong_with_the_claude_command_is_said_and_what_it_said_stays(
    world: ClaudeWorld,
    stores: Stores,
    options: dict[str, Any],
    break_it: Break,
    kind: type[AgentLayersError],
    text: str,
    recorded: list[str],
) -> None:
    world.api.play([[say("I begin."), use_tool("Bash", {"command": "touch begun; while :; do sleep 0.1; done"})]])
    runtime = runtime_of(world.backend(), stores)

    async def ask() -> None:
        async with runtime.query("go", **options) as turn:
            await break_it(world)
            await turn.collect()

    with pytest.raises(kind) as raised:
        await ask()

    assert text in str(raised.value)
    sessions = await stores.index.list_ids()
    kept = [event.message["type"] for session in sessions for event in await stores.chat.list(session)]
    assert recorded == [kind for kind in kept if kind != "rate_limit_event"]
    assert 0 == runtime.stats.active


async def test_without_the_extra_the_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlayers.runtime.claude_sdk.find_spec", lambda name: None)

    with pytest.raises(AgentLayersError, match=r"pip install 'agentlayers\[claude\]'"):
        ClaudeBackend()


async def test_an_agent_that_is_too_slow_is_said_and_what_it_said_stays(stores: Stores) -> None:
    runtime = runtime_of(ScriptedBackend(Script([Turn([Say("one"), Delay(9)])])), stores, query_timeout=0.1)

    with pytest.raises(QueryTimeoutError, match=r"no end of the query within 0\.1 s"):
        async with runtime.query("go", session_id="s") as turn:
            await turn.collect()

    assert ["user", "system", "assistant", "result"] == [event.message["type"] for event in await stores.chat.list("s")]


# -- the disk ---------------------------------------------------------------------------------------------
def app_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(directory))
    return load_preset("local")


def a_file_in_the_way(directory: Path) -> None:
    directory.parent.mkdir()
    directory.write_text("no directory")


def garbage(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "journal.sqlite").write_bytes(b"no database" * 1000)


def an_empty_identity(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "identity").touch()


@pytest.mark.parametrize(
    ("break_it", "kind", "text"),
    [
        (a_file_in_the_way, (IdentityError, StorageUnavailableError), "Not a directory"),
        (garbage, StorageCorruptionError, "no SQLite database"),
        (an_empty_identity, IdentityError, "identity"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_replica_directory_that_cannot_be_used_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[Path], None], kind: Any, text: str
) -> None:
    directory = tmp_path / "base" / "replica"
    break_it(directory)

    with pytest.raises(LayerError, match=text) as raised:
        async with app_in(directory, monkeypatch).build(AgentRuntime):
            pass

    assert isinstance(raised.value.__cause__, kind)
    assert str(directory) in str(raised.value)


async def test_a_read_only_replica_directory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "small", size="8m") as disk:
        app = app_in(disk.path / "replica", monkeypatch)
        async with app.build(AgentRuntime) as runtime, runtime.query("hello", session_id="s") as turn:
            await turn.collect()
        disk.change("ro")
        with pytest.raises(LayerError) as raised:
            async with app.build(AgentRuntime):
                pass
        disk.change("rw")
        async with app.build(AgentRuntime) as runtime:
            assert runtime.chat_history is not None
            kept = len(await runtime.chat_history.list("s"))

    assert isinstance(raised.value.__cause__, StorageUnavailableError | IdentityError)
    assert "writable" in str(raised.value)
    assert 4 == kept


def fill(disk: SmallDisk) -> Path:
    ballast = disk.path / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


LONG = Script([Turn([Say("begun"), Delay(0.3), *(Say(f"{number} {'x' * 20_000}") for number in range(200))])])
"""More than the disk holds; the pause is for the test to fill the disk in."""


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "default"])
async def test_a_full_disk_is_said_and_what_was_recorded_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    with mounted(tmp_path / "small", size="16m") as disk:
        app = app_in(disk.path / "replica", monkeypatch)
        settings = RuntimeSettings(record_strict=strict, record_wait_seconds=0.01)
        read = 0
        async with app.build(AgentRuntime) as local:
            backend = ScriptedBackend(LONG, directory=tmp_path)
            runtime = AgentRuntime(backend, QuerySupervisor(), settings=settings, chat_history=local.chat_history)
            async with runtime.query("go", session_id="s") as turn:
                async for message in turn:
                    read += 1
                    if message.text == "begun":
                        ballast = await asyncio.to_thread(fill, disk)
                        break
                if strict:
                    with pytest.raises(StorageUnavailableError, match="the disk is full; make room and try again"):
                        read += len(await turn.collect())
                    ballast.unlink()
                else:
                    # The conversation goes on, and says that it is not recorded.
                    read += len([await anext(turn) for _ in range(150)])
                    assert turn.status.recording_behind
                    assert "the disk is full; make room" in turn.status.recording_error
                    # When there is room again, nothing is missing.
                    ballast.unlink()
                    read += len(await turn.collect())
        async with app.build(AgentRuntime) as again:
            assert again.chat_history is not None
            kept = [event.message for event in await again.chat_history.list("s", limit=1000)]

    assert ["user", "system", "assistant"] == [message["type"] for message in kept[:3]]
    if not strict:
        assert (0, read + 1, 203) == (turn.status.recording_lost, len(kept), read)
