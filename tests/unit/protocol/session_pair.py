"""Both sides of a session, wired to each other without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.messages import (
    CAPABILITY_ACK_THROUGH,
    CAPABILITY_ENTRY_NONCES,
    EncryptedEntry,
    Extensions,
    Hello,
)
from agentlayers.protocol.server_session import ServerSession

REMOTE = bytes(range(16))
KEY = "key-a"


def hello(tenant: str = "default") -> Hello:
    capabilities = frozenset({CAPABILITY_ENTRY_NONCES, CAPABILITY_ACK_THROUGH})
    return Hello(REMOTE, Extensions(1, capabilities, bytes(16), tenant))


STOCK_HELLO = Hello(REMOTE)


def entry(number: int, size: int = 20) -> EncryptedEntry:
    """An entry whose id is a valid UUIDv7 and whose nonce is its own."""
    entry_id = number.to_bytes(6) + b"\x70\x00\x80" + bytes(7)
    return EncryptedEntry(entry_id, number.to_bytes(12), bytes([number % 256]) * size)


def deliver(
    sender: ClientSession | ServerSession,
    receiver: ClientSession | ServerSession,
    cut: Callable[[Sequence[bytes]], Sequence[bytes]] = lambda frames: frames,
) -> list[Any]:
    """Carry what one side wants to send to the other, and return the events there."""
    for data in cut(sender.data_to_send()):
        receiver.receive_data(data)
    return list(receiver.events_received())


def opened(*, is_stream: bool = False, stock: bool = False) -> tuple[ClientSession, ServerSession]:
    """A client and a server that greeted each other."""
    client = ClientSession(is_stream=is_stream)
    server = ServerSession(is_stream=is_stream, hello=STOCK_HELLO if stock else hello())
    deliver(server, client)
    return client, server
