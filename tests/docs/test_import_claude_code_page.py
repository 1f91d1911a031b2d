"""docs/howto/import-claude-code.md runs as it stands there, one command after the other."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlayers.server import MemoryServerStorage, SyncServer
from helpers.claude_transcripts import SESSION, TranscriptWriter

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "import-claude-code.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    TranscriptWriter(tmp_path / ".claude" / "projects").conversation()
    command = tmp_path / "bin" / "agentlayers"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentlayers "$@"\n')
    command.chmod(0o700)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(tmp_path)}


def run(line: str, tmp_path: Path, environment: dict[str, str]) -> str:
    if "watch" not in line:
        outcome = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        assert outcome.returncode == 0, f"{line}: {outcome.stderr}"
        return outcome.stdout
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {line}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, f"{line}: {first}{rest}"
    return first + rest


async def test_every_command_works(tmp_path: Path, environment: dict[str, str]) -> None:
    async with MemoryServerStorage() as storage, SyncServer(storage, auth=None, port=0) as server:
        outputs = {
            line: await asyncio.to_thread(
                run, line.replace("ws://127.0.0.1:8787", server.websocket_url), tmp_path, environment
            )
            for line in COMMANDS
        }

    assert len(COMMANDS) == 13
    assert "would import 8 lines" in outputs[COMMANDS[0]]
    assert "imported 8 lines" in outputs[COMMANDS[1]]
    assert "imported 0 lines" in outputs[COMMANDS[2]]
    assert "Find the fault" in outputs["agentlayers chat list ./replica"]
    assert "make test" in outputs["agentlayers chat show ./replica 5c047d02 --full"]
    assert "**fault**" in outputs["agentlayers chat search ./replica 'fault pars*'"]
    assert "<!doctype html>" in (tmp_path / "conversation.html").read_text()
    assert SESSION in (tmp_path / "everything.jsonl").read_text()


def test_the_code_works(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", environment["HOME"])
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "import-claude-code.md", "exec"), names)

    assert "4\n" == capsys.readouterr().out
    assert callable(names["go_on"])
