"""A second machine begins with nothing but the identity."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

from agentlayers.server import MemoryServerStorage, SyncServer


def agentlayers(*arguments: str) -> str:
    """Run a command."""
    command = [sys.executable, "-m", "agentlayers", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_an_identity_and_a_server_are_enough_for_a_new_replica(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0) as server:
        await asyncio.to_thread(agentlayers, "run", "local", "hello", "--directory", str(first))
        await asyncio.to_thread(agentlayers, "sync", str(first), "--to", server.websocket_url)
        shutil.copy(first / "identity", second)
        said = await asyncio.to_thread(agentlayers, "sync", str(second), "--to", server.websocket_url)
        shown = [await asyncio.to_thread(agentlayers, "chat", "list", str(one)) for one in (first, second)]

    assert "hello" in shown[0]
    assert shown[0] == shown[1]
    assert all(
        int(line.split()[-1]) > 0 for line in said.splitlines() if line.startswith(("audit_log", "chat_history"))
    )
