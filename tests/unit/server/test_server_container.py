"""The server as a graph: by layers, by container, by YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlayers.errors import AuthenticationError
from agentlayers.layer import LayerContainer, load_layers
from agentlayers.server import (
    Authenticator,
    MemoryServerStorage,
    ServerContainer,
    ServerStorage,
    SQLiteServerStorage,
    SyncServer,
)
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.wire_client import websocket_client

CONTAINERS: dict[str, type[LayerContainer]] = {"server": ServerContainer}


async def serves(server: SyncServer, token: str | None = None) -> bool:
    async with websocket_client(server, token=token) as client:
        await client.hello()
        return (await client.write(sealed_entries(1))).sequence_numbers == (0,)


async def test_layers_make_a_server() -> None:
    app = SyncServer.layer(port=0).provide(ServerStorage.layer_memory(), Authenticator.layer_tokens({"*": "abc"}))
    async with app.build(SyncServer) as server:
        assert await serves(server, "abc")


async def test_a_server_without_an_authenticator_is_open(tmp_path: Path) -> None:
    app = SyncServer.layer(port=0, tcp_port=0).provide(ServerStorage.layer_sqlite(tmp_path))
    async with app.build(SyncServer) as server:
        assert await serves(server)
        assert server.tcp_url is not None


async def test_a_container_makes_a_server(tmp_path: Path) -> None:
    layer = ServerContainer.layer(
        outputs=(SyncServer,),
        storage=ServerStorage.layer_sqlite(tmp_path),
        server=SyncServer.layer(port=0),
    )
    async with layer.build(SyncServer) as server:
        assert await serves(server)
    assert (tmp_path / "server.sqlite").exists()


async def test_the_preset_keeps_journals_in_sqlite_and_takes_a_token(tmp_path: Path) -> None:
    environment = {"AGENTLAYERS_SERVER_DIR": str(tmp_path), "AGENTLAYERS_TOKEN": "abc"}
    container = load_layers("server", container=ServerContainer, containers=CONTAINERS, environment=environment)
    layer = container.layer(outputs=(SyncServer,), server=SyncServer.layer(port=0))
    async with layer.build(SyncServer) as server:
        assert await serves(server, "abc")
        assert isinstance(server._storage, SQLiteServerStorage)
        with pytest.raises(AuthenticationError):
            server._auth.authenticate("default", "wrong")


async def test_yaml_may_name_other_parts() -> None:
    text = "container: server\nstorage: memory\nauth: open\nserver: {listen: {port: 0}}\n"
    container = load_layers(text, container=ServerContainer, containers=CONTAINERS)
    async with container.build(SyncServer) as server:
        assert await serves(server)
        assert isinstance(server._storage, MemoryServerStorage)
