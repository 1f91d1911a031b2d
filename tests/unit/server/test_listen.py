"""Before a server opens anything it can be told whether its addresses are free."""

from __future__ import annotations

import socket

import pytest

from agentlayers.errors import ConfigurationError
from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer
from agentlayers.server.listen import check_free


def test_a_port_that_is_free_stays_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for _ in range(2):
        check_free("127.0.0.1", port, "--port")


def test_a_port_in_use_is_named_with_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}: the port is in use.*--tcp-port"):
            check_free("127.0.0.1", port, "--tcp-port")


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 0), ("192.0.2.1", 8787), ("", 0)])
def test_what_only_the_start_can_tell_is_left_to_it(host: str, port: int) -> None:
    """An address that may be this machine's by then, a port that it picks."""
    check_free(host, port, "--port")


async def test_a_server_finds_what_is_wrong_before_its_storage_is_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigurationError, match="--tcp-port"):
            SyncServer(MemoryServerStorage(), port=0, tcp_port=port).check()
    with pytest.raises(ConfigurationError, match="without a token"):
        SyncServer(MemoryServerStorage(), host="0.0.0.0", port=0).check()
    SyncServer(MemoryServerStorage(), auth=Authenticator.single_token("token"), host="0.0.0.0", port=0).check()
