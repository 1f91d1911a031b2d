"""What ``agentlayers sync`` says it exchanged."""

from __future__ import annotations

from agentlayers.cli.sync import since_start
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import replica


async def test_what_came_before_the_exchange_was_asked_for_counts_too() -> None:
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0) as server:
        async with replica(WebSocketTransport(server.websocket_url)) as one:
            await one.write_many(5)
            await one.until_pushed()
        async with replica(WebSocketTransport(server.websocket_url)) as other:
            await other.until(lambda sync: sync.status.stores["chat_history"].received == 5)
            report = await other.sync.sync_now(return_errors=True)
            whole = since_start(report, other.sync.status)

    assert report.remotes[0].received["chat_history"] == 0
    assert whole.remotes[0].received["chat_history"] == 5
    assert whole.remotes[0].sent["chat_history"] == 0
