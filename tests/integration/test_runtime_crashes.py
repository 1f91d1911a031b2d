"""A process that records conversations is killed at a random moment: what its caller was given is there."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path

import pytest

import agentlayers
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.verify import verify

TESTS = Path(__file__).parents[1]


async def given_until_killed(directory: Path, mode: str, after_messages: int, pause: float) -> list[list[str]]:
    """Run the program, kill it, and return what it told: session, message, whether it was recorded."""
    path = os.pathsep.join([str(TESTS), str(Path(agentlayers.__file__).parents[1])])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "helpers.runtime_crash", str(directory), mode,
        env={**os.environ, "PYTHONPATH": path}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = [await asyncio.wait_for(process.stdout.readline(), 30) for _ in range(after_messages)]
        await asyncio.sleep(pause)
    finally:
        process.kill()
        rest = await process.stdout.read()
        await process.wait()
    lines = b"".join(told) + rest[: rest.rfind(b"\n") + 1]
    return [line.split() for line in lines.decode().splitlines()]


@pytest.mark.parametrize("mode", ["default", "strict"])
async def test_what_the_caller_was_given_survives_a_kill(tmp_path: Path, mode: str) -> None:
    chance = random.Random(f"crashes of {mode}")
    given: list[list[str]] = []
    for pause in (0.0, 0.0, 0.0, chance.random() / 50):
        # At once after a message is the moment at which one that was yielded too early would be lost.
        given += await given_until_killed(tmp_path, mode, chance.randrange(1, 120), pause)

    identity = Identity.load(tmp_path / "identity")
    async with (
        SQLiteJournal(tmp_path) as journal,
        ChatHistoryStore(journal, identity) as chat,
        ArtifactStore(journal, identity) as artifacts,
        AuditEventStore(journal, identity),
    ):
        sessions = {session for session, _, _ in given}
        kept = {session: [event.message for event in await chat.list(session, limit=100)] for session in sessions}
        files = {session: len(await artifacts.list(session)) for session in sessions}

    recorded = {(session, message["uuid"]) for session, messages in kept.items() for message in messages}
    assert [] == [
        (session, uuid) for session, uuid, state in given if state == "recorded" and (session, uuid) not in recorded
    ]
    assert sum(state == "recorded" for _, _, state in given) > 3
    for session, messages in kept.items():
        # No gap: each is kept up to the moment of the kill, once, in order, beginning with the prompt.
        kinds = ["user", "system", "assistant", "assistant", "user", "assistant", "result"]
        assert kinds[: len(messages)] == [message["type"] for message in messages]
        assert files[session] <= 1
    report = verify(tmp_path, now_ms=time.time_ns() // 1_000_000)
    assert report.is_good, report.findings
