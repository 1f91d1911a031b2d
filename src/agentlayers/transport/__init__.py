"""How a replica reaches a server: WebSocket, TCP, in memory, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

_MODULES = {
    "Connection": "transport",
    "MemoryConnection": "memory",
    "MemoryTransport": "memory",
    "OfflineTransport": "offline",
    "TCPTransport": "tcp",
    "TLSFiles": "transport",
    "Transport": "transport",
    "WebSocketTransport": "websocket",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
