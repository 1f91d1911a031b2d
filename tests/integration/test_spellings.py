"""One app in three spellings: layers as values, a declarative container, and YAML give one graph."""
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers

from agentlayers.errors import LayerError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.compaction import ByAge, Compaction
from agentlayers.journal.conflict_policy import ConflictPolicy, FirstWriteWins, LastWriteWins
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.layer import graph_of, to_yaml
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.backend import AgentBackend
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.presets import load_preset
from agentlayers.runtime.script import Say, Script, Turn
from agentlayers.runtime.scripted import ScriptedBackend
from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.own_journal import own_sqlite_journal
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.sync.service import SyncService
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport

SERVER_URL = "ws://127.0.0.1:9/event-log"
TOKEN = "a-token-for-tests"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep each app's files in a directory of its own."""
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "storage"))
    return tmp_path / "storage"


def as_layers() -> Any:
    """The app as the design writes it, with its stores' sync through one remote of the chat history's own."""
    return AgentRuntime.layer_with_persistence(
        runtime=AgentRuntime.layer_default_from_env(),
        chat_history=ChatHistoryStore.layer_journaled_with_sync_websocket(SERVER_URL),
        artifacts=ArtifactStore.layer_journaled(),
        audit_log=AuditEventStore.layer_filesystem(),
        session_index=SessionIndexStore.layer_filesystem(),
    ).provide(
        ConflictPolicy.layer_last_write_wins(),
        Compaction.layer_by_age("30 days"),
        StorageConfig.layer_from_env(),
    )


class App(AgentRuntimeContainer):
    """The same as a declarative container."""

    conflict_policy = providers.Singleton(LastWriteWins)
    compaction = providers.Singleton(ByAge, max_age="30 days")
    chat_history = providers.Resource(
        ChatHistoryStore,
        sync=providers.Resource(
            SyncService,
            transport=providers.Singleton(WebSocketTransport, url=SERVER_URL, token=None, tenant=None),
            stores={"chat_history": True},
        ),
    )
    audit_log = providers.Resource(
        AuditEventStore,
        journal=providers.Resource(own_sqlite_journal, store="audit_log", directory=None),
        identity=providers.Singleton(Identity.generate),
        sync=None,
    )
    session_index = providers.Resource(
        SessionIndexStore, journal=providers.Resource(own_sqlite_journal, store="session_index", directory=None)
    )


YAML = """
extends: local
conflict_policy: last_write_wins
compaction: {by_age: 30 days}
chat_history: {journaled_with_sync_websocket: {url: "${SYNC_URL}"}}
audit_log: filesystem
session_index: filesystem
sync: default
"""


def as_yaml() -> type[AgentRuntimeContainer]:
    return load_preset(YAML, environment={"SYNC_URL": SERVER_URL})


SPELLINGS: dict[str, Any] = {"layers": as_layers, "container": lambda: App, "yaml": as_yaml}


@pytest.mark.parametrize("name", ["container", "yaml"])
def test_every_spelling_gives_the_same_graph(name: str) -> None:
    assert "" == graph_of(as_layers()).difference(graph_of(SPELLINGS[name]()))


def test_a_difference_shows() -> None:
    class Other(App):
        conflict_policy = providers.Singleton(FirstWriteWins)

    assert "conflict_policy" in graph_of(App).difference(graph_of(Other))


def test_yaml_written_from_the_container_gives_the_same_graph_again() -> None:
    assert "" == graph_of(App).difference(graph_of(load_preset(to_yaml(App))))


@pytest.mark.parametrize("name", list(SPELLINGS))
async def test_every_spelling_builds_and_answers(name: str, directory: Path) -> None:
    async with SPELLINGS[name]().build() as app:
        runtime = app.get(AgentRuntime)
        async with runtime.query("Keep a note of this.", session_id="s") as turn:
            messages = await turn.collect()
        assert "Noted: Keep a note of this." == messages[-1].text
        assert len(messages) + 1 == len(await _chat(runtime).list("s"))
        assert 2 == len(await runtime.artifacts.list("s"))
        assert ["s"] == await runtime.session_index.list_ids()
        assert await runtime.audit_log.entries("s", "tool_use")

    assert {"identity", "journal.sqlite", "audit_log.sqlite", "session_index.sqlite"} <= {
        path.name for path in directory.iterdir()
    }


