"""A conversation begun on one machine is resumed on another: two processes, two journals, two directories."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import agentlayers
from agentlayers.eventlog.identity import Identity
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.testing.messages_api import Answer, ApiRequest, use_tool
from helpers.claude_replica import converse
from helpers.claude_world import claude_world, needs_claude, own_environment

__all__ = ["own_environment"]

pytestmark = [needs_claude, pytest.mark.timeout(60)]

TESTS = Path(__file__).parents[1]


def remembering(request: ApiRequest) -> Answer:
    """Answer with what the conversation told before, so that only a resumed one can know it."""
    if request.prompt.endswith("hide it"):
        return "hidden"
    if "delegate" in request.prompt and not request.tool_results:
        arguments = {"description": "hides", "prompt": "hide it", "subagent_type": "hider"}
        return use_tool("Agent", {**arguments, "run_in_background": False})
    whole = json.dumps(request.messages)
    words = [word for word in ("swordfish", "marlin") if word in whole]
    return f"I remember {' and '.join(words) or 'nothing'}"


async def run(job: dict[str, Any]) -> dict[str, Any]:
    path = os.pathsep.join([str(TESTS), str(Path(agentlayers.__file__).parents[1])])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "helpers.claude_replica", json.dumps(job),
        env={**os.environ, "PYTHONPATH": path}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), 25)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert 0 == process.returncode, err.decode()
    found: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return found


async def test_a_conversation_goes_on_with_another_replica_in_another_process_and_directory(tmp_path: Path) -> None:
    identity = Identity.generate().encode_string()
    hider = {"hider": {"description": "Hides.", "prompt": "You hide.", "tools": ["Bash"]}}
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, auth=None, port=0) as server,
        claude_world(tmp_path, remembering, name="one") as one,
        claude_world(tmp_path, remembering, name="other") as other,
    ):

        def job(world: Any, prompt: str, **options: Any) -> dict[str, Any]:
            return {
                "server": server.websocket_url,
                "identity": identity,
                "journal": str(world.home / "journal"),
                "cwd": str(world.directory),
                "env": world.env,
                "prompt": prompt,
                "options": options,
            }

        begun = await converse(job(one, "the password is swordfish; delegate", agents=hider))
        resumed = await run(job(other, "and marlin; what do you remember?", resume=begun["session"]))
        back = await converse(job(one, "what do you remember?", resume=begun["session"]))

        unresumed = [str(path) for path in other.home.rglob(f"{begun['session']}*")]

    assert begun["session"] == resumed["session"] == back["session"]
    assert "I remember swordfish and marlin" == resumed["answer"]
    assert "I remember swordfish and marlin" == back["answer"]
    assert 1 == len(begun["subagents"])
    assert begun["subagents"] == resumed["subagents"]
    assert [] == unresumed  # it came by the server, not by files
