"""How a replica reaches a server: WebSocket, TCP, in memory, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.transport.memory import MemoryConnection, MemoryTransport
    from agentlayers.transport.offline import OfflineTransport
    from agentlayers.transport.tcp import TCPTransport
    from agentlayers.transport.transport import Connection, TLSFiles, Transport
    from agentlayers.transport.websocket import WebSocketTransport

__all__ = [
    "Connection",
    "MemoryConnection",
    "MemoryTransport",
    "OfflineTransport",
    "TCPTransport",
    "TLSFiles",
    "Transport",
    "WebSocketTransport",
]

_HOMES = {
    "Connection": "transport",
    "MemoryConnection": "memory",
    "MemoryTransport": "memory",
    "OfflineTransport": "offline",
    "TCPTransport": "tcp",
    "TLSFiles": "transport",
    "Transport": "transport",
    "WebSocketTransport": "websocket",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
