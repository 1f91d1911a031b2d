"""The rooms' parts as layers: the same service, whichever way it is spelled."""

import asyncio

from agentlayers.crypto.encryption import Encryption
from agentlayers.sync.service import SyncService
from agentlayers.sync.status import SyncState
from agentlayers.transport.offline import OfflineTransport
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport


async def test_transports_are_offered_as_layers() -> None:
    """WebSocket, TCP and offline are interchangeable in their slot."""
    async with Transport.layer_websocket("ws://127.0.0.1:1", "t", "a").build(Transport) as made:
        assert made == WebSocketTransport("ws://127.0.0.1:1", "t", "a")
    async with Transport.layer_tcp("tcp://127.0.0.1:1", "t").build(Transport) as made:
        assert made == TCPTransport("tcp://127.0.0.1:1", "t")
    async with Transport.layer_offline().build(Transport) as made:
        assert made == OfflineTransport()


async def test_a_service_uses_the_graphs_transport_or_brings_its_own() -> None:
    """Opened at start, closed at stop, no task left."""
    shared = SyncService.layer(stores={"own": True}).provide(Transport.layer_offline(), Encryption.layer_plaintext())
    async with shared.build(SyncService) as service:
        assert (service.url, service.status.state) == ("offline", SyncState.OFFLINE)
    for layer, url in (
        (SyncService.layer_websocket("ws://127.0.0.1:1"), "ws://127.0.0.1:1/event-log"),
        (SyncService.layer_tcp("tcp://127.0.0.1:1"), "tcp://127.0.0.1:1"),
        (SyncService.layer_offline(), "offline"),
    ):
        async with layer.provide(Encryption.layer_aes_gcm()).build(SyncService) as service:
            assert service.url == url
    assert asyncio.all_tasks() == {asyncio.current_task()}