# -- overriding -----------------------------------------------------------------------------------------
ANSWER = Script([Turn([Say("overridden")], repeat=True)])


@pytest.mark.parametrize("name", list(SPELLINGS))
async def test_a_provider_is_overridden_in_a_test(name: str) -> None:
    target = SPELLINGS[name]()

    async def answer() -> str:
        runtime: AgentRuntime
        async with target.build(AgentRuntime) as runtime, runtime.query("x") as turn:
            messages = await turn.collect()
            return messages[-1].text

    with target.override(agent_backend=ScriptedBackend(ANSWER)):
        inside = await answer()
    outside = await answer()

    assert ("overridden", "You said: x") == (inside, outside)


async def test_an_overridden_journal_is_used_by_every_store(directory: Path) -> None:
    with AgentRuntimeContainer.override({EventJournal: providers.Resource(MemoryJournal)}):
        async with AgentRuntimeContainer.build(AgentRuntime) as runtime, runtime.query("x", session_id="s") as turn:
            await turn.collect()
            assert 4 == len(await _chat(runtime).list("s"))

    assert not (directory / "journal.sqlite").exists()


async def test_the_same_can_be_provided_by_type() -> None:
    layer = as_layers().provide(AgentBackend.layer_scripted(ANSWER))

    async with layer.build(AgentRuntime) as runtime, runtime.query("x") as turn:
        assert "overridden" == (await turn.collect())[-1].text


# -- transports -----------------------------------------------------------------------------------------
async def test_the_transport_may_come_from_the_configuration() -> None:
    class Synced(AgentRuntimeContainer):
        journal = providers.Resource(MemoryJournal)
        transport = providers.Singleton(WebSocketTransport, url=AgentRuntimeContainer.config.sync.url)

    Synced.config.from_dict({"sync": {"url": SERVER_URL}})
    try:
        async with Synced.build(SyncService) as sync:
            assert SERVER_URL == sync.status.url
    finally:
        Synced.config.reset_override()


@pytest.mark.parametrize("preset", ["synced", "synced-tcp"])
async def test_two_replicas_converge_over_either_transport(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity.generate().encode_string()
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, auth=Authenticator.single_token(TOKEN), host="127.0.0.1", port=0, tcp_port=0) as server,
    ):
        url = server.tcp_url if preset == "synced-tcp" else server.websocket_url
        assert url is not None
        environment = {"SYNC_URL": url, "SYNC_TOKEN": TOKEN, "IDENTITY": identity}
        replica = load_preset(f'extends: {preset}\nidentity: {{text: "${{IDENTITY}}"}}\n', environment=environment)
        async with asyncio.timeout(20):
            await _converse_and_compare(replica, tmp_path, monkeypatch)

    kind = TCPTransport if preset == "synced-tcp" else WebSocketTransport
    assert kind.__qualname__ == graph_of(replica).nodes["transport"].callable.rpartition(".")[2]


async def _converse_and_compare(
    replica: type[AgentRuntimeContainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "a"))
    async with replica.build(AgentRuntime) as first:
        monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "b"))
        async with replica.build(AgentRuntime) as second:
            async with first.query("Keep a note.", session_id="s") as turn:
                said = await turn.collect()
            await _reached(_chat(second), "s", len(said) + 1)

            mine = [(event.sequence, event.message) for event in await _chat(first).list("s")]
            theirs = [(event.sequence, event.message) for event in await _chat(second).list("s")]
            assert mine == theirs


def _chat(runtime: AgentRuntime) -> ChatHistoryStore:
    assert runtime.chat_history is not None
    return runtime.chat_history


async def _reached(store: ChatHistoryStore, session_id: str, count: int) -> None:
    async for _event in store.follow(session_id, after=0):
        if len(await store.list(session_id)) >= count:
            return


