"""Replicas of two real servers, one reached over WebSocket and one over TCP, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import providers

from agentlayers.crypto.encryption import Encryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal import MemoryJournal, SQLiteJournal
from agentlayers.journal.event_journal import EventJournal
from agentlayers.layer import Layer, to_yaml
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.runtime.presets import load_preset
from agentlayers.server import MemoryServerStorage, SQLiteServerStorage, SyncServer
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.sync.service import SyncService
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import replica


def over_websocket(server: SyncServer) -> Transport:
    """Reach a server over WebSocket."""
    return WebSocketTransport(server.websocket_url)


def over_tcp(server: SyncServer) -> Transport:
    """Reach a server over TCP."""
    assert server.tcp_url is not None
    return TCPTransport(server.tcp_url)


async def test_replicas_of_two_servers_converge_live(tmp_path: Path) -> None:
    """Two bridges, a replica at either end, batches both ways; and then it is quiet."""
    async with (
        SQLiteServerStorage(tmp_path / "a") as a,
        SQLiteServerStorage(tmp_path / "b") as b,
        SyncServer(a, port=0, tcp_port=0) as first,
        SyncServer(b, port=0, tcp_port=0) as second,
        replica(over_websocket(first), journal=SQLiteJournal(tmp_path / "one")) as one,
        replica(over_tcp(second), journal=SQLiteJournal(tmp_path / "two")) as two,
        replica(over_websocket(first), remotes=[over_tcp(second)], journal=SQLiteJournal(tmp_path / "left")) as left,
        replica(over_websocket(second), remotes=[over_tcp(first)], journal=SQLiteJournal(tmp_path / "right")) as right,
    ):
        replicas = (one, two, left, right)
        await asyncio.gather(*(each.write_many(300, size=200) for each in replicas))
        await asyncio.gather(*(each.write(f"{number}") for number in range(20) for each in replicas))
        everything = set[bytes]().union(*[await each.ids() for each in replicas])
        while len(everything) < 4 * 320:
            await asyncio.sleep(0.02)
            everything = set[bytes]().union(*[await each.ids() for each in replicas])
        for each in replicas:
            await each.until_ids(everything)
        for each in replicas:
            await each.sync.sync_now()
        before = [each.sync.status.stores["chat_history"].sent for each in replicas]
        await asyncio.sleep(0.5)

        assert before == [each.sync.status.stores["chat_history"].sent for each in replicas]
        assert [(await each.sync.refresh()).pending for each in replicas] == [0, 0, 0, 0]
        assert len(everything) == 4 * 320


async def test_a_server_with_a_new_disk_gets_back_what_others_wrote(tmp_path: Path) -> None:
    """At the same address is another, empty server; whoever wrote the entries is gone."""
    async with contextlib.AsyncExitStack() as stack:
        async with MemoryServerStorage() as storage, SyncServer(storage, port=0) as server:
            two = await stack.enter_async_context(
                replica(over_websocket(server), journal=SQLiteJournal(tmp_path / "two"))
            )
            async with replica(over_websocket(server), journal=SQLiteJournal(tmp_path / "one")) as one:
                await one.write_many(700)
                ids = await one.ids()
                await two.until_ids(ids)
            port = server.port
        async with MemoryServerStorage() as storage, SyncServer(storage, port=port) as server:
            await two.sync.sync_now()
            async with replica(over_websocket(server)) as late:
                await late.sync.sync_now()

                assert await late.ids() == ids
                assert two.sync.status.stores["chat_history"].sent == 700


async def test_a_store_with_a_remote_of_its_own_beside_the_graphs() -> None:
    """Each store goes to its server only; both are closed with the graph."""
    identity = Identity.generate()
    async with (
        MemoryServerStorage() as a,
        MemoryServerStorage() as b,
        SyncServer(a, port=0) as graphs,
        SyncServer(b, port=0) as own,
    ):
        layer = (
            Layer.merge_all(
                AuditEventStore.layer_journaled(),
                ChatHistoryStore.layer_journaled_with_sync_websocket(own.websocket_url),
            )
            .provide_merge(SyncService.layer_websocket(graphs.websocket_url, relay=True))
            .provide(Layer.succeed(Identity, identity), EventJournal.layer_memory(), Encryption.layer_aes_gcm())
        )
        async with layer.build() as app:
            await app.get(ChatHistoryStore).append("session", {"type": "user", "text": "hello"})
            await app.get(AuditEventStore).write("hook_event", {"hook": "Stop", "outcome": "success"})
            sync = app.get(SyncService)
            await sync.sync_now()
            while not own.connection_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

            assert list(sync.status.stores) == ["audit_log"]
            assert (graphs.connection_count, own.connection_count) == (1, 1)
        keys = [identity.for_store(name).public_key for name in ("audit_log", "chat_history")]
        heads = [[await storage.head("default", key) for key in keys] for storage in (a, b)]

        assert heads == [[1, 0], [0, 1]]


async def test_what_is_fetched_on_demand_is_not_relayed() -> None:
    """The other server is not followed, so nobody knows what it has; own entries go to both."""
    store, flags = "artifact_content", {"artifact_content": "on_demand"}
    async with (
        MemoryServerStorage() as a,
        MemoryServerStorage() as b,
        SyncServer(a, port=0) as first,
        SyncServer(b, port=0) as second,
        replica(over_websocket(first), names=(store,), stores={store: True}) as one,
        replica(over_websocket(first), remotes=[over_websocket(second)], names=(store,), stores=flags) as both,
    ):
        theirs = await one.write("theirs", store)
        await one.sync.sync_now()
        missing = await both.sync.fetch(store, [theirs])
        ours = await both.write("ours", store)
        await both.sync.sync_now()
        async with replica(over_websocket(second), names=(store,), stores={store: True}) as late:
            await late.sync.sync_now()

            assert (missing, await both.ids(store)) == ([], {theirs, ours})
            assert await late.ids(store) == {ours}


class App(AgentRuntimeContainer):
    """An application with two servers."""

    journal = providers.Resource(MemoryJournal)
    identity = providers.Singleton(Identity.generate)
    transport = providers.Singleton(WebSocketTransport, url="ws://127.0.0.1:9/event-log")
    sync = providers.Resource(
        SyncService, remotes=providers.List(providers.Singleton(TCPTransport, url="tcp://127.0.0.1:9")), relay=True
    )


YAML = """
extends: local
journal: memory
identity: generated
transport: {websocket: {url: "ws://127.0.0.1:9/event-log"}}
sync: {relay: true, remotes: [{tcp: {url: "tcp://127.0.0.1:9"}}]}
"""


@pytest.mark.parametrize("name", ["layers", "container", "yaml", "written"])
async def test_several_servers_are_wired_in_every_spelling(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As layers, in a container, in YAML, and in the YAML that is written of the container."""
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path))
    if name == "layers":
        transport = Layer.succeed(Transport, WebSocketTransport("ws://127.0.0.1:9/event-log"))
        sync = SyncService.layer(remotes=[TCPTransport("tcp://127.0.0.1:9")], relay=True)
        graph: Any = sync.provide(transport, Encryption.layer_aes_gcm())
    else:
        graph = {"container": App, "yaml": load_preset(YAML), "written": load_preset(to_yaml(App))}[name]
    async with graph.build(SyncService) as service:
        urls = list(service.status.remotes)

    assert urls == ["ws://127.0.0.1:9/event-log", "tcp://127.0.0.1:9"]
