"""Cleanup runs when the settings say so, and one store's failure does not spare the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentlayers.errors import SettingsError, StorageUnavailableError
from agentlayers.journal.compaction import CompactionReport
from agentlayers.layer import load_layers
from agentlayers.runtime import AgentRuntime, AgentRuntimeContainer
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
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
        report = await cleanup_of(replica, config).run_now()

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
    original = StorageCleanup.run_now

    async def counting(self: StorageCleanup) -> object:
        nonlocal runs
        runs += 1
        return await original(self)

    monkeypatch.setattr(StorageCleanup, "run_now", counting)
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
        report = await cleanup_of(replica, config).run_now()

        assert "disk full" in report.failures["chat_history"]
        assert report.stores["audit_log"].dropped >= 1


async def test_a_store_that_is_switched_off_is_left_alone() -> None:
    async with open_replica() as replica:
        await replica.chat.append("s", {"old": True})
        journal = replica.journal
    config = StorageConfig.from_mapping({"retention": NOTHING_KEPT, "enabled": {"chat_history": False}})
    async with open_replica(journal, config=config) as replica:
        await cleanup_of(replica, config).run_now()

        assert await chat_entries(replica) == 1


class Timer:
    """A clock whose sleepers wake when it is set forward."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self._wake: list[tuple[float, asyncio.Event]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self._wake.append((self.now + seconds, event))
        await event.wait()

    async def forward(self, seconds: float) -> None:
        self.now += seconds
        for at, event in self._wake:
            if at <= self.now:
                event.set()
        self._wake = [one for one in self._wake if not one[1].is_set()]
        for _turn in range(200):
            await asyncio.sleep(0)


async def test_it_runs_an_interval_after_the_start_and_then_after_each_run() -> None:
    """The status says when it ran, what that did, and when it runs next."""
    config, timer = settings(interval="1 hour"), Timer()
    async with open_replica(config=config, clock=timer) as replica:
        await replica.chat.append("s", {"old": True})
        timer.now += 1
        cleanup = StorageCleanup(chat_history=replica.chat, storage_config=config, clock=timer, sleep=timer.sleep)
        closed = cleanup.status()
        async with cleanup:
            await timer.forward(0)
            await timer.forward(3599)
            before = cleanup.status()
            await timer.forward(1)
            after = cleanup.status()
            await timer.forward(3600)
            again = cleanup.status()

        first = datetime.fromtimestamp(1_800_003_601, UTC)
        assert (closed.runs, closed.next_run_at, before.runs, before.last) == (0, None, 0, None)
        assert before.next_run_at == first
        assert after.last is not None
        assert (after.last.started_at, after.last.dropped, after.last.failures) == (first, 1, {})
        assert after.next_run_at == datetime.fromtimestamp(1_800_007_201, UTC)
        assert (again.runs, again.is_running, again.stores) == (2, False, ("chat_history",))
        assert cleanup.status().next_run_at is None


async def test_a_run_that_is_asked_for_follows_the_one_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once would do everything twice."""
    config, may_go_on = settings(), asyncio.Event()
    async with open_replica(config=config) as replica:
        at_once = most_at_once = 0

        async def slow() -> CompactionReport | None:
            nonlocal at_once, most_at_once
            at_once += 1
            most_at_once = max(at_once, most_at_once)
            await may_go_on.wait()
            at_once -= 1
            return None

        monkeypatch.setattr(replica.chat, "cleanup", slow)
        cleanup = StorageCleanup(chat_history=replica.chat, storage_config=config)
        runs = [asyncio.create_task(cleanup.run_now()) for _run in range(2)]
        await asyncio.sleep(0.01)
        is_running = cleanup.status().is_running
        may_go_on.set()
        await asyncio.gather(*runs)

        assert (is_running, most_at_once, cleanup.status().runs) == (True, 1, 2)


async def test_a_strategy_that_is_broken_does_not_end_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(interval="1 millis")
    async with open_replica(config=config) as replica:

        async def fail() -> CompactionReport | None:
            raise ZeroDivisionError("of the user")

        monkeypatch.setattr(replica.chat, "cleanup", fail)
        async with StorageCleanup(chat_history=replica.chat, storage_config=config) as cleanup:

            async def ran_twice() -> bool:
                return cleanup.status().runs >= 2

            await eventually(ran_twice)

        last = cleanup.status().last
        assert last is not None
        assert last.failures == {"chat_history": "ZeroDivisionError: of the user"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("storage_cleanup: scheduled", 3600.0),
        ("storage_cleanup: {scheduled: {interval: 10 minutes}}", 600.0),
        ("storage_cleanup: {scheduled: {enabled: false}}", None),
        ("storage_config: {cleanup: {interval: 1 day}}", 86_400.0),
        ("storage_config: {cleanup: {interval: 1 day}}\nstorage_cleanup: {scheduled: 5 minutes}", 300.0),
    ],
)
async def test_yaml_says_when_it_runs(
    text: str, expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path))
    container = load_layers(text, container=AgentRuntimeContainer)
    async with container.build() as app:
        status = app.get(StorageCleanup).status()
        delay = None if status.next_run_at is None else (status.next_run_at - datetime.now(UTC)).total_seconds()

    assert delay == (None if expected is None else pytest.approx(expected, abs=60))


async def test_yaml_that_names_no_schedule_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path))
    container = load_layers("storage_cleanup: {scheduled: {interval: often}}", container=AgentRuntimeContainer)
    with pytest.raises(Exception, match=r"storage_cleanup\.interval") as raised:
        async with container.build():
            pass
    assert isinstance(raised.value.__cause__ or raised.value, SettingsError)


async def test_the_runtime_uses_the_one_of_its_graph(tmp_path: Path) -> None:
    """One schedule, not two; run_now works whatever it says."""

    class App(AgentRuntimeContainer):
        pass

    config = StorageConfig.from_mapping(
        {"directory": str(tmp_path), "retention": NOTHING_KEPT, "cleanup": {"run_on_start": True, "interval": 0}}
    )
    async with App.layer(
        outputs=(AgentRuntime, StorageCleanup, ChatHistoryStore, AuditEventStore),
        storage_config=StorageConfig.layer_of(config),
    ).build() as app:
        cleanup, chat = app.get(StorageCleanup), app.get(ChatHistoryStore)
        await chat.append("s", {"old": True})
        at_start = cleanup.status().runs
        await cleanup.run_now()

        assert app.get(AgentRuntime).chat_history is chat
        assert (at_start, cleanup.status().runs) == (1, 2)
        assert await chat.list("s") == []
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "storage-cleanup"] == []
