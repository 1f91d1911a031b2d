"""Who is let in, how a refusal looks, and where the server listens."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from agentlayers.errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    SettingsError,
)
from agentlayers.limits import FRAME_BYTES_MAX
from agentlayers.protocol.events import SessionFailed
from agentlayers.protocol.messages import Authenticate
from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer
from agentlayers.server.listen import bind_error
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.wire_client import Client, stream_client, websocket_client

TOKENS = Authenticator({"alpha": "token-a", "beta": ["token-b", "token-b2"], "*": "token-any"})


@pytest.fixture
async def closed_server() -> AsyncIterator[SyncServer]:
    """A server that asks for tokens."""
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, auth=TOKENS, port=0, tcp_port=0, allowed_origins=["https://ok.example"]) as server,
    ):
        yield server


@pytest.fixture
async def open_server() -> AsyncIterator[SyncServer]:
    """A server that asks for none."""
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0, tcp_port=0) as server:
        yield server


async def refusal(server: SyncServer, tenant: str | None = None, **options: Any) -> int:
    """Return the HTTP status of a refused upgrade."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with websocket_client(server, tenant=tenant, **options):
            pass
    return caught.value.status


def http_url(server: SyncServer, path: str) -> str:
    return f"http://{urlsplit(server.websocket_url).netloc}{path}"


# -- WebSocket --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tenant", "token"),
    [
        ("alpha", "token-a"),
        ("beta", "token-b"),
        ("beta", "token-b2"),
        ("gamma", "token-any"),
        (None, "token-any"),
    ],
)
async def test_a_right_token_opens_its_tenant(closed_server: SyncServer, tenant: str | None, token: str) -> None:
    for client_of in (websocket_client, stream_client):
        async with client_of(closed_server, tenant=tenant, token=token) as client:
            hello = await client.hello()

        assert hello.extensions is not None
        assert hello.extensions.tenant == (tenant or "default")


@pytest.mark.parametrize(
    ("tenant", "token"),
    [
        ("alpha", "token-b"),
        ("alpha", "token-any"),
        ("gamma", "token-a"),
        ("alpha", None),
        (None, "no"),
        ("alpha", "token"),
    ],
)
async def test_a_wrong_token_is_refused_before_the_upgrade(
    closed_server: SyncServer, tenant: str | None, token: str | None
) -> None:
    """``*`` stands for tenants that have no token of their own, not beside it."""
    assert await refusal(closed_server, tenant=tenant, token=token) == 401


async def test_a_token_in_the_subprotocol_is_taken_and_echoed(closed_server: SyncServer) -> None:
    """A browser can set no header, and drops a connection whose subprotocol is not confirmed."""
    async with websocket_client(closed_server, tenant="alpha", protocols=("other", "sync-auth.token-a")) as client:
        await client.hello()

        assert client.socket.websocket.protocol == "sync-auth.token-a"  # type: ignore[attr-defined]


async def test_a_wrong_token_in_the_subprotocol_is_refused(closed_server: SyncServer) -> None:
    assert await refusal(closed_server, tenant="alpha", protocols=("sync-auth.no",)) == 401


async def test_a_token_in_the_query_is_refused_unless_switched_on(
    closed_server: SyncServer,
) -> None:
    """Fault 10: addresses end in logs and histories."""
    url = f"{closed_server.websocket_url}/alpha?token=token-a"
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(url)
    assert caught.value.status == 401

    auth = Authenticator({"alpha": "token-a"}, query_tokens=True)
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, auth=auth, port=0) as server,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.websocket_url}/alpha?token=token-a") as websocket,
    ):
        assert (await websocket.receive()).type is aiohttp.WSMsgType.BINARY


async def test_a_browser_origin_is_refused_unless_allowed(closed_server: SyncServer, open_server: SyncServer) -> None:
    """On loopback too: any web page can reach a local server."""
    evil = {"Origin": "https://evil.example"}
    assert await refusal(open_server, headers=evil) == 403
    assert await refusal(closed_server, token="token-any", headers=evil) == 403

    async with websocket_client(closed_server, token="token-any", headers={"Origin": "https://ok.example"}) as client:
        await client.hello()


@pytest.mark.parametrize("tenant", ["-a", ".hidden", "a%20b", "a" * 129, "%C3%A4", "a%2Fb"])
async def test_a_name_that_can_be_no_tenants_is_refused(open_server: SyncServer, tenant: str) -> None:
    assert await refusal(open_server, tenant=tenant) in (403, 404)


async def test_a_text_frame_is_refused_with_1003(open_server: SyncServer) -> None:
    async with websocket_client(open_server) as client:
        await client.hello()
        await client.socket.websocket.send_str("hello")  # type: ignore[attr-defined]

        assert (await client.closed()).code == 1003


async def test_a_malformed_message_is_refused_with_1002_and_a_fixed_text(
    open_server: SyncServer,
) -> None:
    async with websocket_client(open_server) as client:
        await client.hello()
        await client.socket.send(b"\xc1")
        closed = await client.closed()

    assert closed.code == 1002
    assert closed.reason == "protocol error: a message that EventLogRemote does not allow"


async def test_a_frame_over_the_limit_is_refused_with_1009(open_server: SyncServer) -> None:
    async with websocket_client(open_server) as client:
        await client.hello()
        header = b"\x82\xff" + (FRAME_BYTES_MAX + 1).to_bytes(8, "big") + bytes(4)
        client.socket.websocket._writer.transport.write(header + bytes(10))  # type: ignore[attr-defined]

        assert (await client.closed()).code == 1009


