"""A schedule is the same one as a value in Python, as text in YAML, and as text from the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers

from agentlayers.errors import ConnectError
from agentlayers.journal.memory import MemoryJournal
from agentlayers.layer import graph_of, to_yaml
from agentlayers.layer.errors import LayerValidationError
from agentlayers.runtime.agent_runtime import AgentRuntime, open_runtime
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.presets import load_preset
from agentlayers.schedule import exponential, fixed
from agentlayers.sync.service import SyncService
from agentlayers.sync.status import SyncState
from agentlayers.transport.websocket import WebSocketTransport

NOBODY = "ws://127.0.0.1:9/event-log"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the identity where the test may write."""
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path))


class App(AgentRuntimeContainer):
    """Schedules as values."""

    journal = providers.Resource(MemoryJournal)
    transport = providers.Singleton(WebSocketTransport, url=NOBODY)
    sync = providers.Resource(SyncService, schedule=fixed("1h").limited(7))
    runtime = providers.Resource(open_runtime, retry_schedule=exponential("10 ms").jittered().capped("30s"))


class Configured(App):
    """The same, with the text of a configuration."""

    sync = providers.Resource(SyncService, schedule=App.config.schedule)


YAML = """
extends: local
journal: memory
transport: {websocket: {url: "ws://127.0.0.1:9/event-log"}}
sync: {default: {schedule: fixed("1h").limited(7)}}
runtime: {default: {retry_schedule: exponential("10ms").jittered().capped("30s")}}
"""


def test_text_in_yaml_and_values_in_python_give_one_graph() -> None:
    assert "" == graph_of(App).difference(graph_of(load_preset(YAML)))


def test_a_container_with_schedules_is_written_as_yaml_and_read_back() -> None:
    text = to_yaml(App)

    assert "schedule: fixed('3600s').limited(7)\n" in text
    assert "" == graph_of(App).difference(graph_of(load_preset(text)))


def configured() -> Any:
    Configured.config.from_dict({"schedule": "fixed('1 hour').limited(7)"})
    return Configured


@pytest.mark.parametrize("app", [lambda: App, lambda: load_preset(YAML), configured])
async def test_the_service_waits_as_its_schedule_says(app: Callable[[], Any]) -> None:
    try:
        async with asyncio.timeout(30), app().build(SyncService) as sync:
            with pytest.raises(ConnectError):
                await sync.connect()
            async for status in sync.status_stream():
                if status.state is SyncState.WAITING:
                    break
    finally:
        Configured.config.reset_override()

    assert 3600.0 == status.retry_in_seconds


async def test_the_runtime_takes_the_schedule_of_the_environment_over_that_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with load_preset(YAML).build(AgentRuntime) as of_file:
        pass
    monkeypatch.setenv("AGENTLAYERS_RETRY_SCHEDULE", 'fixed("2s").limited(1)')
    async with load_preset(YAML).build(AgentRuntime) as of_environment:
        pass

    assert exponential(0.01).jittered().capped(30) == of_file._settings.retries
    assert fixed(2).limited(1) == of_environment._settings.retries


@pytest.mark.parametrize(
    ("slot", "place"),
    [
        ("sync: {schedule: exponential.jittered()}", "3:18: schedule: 'exponential.jittered()' cannot be used"),
        ("sync:\n  schedule: 30 s", "4:13: schedule: '30 s' cannot be used"),
        ("runtime: {retry_schedule: fixed()}", "3:27: retry_schedule: 'fixed()' cannot be used"),
    ],
)
def test_a_text_that_is_no_schedule_is_told_with_its_line(slot: str, place: str) -> None:
    with pytest.raises(LayerValidationError, match="expected a schedule such as 'exponential") as refused:
        load_preset(f"\nextends: local\n{slot}\n")

    assert f"<text>:{place}" in str(refused.value)
