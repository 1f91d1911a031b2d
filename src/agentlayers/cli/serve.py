"""``agentlayers serve``: the sync server, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from agentlayers.cli.interpreter import tune_interpreter
from agentlayers.cli.token import read_token

if TYPE_CHECKING:
    from agentlayers.layer import Layer, LayerContainer
    from agentlayers.server.app import SyncServer

__all__ = ["command"]

_CHECKED = ("host", "port", "tcp_port", "open", "tls_cert", "tls_key", "client_ca")
"""Arguments of the server that decide whether it can listen."""


def command(
    preset: Annotated[
        str, typer.Argument(metavar="[PRESET|FILE]", help="Graph of the server: a preset's name or a YAML file.")
    ] = "server",
    data: Annotated[
        Path | None, typer.Option(help="Directory of the journals, made if missing. (preset: ./agentlayers-server)")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Interface to listen on. (preset: 127.0.0.1)")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the WebSocket; 0 picks a free one. (preset: 8787)")
    ] = None,
    tcp_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Listen on TCP too; 0 picks a free port. (preset: off)")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Token clients must show. Others may see it here: prefer --token-file.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File that holds the token.")] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Serve wss:// and tls://: PEM file with the certificate and its chain.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with its private key, if that does not stand in --tls-cert.")
    ] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="Let in who shows a client certificate signed by an authority in this PEM file.")
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Listen beyond loopback without a token, on a network you trust.")
    ] = False,
) -> None:
    """
    Run a sync server: journals of several replicas, on SQLite, over WebSocket and TCP.

    Replicas reach it at /event-log (the tenant "default") or /event-log/TENANT. It cannot read what it keeps.
    When ready it prints a line "listening on ..." for each address; SIGTERM and SIGINT stop it cleanly.

    The token may also come from AGENTLAYERS_TOKEN. Beyond loopback a token or --client-ca is required unless --open is
    given. With both, a client shows either; with --client-ca alone it has to show a certificate.

    For instance:

      agentlayers serve --data ./server-data

      agentlayers serve --data /var/lib/agentlayers --host 0.0.0.0 --token-file /etc/agentlayers/token --tcp-port 8788

      agentlayers serve --data ./server-data --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --client-ca ca.pem
    """
    found = read_token(token, token_file, variable="AGENTLAYERS_TOKEN")
    files = {"tls_cert": tls_cert, "tls_key": tls_key, "client_ca": client_ca}
    given: dict[str, str | int | None] = {"host": host, "port": port, "tcp_port": tcp_port}
    given |= {name: None if path is None else str(path) for name, path in files.items()}
    graph = _graph(preset, given, is_open=open_)
    slots = _slots(data, found)
    tune_interpreter()
    asyncio.run(_serve(graph, slots))


def _graph(preset: str, options: dict[str, str | int | None], *, is_open: bool) -> type[LayerContainer]:
    """Read the graph and lay what the command line says of the server over it."""
    from agentlayers.layer import load_layers
    from agentlayers.server import ServerContainer

    container = load_layers(preset, container=ServerContainer, containers={"server": ServerContainer})
    given = {name: value for name, value in options.items() if value is not None}
    if is_open:
        given["open"] = True
    return load_layers(yaml.safe_dump({"server": given}), container=container) if given else container


def _slots(data: Path | None, token: str | None) -> dict[str, Layer]:
    """Return what the command line puts in the place of other slots."""
    from agentlayers.server import Authenticator, ServerStorage

    slots: dict[str, Layer] = {}
    if data is not None:
        slots["storage"] = ServerStorage.layer_sqlite(data)
    if token is not None:
        slots["auth"] = Authenticator.layer_tokens({"*": token})
    return slots


async def _check(graph: type[LayerContainer], slots: dict[str, Layer]) -> None:
    """Find what would keep the server from listening before its storage is opened: that would make a directory."""
    from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer

    provider = graph.server
    arguments = {name: provider.kwargs[name] for name in _CHECKED if name in provider.kwargs}
    if not all(isinstance(value, str | int | None) for value in arguments.values()):
        return  # made by other slots: the start itself will tell
    given = {name: layer for name, layer in slots.items() if name == "auth"}
    async with graph.layer(outputs=(Authenticator,), **given).build(Authenticator) as auth:
        SyncServer(MemoryServerStorage(), auth=auth, **arguments).check()


async def _serve(graph: type[LayerContainer], slots: dict[str, Layer]) -> None:
    from agentlayers.server import SyncServer

    await _check(graph, slots)
    layer = graph.layer(outputs=(SyncServer,), **slots)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with layer.build(SyncServer) as server:
        _announce(server)
        await stopping.wait()


def _announce(server: SyncServer) -> None:
    for url in (server.websocket_url, server.tcp_url):
        if url is not None:
            sys.stdout.write(f"listening on {url}\n")
    sys.stdout.flush()