def test_transports_are_interchangeable_providers_of_one_slot() -> None:
    class WebSocketApp(AgentRuntimeContainer):
        transport = providers.Singleton(WebSocketTransport, url=SERVER_URL)

    class TCPApp(WebSocketApp):
        transport = providers.Singleton(TCPTransport, url="tcp://127.0.0.1:9")

    websocket, tcp = graph_of(WebSocketApp), graph_of(TCPApp)

    assert ["transport"] == [name for name in websocket.nodes if websocket.nodes[name] != tcp.nodes[name]]
    assert "" == graph_of(WebSocketApp).difference(
        graph_of(AgentRuntimeContainer.layer(transport=providers.Singleton(WebSocketTransport, url=SERVER_URL)))
    )


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
def test_remote_sync_chooses_the_transport_by_the_url(scheme: str) -> None:
    url = "ws://127.0.0.1:9/event-log" if scheme == "ws" else "tcp://127.0.0.1:9"
    graph = graph_of(AgentRuntime.layer_with_remote_sync(url, token=TOKEN))

    kind = "WebSocketTransport" if scheme == "ws" else "TCPTransport"
    assert graph.nodes["transport"].callable.endswith(kind)
    assert {"chat_history": True, "artifacts": False, "audit_log": True} == graph.nodes["sync"].arguments["stores"]
    assert TOKEN not in graph.to_text()


async def test_the_whole_container_is_a_layer_too() -> None:
    layer = AgentRuntimeContainer.layer(
        agent_backend=ScriptedBackend(ANSWER), journal=providers.Resource(MemoryJournal)
    )

    async with layer.build() as app, app.get(AgentRuntime).query("x") as turn:
        assert "overridden" == (await turn.collect())[-1].text


# -- presets --------------------------------------------------------------------------------------------
PRESETS: dict[str, Mapping[str, str]] = {
    "local": {},
    "memory": {},
    "synced": {"SYNC_URL": SERVER_URL},
    "synced-tcp": {"SYNC_URL": "tcp://127.0.0.1:9"},
}


@pytest.mark.parametrize("name", list(PRESETS))
async def test_every_preset_builds_and_answers(name: str, directory: Path) -> None:
    container = load_preset(name, environment=PRESETS[name])

    async with container.build(AgentRuntime) as runtime, runtime.query("hello", session_id="s") as turn:
        assert "You said: hello" == (await turn.collect())[-1].text
        assert 4 == len(await _chat(runtime).list("s"))

    assert (name != "memory") == directory.exists()


async def test_settings_in_yaml_count_where_the_environment_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTLAYERS_CONCURRENCY_LIMIT", "3")
    container = load_preset(
        f"""
extends: memory
storage_config: {{directory: {tmp_path / "elsewhere"}, retention: {{chat: {{max_age: 7 days}}}}}}
query_supervisor: {{concurrency_limit: 9, pending_queue_strategy: sliding}}
runtime: {{query_timeout: 30 s}}
"""
    )

    async with container.build() as app:
        config, stats = app.get(StorageConfig), app.get(AgentRuntime).stats

    assert 7 * 86_400.0 == config.retention.chat.max_age_seconds
    assert tmp_path / "storage" == config.directory
    assert (3, "sliding") == (stats.concurrency_limit, stats.pending_queue_strategy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: local\ntransprot: offline", "did you mean 'transport'"),
        ("extends: local\njournal: sqlit", "did you mean 'sqlite'"),
        ("extends: local\ntransport: {websocket: {ulr: x}}", "no parameter 'ulr'"),
        ("extends: locl\njournal: memory", "did you mean 'local'"),
        ("extends: synced\njournal: memory", "SYNC_URL"),
    ],
)
def test_a_mistake_in_yaml_is_told_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(LayerError, match=expected) as raised:
        load_preset(text, environment={})

    assert ":" in str(raised.value)


async def test_merge_cannot_be_written_as_yaml_and_says_so() -> None:
    container = load_preset("extends: memory\nconflict_policy: merge\n")

    with pytest.raises(LayerError, match="merge takes a function, which YAML cannot hold"):
        async with container.build(AgentRuntime):
            pass


def test_transport_layers_need_nothing_but_a_url() -> None:
    assert (Transport,) == Transport.layer_websocket(SERVER_URL).outputs
