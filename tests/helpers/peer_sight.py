"""Whether this machine tells how much a TCP peer on it has not read: Linux does, some sandboxes do not."""

from __future__ import annotations

import socket

import pytest

from agentlayers.server.receive_queue import unread_bytes

__all__ = ["needs_peer_sight"]


def _sees_peers() -> bool:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
    ):
        server, _ = listening.accept()
        with server, client:
            return unread_bytes(server) is not None


needs_peer_sight = pytest.mark.skipif(not _sees_peers(), reason="this system does not tell what a TCP peer has read")