async def test_a_full_server_says_so(open_server: SyncServer) -> None:
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0, tcp_port=0, connections_max=1) as server,
        websocket_client(server) as client,
    ):
        await client.hello()
        assert await refusal(server) == 503
        async with stream_client(server) as turned_away:
            await turned_away.closed()
        await client.pong()


async def test_a_plain_request_is_told_to_upgrade(open_server: SyncServer) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.get(http_url(open_server, "/event-log")) as response,
    ):
        assert response.status == 426


async def test_healthz_counts_connections(open_server: SyncServer) -> None:
    async with websocket_client(open_server) as client, aiohttp.ClientSession() as http:
        await client.hello()
        async with http.get(http_url(open_server, "/healthz")) as response:
            assert await response.json() == {"status": "ok", "connections": 1}


# -- TCP --------------------------------------------------------------------------------------------


async def test_a_wrong_token_over_tcp_is_told_and_closed(closed_server: SyncServer) -> None:
    async with stream_client(closed_server, tenant="alpha", token="no") as client:
        failed = await client.next()
        await client.closed()

    assert isinstance(failed, SessionFailed)
    assert isinstance(failed.error, AuthenticationError)


async def test_tcp_without_authentication_gets_nothing(
    closed_server: SyncServer,
) -> None:
    async with stream_client(closed_server) as client:
        await client.socket.send(b"\x82\xa2id\x01\xa4_tag\xa4Ping")
        closed = await client.closed()

    assert closed.code is None
    assert client.events == []


async def test_tcp_that_stays_silent_is_closed(closed_server: SyncServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlayers.server.connection.CONNECT_TIMEOUT_SECONDS", 0.1)
    async with stream_client(closed_server) as client:
        await client.closed()


async def test_a_stream_cut_anywhere_is_understood(closed_server: SyncServer) -> None:
    """Fault W7: two messages in one segment, or one in two, ended a stock server."""
    async with stream_client(closed_server) as client:
        client.session = session = type(client.session)(is_stream=True, authenticate=Authenticate("alpha", "token-a"))
        for byte in b"".join(session.data_to_send()):
            await client.socket.send(bytes((byte,)))
        await client.hello()
        session.request_changes("key", 0)
        session.write_entries("key", sealed_entries(1))
        session.ping()
        await client.socket.send(b"".join(session.data_to_send()))
        kinds = {type(await client.next()).__name__ for _ in range(2)}

    assert kinds == {"AckReceived", "PongReceived"}


# -- listening --------------------------------------------------------------------------------------


async def test_listening_beyond_loopback_needs_a_token() -> None:
    storage = MemoryServerStorage()
    with pytest.raises(ConfigurationError, match=r"refusing to listen on 0\.0\.0\.0 without a token"):
        async with SyncServer(storage, host="0.0.0.0", port=0):
            pass

    for options in ({"open": True}, {"auth": TOKENS}):
        async with SyncServer(storage, host="0.0.0.0", port=0, **options) as server:
            assert server.port > 0


@pytest.mark.parametrize("option", ["port", "tcp_port"])
async def test_a_port_in_use_is_named(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = {"port": 0, option: port}
        text = f"cannot listen on 127.0.0.1:{port}: the port is in use"
        with pytest.raises(ConfigurationError, match=text):
            async with SyncServer(MemoryServerStorage(), **arguments):
                pass
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_host_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no interface of this machine has that address"):
        async with SyncServer(MemoryServerStorage(), host="192.0.2.1", port=0, open=True):
            pass


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EACCES, "no"), "permission denied; ports below 1024 need privileges"),
        (socket.gaierror(socket.EAI_NONAME, "no"), "the host name is not known"),
        (OSError(errno.EIO, "something else"), "something else"),
    ],
)
def test_what_the_system_refuses_is_explained(error: OSError, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text), bind_error("127.0.0.1", 80, "--port"):
        raise error


@pytest.mark.parametrize(
    "arguments",
    [
        {"port": -1},
        {"port": 70_000},
        {"tcp_port": "x"},
        {"allowed_origins": ["example.org"]},
        {"allowed_origins": ["https://a/b"]},
    ],
)
def test_unusable_settings_are_refused_at_once(arguments: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        SyncServer(MemoryServerStorage(), **arguments)  # type: ignore[arg-type]


def test_addresses_of_ipv6_hosts_have_brackets() -> None:
    server = SyncServer(MemoryServerStorage(), host="::1", port=1, tcp_port=2)

    assert server.websocket_url == "ws://[::1]:1/event-log"
    assert server.tcp_url == "tcp://[::1]:2"


# -- tokens -----------------------------------------------------------------------------------------


def test_tokens_never_show() -> None:
    shown = repr(TOKENS)
    with pytest.raises(AuthenticationError) as caught:
        TOKENS.authenticate("alpha", "given-token")

    assert "token-a" not in shown + str(vars(TOKENS))
    assert "given-token" not in str(caught.value)


def test_an_open_authenticator_still_checks_the_tenants_name() -> None:
    auth = Authenticator.open_()
    auth.authenticate("tenant", None)

    assert auth.is_open
    with pytest.raises(AuthorizationError):
        auth.authenticate("../etc", None)


@pytest.mark.parametrize("tokens", [{"a b": "t"}, {"a": ""}, {"a": []}, {"a": "with space"}, {"a": ["ok", ""]}])
def test_tokens_that_could_never_be_sent_are_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        Authenticator(tokens)


async def test_clients_of_the_tests_use_what_they_say(closed_server: SyncServer) -> None:
    """The refusals above are the server's, not the client's."""
    async with websocket_client(closed_server, tenant="alpha", token="token-a") as client:
        assert isinstance(client, Client)
        await client.hello()
