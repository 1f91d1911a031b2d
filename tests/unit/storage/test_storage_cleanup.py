"""Cleanup runs when the settings say so, and one store's failure does not spare the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agentlayers.errors import StorageUnavailableError
from agentlayers.journal.compaction import CompactionReport
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.storage_config import StorageConfig
from helpers.store_replica import Replica, open_replica

NOTHING_KEPT = {
    "chat": {"max_age": 0},
    "artifacts": {"max_artifacts": 0},
    "audit": {"max_entries": 0},
}


def settings(**cleanup: object) -> StorageConfig:
    return StorageConfig.from_mapping({"retention": NOTHING_KEPT, "cleanup": cleanup})


def cleanup_of(replica: Replica, config: StorageConfig) -> StorageCleanup:
    return StorageCleanup(
        chat_history=replica.chat,
        artifacts=replica.artifacts,
        audit_log=replica.audit,
        storage_config=config,
    )


async def chat_entries(replica: Replica) -> int:
    return len(await replica.journal.entries("chat_history"))


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_run_cleans_every_store() -> None:
    config = settings()
    async with open_replica(config=config) as replica:
        await replica.chat.append("s", {"old": True})
        await replica.audit.hook_event(hook="Stop", outcome="success")
        report = await cleanup_of(replica, config).run()

        assert await chat_entries(replica) == 0
        assert report.stores["chat_history"].dropped == 1
        # The entry written above, and the two that said what chat and audit dropped.
        assert report.stores["audit_log"].dropped == 2
        assert report.dropped == 3
        assert report.failures == {}


async def test_quirk_nothing_is_cleaned_at_start_unless_the_settings_say_so() -> None:
    """The reference's timer fires at once, whatever run_on_start says."""
    config = settings(interval="1 hour")
    async with open_replica(config=config) as replica:
        await replica.chat.append("s", {"old": True})
        async with cleanup_of(replica, config):
            for _turn in range(20):
                await asyncio.sleep(0)
            during = await chat_entries(replica)

        assert during == 1


async def test_quirk_running_at_start_cleans_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference cleans twice."""
    config = settings(interval="1 hour", run_on_start=True)
    runs = 0
    original = StorageCleanup.run

    async def counting(self: StorageCleanup) -> object:
        nonlocal runs
        runs += 1
        return await original(self)

    monkeypatch.setattr(StorageCleanup, "run", counting)
    async with open_replica(config=config) as replica:
        await replica.chat.append("s", {"old": True})
        async with cleanup_of(replica, config):
            at_start = await chat_entries(replica)
            for _turn in range(20):
                await asyncio.sleep(0)

        assert at_start == 0
        assert runs == 1


async def test_cleanup_is_repeated_at_the_interval() -> None:
    config = settings(interval="10 millis")
    async with open_replica(config=config) as replica, cleanup_of(replica, config):
        for _time in range(2):
            await replica.chat.append("s", {"old": True})

            async def is_clean() -> bool:
                return await chat_entries(replica) == 0

            await eventually(is_clean)


@pytest.mark.parametrize("cleanup", [{"enabled": False, "run_on_start": True}, {"interval": 0}])
async def test_cleanup_that_is_switched_off_never_runs(cleanup: dict[str, object]) -> None:
    config = settings(**{"interval": "1 millis", **cleanup})
    async with open_replica(config=config) as replica:
        await replica.chat.append("s", {"old": True})
        async with cleanup_of(replica, config):
            await asyncio.sleep(0.02)

        assert await chat_entries(replica) == 1


async def test_a_store_that_fails_is_reported_and_the_others_are_cleaned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings()
    async with open_replica(config=config) as replica:
        await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="x"))
        await replica.audit.hook_event(hook="Stop", outcome="success")

        async def fail() -> CompactionReport | None:
            raise StorageUnavailableError(backend="sqlite", operation="write", reason="disk full")

        monkeypatch.setattr(replica.chat, "cleanup", fail)
        report = await cleanup_of(replica, config).run()

        assert "disk full" in report.failures["chat_history"]
        assert report.stores["audit_log"].dropped >= 1


async def test_a_store_that_is_switched_off_is_left_alone() -> None:
    async with open_replica() as replica:
        await replica.chat.append("s", {"old": True})
        journal = replica.journal
    config = StorageConfig.from_mapping({"retention": NOTHING_KEPT, "enabled": {"chat_history": False}})
    async with open_replica(journal, config=config) as replica:
        await cleanup_of(replica, config).run()

        assert await chat_entries(replica) == 1
