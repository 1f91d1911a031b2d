"""What a replica says of an address that is not the one it takes it for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentlayers.errors import AuthenticationError, ConnectError
from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer
from agentlayers.transport import TCPTransport, Transport
from helpers.sync_world import replica


@pytest.fixture
async def server() -> AsyncIterator[SyncServer]:
    """A server with a token, on both ports."""
    auth = Authenticator({"default": "open-sesame"})
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0, tcp_port=0, auth=auth) as running:
        yield running


async def failure_of(transport: Transport) -> Exception:
    """Return why an exchange fails."""
    async with replica(transport) as one:
        with pytest.raises((ConnectError, AuthenticationError)) as raised:
            await one.sync.sync_now()
    return raised.value


async def test_tcp_at_the_port_of_the_websocket_names_the_server_and_the_other_scheme(server: SyncServer) -> None:
    url = f"tcp://127.0.0.1:{server.port}"
    error = await failure_of(TCPTransport(url, "open-sesame"))

    assert isinstance(error, ConnectError)
    assert str(error).startswith(f"cannot connect to {url}: what answers is no sync server, or is it ws://?")


async def test_a_websocket_at_the_port_of_tcp_names_the_other_scheme(server: SyncServer) -> None:
    error = await failure_of(Transport.from_url(f"ws://127.0.0.1:{server.tcp_port}", "open-sesame"))

    assert isinstance(error, ConnectError)
    assert "without an answer; is it tcp://" in str(error)


async def test_a_token_that_is_refused_over_tcp_names_the_server(server: SyncServer) -> None:
    url = f"tcp://127.0.0.1:{server.tcp_port}"
    error = await failure_of(TCPTransport(url, "wrong"))

    assert isinstance(error, AuthenticationError)
    assert str(error).startswith(f"{url}: the server refused the token")
    assert "wrong" not in str(error)
