"""A journal, or single stores, in a key-value store: three spellings, one graph, and no file nobody asked for."""
# ruff: noqa: ASYNC240

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers

from agentlayers.errors import LayerError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.key_value import (
    KeyValueCapabilities,
    KeyValueStore,
    MemoryKeyValueStore,
)
from agentlayers.layer import graph_of, to_yaml
from agentlayers.layer.errors import ServiceNotFoundError
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.presets import load_preset
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.own_journal import own_key_value_journal
from agentlayers.storage.session_index import SessionIndexStore
from helpers import redis_server


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep each app's files in a directory of its own."""
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "storage"))
    return tmp_path / "storage"


def as_layers() -> Any:
    return AgentRuntimeContainer.layer(
        audit_log=AuditEventStore.layer_key_value(), session_index=SessionIndexStore.layer_key_value()
    ).provide(EventJournal.layer_key_value(), KeyValueStore.layer_memory())


class App(AgentRuntimeContainer):
    """The same as a declarative container."""

    key_value_store = providers.Resource(MemoryKeyValueStore)
    journal = providers.Resource(KeyValueJournal)
    audit_log = providers.Resource(
        AuditEventStore,
        journal=providers.Resource(own_key_value_journal, store="audit_log"),
        identity=providers.Singleton(Identity.generate),
        sync=None,
    )
    session_index = providers.Resource(
        SessionIndexStore, journal=providers.Resource(own_key_value_journal, store="session_index")
    )


YAML = """
extends: local
key_value_store: memory
journal: key_value
audit_log: key_value
session_index: key_value
sync: default
"""

SPELLINGS: dict[str, Any] = {"layers": as_layers, "container": lambda: App, "yaml": lambda: load_preset(YAML)}


@pytest.mark.parametrize("name", ["container", "yaml"])
def test_every_spelling_gives_the_same_graph(name: str) -> None:
    assert graph_of(as_layers()).difference(graph_of(SPELLINGS[name]())) == ""


def test_yaml_written_from_the_container_gives_the_same_graph_again() -> None:
    assert graph_of(App).difference(graph_of(load_preset(to_yaml(App)))) == ""
    assert graph_of(AgentRuntimeContainer).difference(graph_of(load_preset(to_yaml(AgentRuntimeContainer)))) == ""


@pytest.mark.parametrize("name", list(SPELLINGS))
async def test_every_spelling_builds_and_answers(name: str, directory: Path) -> None:
    async with SPELLINGS[name]().build() as app:
        runtime: AgentRuntime = app.get(AgentRuntime)
        async with runtime.query("hello", session_id="s") as turn:
            await turn.collect()
        assert runtime.chat_history is not None
        assert len(await runtime.chat_history.list("s")) == 4
        assert runtime.session_index is not None
        assert await runtime.session_index.list_ids() == ["s"]
        kept = [pair[0].split(b"\0")[1] async for page in app.get(KeyValueStore).scan() for pair in page]

    assert set(kept) == {b"journal", b"stores/audit_log", b"stores/session_index"}
    assert {path.name for path in directory.iterdir()} == {"identity"}


MEDIA = {
    "sqlite": {"key_value.sqlite"},
    "filesystem": {"key_value"},
    "{filesystem: {directory: elsewhere}}": set[str](),
    "memory": set[str](),
}


@pytest.mark.parametrize("medium", list(MEDIA))
async def test_every_medium_has_a_name(medium: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    container = load_preset(f"extends: local\nkey_value_store: {medium}\njournal: key_value\n")
    for _ in range(2):
        async with container.build(AgentRuntime) as runtime, runtime.query("hello", session_id="s") as turn:
            await turn.collect()
            assert runtime.chat_history is not None
            found = len(await runtime.chat_history.list("s"))

    assert {path.name for path in directory.iterdir()} == {"identity"} | MEDIA[medium]
    assert found == (4 if medium == "memory" else 8)


async def test_redis_is_a_medium_and_its_password_is_not_shown() -> None:
    with redis_server.running() as server:
        redis = f"{{redis: {{url: '{server.url}', namespace: app}}}}"
        container = load_preset(f"extends: memory\nkey_value_store: {redis}\njournal: key_value\n")
        async with container.build(ChatHistoryStore) as chat:
            await chat.append("s", {"type": "user"})
        async with container.build(ChatHistoryStore) as chat:
            assert len(await chat.list("s")) == 1

    secret = load_preset("extends: memory\nkey_value_store: {redis: {url: 'redis://h:1', password: hunter2}}\n")
    assert "hunter2" not in graph_of(secret).to_text()


async def test_a_store_nobody_uses_is_never_opened(directory: Path) -> None:
    async with AgentRuntimeContainer.build() as app:
        assert app.get(ChatHistoryStore).is_enabled
        with pytest.raises(ServiceNotFoundError, match="was not started"):
            app.get(KeyValueStore)

    assert not (directory / "key_value.sqlite").exists()
    async with AgentRuntimeContainer.build(KeyValueStore) as store:
        await store.put(b"mine", b"1")
    assert (directory / "key_value.sqlite").exists()


class WeakStore(MemoryKeyValueStore):
    """A medium that a journal cannot use, and that says so."""

    capabilities = KeyValueCapabilities(
        ordered_scans=True, atomic_batches=True, conditional_batches=False, durable=False, shared_between_processes=True
    )


async def test_a_medium_that_cannot_hold_a_journal_is_refused_when_the_graph_is_built(directory: Path) -> None:
    class Weak(AgentRuntimeContainer):
        key_value_store = providers.Resource(WeakStore)
        journal = providers.Resource(KeyValueJournal)

    with pytest.raises(LayerError, match=r"a journal cannot be kept in .* no conditional batches; choose another"):
        async with Weak.build(AgentRuntime):
            pass
    assert not list(directory.glob("*.sqlite"))
