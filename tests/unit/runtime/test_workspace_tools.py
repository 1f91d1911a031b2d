"""Tools that really run: files inside one directory, commands with bounds."""
# ruff: noqa: ASYNC240, ASYNC110

import asyncio
import gc
import os
import time
from pathlib import Path

import pytest

from agentlayers.errors import ToolError
from agentlayers.runtime.tools import Workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "work"


async def test_a_file_is_written_listed_and_read_back(root: Path) -> None:
    workspace = Workspace(root)

    written = await workspace.call("write_file", {"path": "a/b.txt", "content": "für\n"})
    listed = await workspace.call("list_files", {})
    read = await workspace.call("read_file", {"path": "a/b.txt"})

    assert "für\n".encode() == (root / "a" / "b.txt").read_bytes()
    assert ("created a/b.txt (5 bytes)", False) == (written.content, written.is_error)
    assert ("a/b.txt", "für\n") == (listed.content, read.content)


async def test_an_empty_directory_lists_no_files(root: Path) -> None:
    assert "(no files)" == (await Workspace(root).call("list_files", {})).content


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/passwd", "a/../../outside.txt", "link/outside.txt", ""])
async def test_no_path_leads_out(root: Path, tmp_path: Path, path: str) -> None:
    root.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (root / "link").symlink_to(tmp_path)
    workspace = Workspace(root)

    read = await workspace.call("read_file", {"path": path})
    written = await workspace.call("write_file", {"path": path, "content": "x"})

    assert read.is_error
    assert written.is_error
    assert "secret" == (tmp_path / "outside.txt").read_text()
    with pytest.raises(ToolError):
        workspace.resolve(path)


async def test_failures_are_told_not_raised(root: Path) -> None:
    workspace = Workspace(root)

    for name, arguments in (
        ("read_file", {"path": "missing.txt"}),
        ("read_file", {}),
        ("write_file", {"path": "x", "content": 7}),
        ("list_files", {"path": "missing"}),
        ("run_command", {"command": []}),
        ("run_command", {"command": ["no-such-command-here"]}),
        ("run_command", {"command": "true", "timeout": "soon"}),
        ("fly", {}),
    ):
        outcome = await workspace.call(name, arguments)

        assert outcome.is_error, name
        assert outcome.content
        assert isinstance(outcome.structured, str)


async def test_a_command_runs_in_the_directory_with_its_output_and_exit_status(root: Path) -> None:
    workspace = Workspace(root, env={"GREETING": "hello"})

    good = await workspace.call("run_command", {"command": "pwd; echo $GREETING; echo warn >&2"})
    bad = await workspace.call("run_command", {"command": ["sh", "-c", "echo no; exit 3"]})

    assert f"{root.resolve()}\nhello\nwarn" == good.content
    assert {
        "stdout": f"{root.resolve()}\nhello\n",
        "stderr": "warn\n",
        "interrupted": False,
        "exitCode": 0,
    } == (good.structured)
    assert (True, "exit status 3\nno") == (bad.is_error, bad.content)


async def test_a_command_sees_none_of_our_secrets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_TOKEN", "secret-token")

    outcome = await Workspace(root).call("run_command", {"command": "env"})

    assert "secret-token" not in outcome.content
    assert f"HOME={root}" in outcome.content


async def test_output_is_bounded_and_a_chatty_command_still_ends(root: Path) -> None:
    workspace = Workspace(root, output_bytes_max=100)

    outcome = await workspace.call("run_command", {"command": "head -c 500000 /dev/zero | tr '\\0' x"})

    assert f"{'x' * 100}\n[cut at 100 bytes]" == outcome.content
    assert not outcome.is_error


async def test_a_large_file_is_cut(root: Path) -> None:
    root.mkdir()
    (root / "big").write_text("y" * 1000)

    outcome = await Workspace(root, output_bytes_max=10).call("read_file", {"path": "big"})

    assert "yyyyyyyyyy\n[cut at 10 bytes]" == outcome.content


async def test_a_timeout_kills_the_command_and_what_it_started(root: Path) -> None:
    workspace = Workspace(root)

    outcome = await workspace.call(
        "run_command", {"command": "sleep 60 & echo $! > child; echo begun; wait", "timeout": 0.5}
    )

    assert outcome.is_error
    assert outcome.content.startswith("no end within 0.5 s; the command was killed")
    assert "begun" in outcome.content
    assert await _is_gone(int((root / "child").read_text()))


async def test_cancelling_kills_the_command(root: Path) -> None:
    workspace = Workspace(root)
    call = asyncio.create_task(workspace.call("run_command", {"command": "echo $$ > pid; sleep 60"}))
    async with asyncio.timeout(20):
        while not (root / "pid").exists() or not (root / "pid").read_text():
            await asyncio.sleep(0.01)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert await _is_gone(int((root / "pid").read_text()))


@pytest.mark.parametrize("cancellations", [1, 2])
def test_cancelling_at_any_step_leaves_nothing_behind(root: Path, cancellations: int) -> None:
    async def tasks_after(steps: int) -> set[str]:
        call = asyncio.create_task(Workspace(root).call("run_command", {"command": "sleep 60"}))
        for _ in range(steps):
            await asyncio.sleep(0)
        for _ in range(cancellations):
            call.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await call
        return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}

    # Each in a loop of its own that ends at once: a transport that is open then is an error of the whole suite.
    for steps in range(1, 25):
        assert set() == asyncio.run(tasks_after(steps))
    gc.collect()


async def _is_gone(pid: int) -> bool:
    """Wait a little for init to reap an orphan; a zombie counts as gone."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        await asyncio.sleep(0.01)
    return False
