"""TLS from files: who is let in, and what an operator is told when it does not work."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import (
    AgentLayersError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    SettingsError,
)
from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.certificates import Authority
from helpers.sync_world import Replica, replica

Reach = Callable[..., Transport]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"), "another authority")


@contextlib.asynccontextmanager
async def listening(ours: Authority, *, auth: Authenticator | None = None, **options: Any) -> AsyncIterator[SyncServer]:
    made = ours.issue("server")
    options = {"tls_cert": str(made.certificate), "tls_key": str(made.key), **options}
    async with SyncServer(MemoryServerStorage(), auth=auth, port=0, tcp_port=0, **options) as server:
        yield server


@pytest.fixture(params=["websocket", "tcp"])
def medium(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reach(server: SyncServer, medium: str, ca: Path, *arguments: Any, **options: Any) -> Transport:
    if medium == "websocket":
        return WebSocketTransport(server.websocket_url, *arguments, ca=str(ca), **options)
    assert server.tcp_url is not None
    return TCPTransport(server.tcp_url, *arguments, ca=str(ca), **options)


async def exchange(transport: Transport) -> None:
    """Connect, write, and be acknowledged."""

    async def write(one: Replica) -> None:
        await one.write("hello")
        await one.sync.sync_now()

    async with replica(transport) as one:
        await write(one)


async def refusal(transport: Transport) -> AgentLayersError:
    with pytest.raises(AgentLayersError) as caught:
        await exchange(transport)
    return caught.value


async def test_a_replica_that_trusts_the_authority_connects(ours: Authority, medium: str) -> None:
    async with listening(ours) as server:
        assert server.websocket_url.startswith("wss://")
        await exchange(reach(server, medium, ours.ca))


async def test_certificate_and_key_may_stand_in_one_file(ours: Authority, medium: str) -> None:
    made = ours.issue("both")
    both = made.certificate.with_name("both-in-one.pem")
    both.write_bytes(made.key.read_bytes() + made.certificate.read_bytes())
    async with listening(ours, tls_cert=str(both), tls_key=None) as server:
        await exchange(reach(server, medium, ours.ca))


async def test_an_unknown_authority_is_named_as_the_cause(ours: Authority, foreign: Authority, medium: str) -> None:
    async with listening(ours) as server:
        error = await refusal(reach(server, medium, foreign.ca))

    assert isinstance(error, ConnectError)
    assert "no trusted authority signed the server's certificate" in str(error)
    assert "--ca" in str(error)


async def test_a_certificate_of_another_host_is_refused(ours: Authority, medium: str) -> None:
    made = ours.issue("elsewhere", host="10.0.0.1")
    async with listening(ours, tls_cert=str(made.certificate), tls_key=str(made.key)) as server:
        error = await refusal(reach(server, medium, ours.ca))

    assert isinstance(error, ConnectError)
    assert "127.0.0.1" in str(error)


async def test_a_client_certificate_is_authentication(ours: Authority, medium: str) -> None:
    made = ours.issue("client")
    async with listening(ours, client_ca=str(ours.ca)) as server:
        shown = {"client_cert": str(made.certificate), "client_key": str(made.key)}
        await exchange(reach(server, medium, ours.ca, **shown))
        await exchange(reach(server, medium, ours.ca, None, "team-a", **shown))


async def test_who_shows_no_certificate_or_a_foreign_one_is_refused(
    ours: Authority, foreign: Authority, medium: str
) -> None:
    made = foreign.issue("client")
    async with listening(ours, client_ca=str(ours.ca)) as server:
        without = await refusal(reach(server, medium, ours.ca))
        stranger = await refusal(
            reach(server, medium, ours.ca, client_cert=str(made.certificate), client_key=str(made.key))
        )

    assert isinstance(without, AuthenticationError)
    assert "a client certificate" in str(without)
    assert isinstance(stranger, AuthenticationError)
    assert "refused the client certificate: it does not know the authority that signed it" in str(stranger)


async def test_a_token_or_a_certificate_will_do_where_both_are_set(ours: Authority, medium: str) -> None:
    """But a tenant with tokens of its own is opened by them only."""
    made = ours.issue("client")
    shown = {"client_cert": str(made.certificate), "client_key": str(made.key)}
    auth = Authenticator({"*": "anyone", "team-a": "alone"})
    async with listening(ours, auth=auth, client_ca=str(ours.ca)) as server:
        await exchange(reach(server, medium, ours.ca, **shown))
        await exchange(reach(server, medium, ours.ca, "anyone"))
        await exchange(reach(server, medium, ours.ca, "alone", "team-a", **shown))
        for arguments, options in (((None, "team-a"), shown), (("wrong",), {}), ((), {}), (("anyone", "team-a"), {})):
            if medium == "tcp" and not arguments:
                continue  # such a client says nothing, and waits for a Hello that does not come
            error = await refusal(reach(server, medium, ours.ca, *arguments, **options))
            assert isinstance(error, AuthenticationError), (arguments, options)


async def test_client_certificates_allow_listening_beyond_loopback(ours: Authority) -> None:
    async with listening(ours, host="0.0.0.0", client_ca=str(ours.ca)):
        pass
    with pytest.raises(ConfigurationError, match="--client-ca"):
        async with listening(ours, host="0.0.0.0"):
            pass


def broken(ours: Authority, foreign: Authority, tmp_path: Path) -> dict[str, tuple[dict[str, str], str]]:
    """Name wrong files, and what is said of each."""
    good, other = ours.issue("good"), ours.issue("other")
    expired, future = ours.issue("expired", begins=-3, ends=-1), ours.issue("future", begins=1, ends=2)
    locked = ours.issue("locked", passphrase=b"secret words")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    return {
        "no such file": (
            {"cert": str(tmp_path / "none.pem"), "key": str(good.key)},
            r"none\.pem.*No such file or directory",
        ),
        "no certificate": ({"cert": str(text), "key": str(good.key)}, "text.pem.*BEGIN CERTIFICATE"),
        "no key": ({"cert": str(good.certificate), "key": str(text)}, "text.pem.*BEGIN PRIVATE KEY"),
        "key missing in the file": ({"cert": str(good.certificate)}, "good.pem.*BEGIN PRIVATE KEY"),
        "another key": ({"cert": str(good.certificate), "key": str(other.key)}, "other.key.*it is that of another one"),
        "expired": ({"cert": str(expired.certificate), "key": str(expired.key)}, "expired.pem.*this one expired on"),
        "not yet valid": ({"cert": str(future.certificate), "key": str(future.key)}, "this one is valid from"),
        "passphrase": ({"cert": str(locked.certificate), "key": str(locked.key)}, "without a passphrase"),
    }


CASES = ["no such file", "no certificate", "no key", "key missing in the file", "another key", "expired"]
CASES += ["not yet valid", "passphrase"]


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(
    ours: Authority, foreign: Authority, tmp_path: Path, case: str
) -> None:
    files, text = broken(ours, foreign, tmp_path)[case]
    with pytest.raises(SettingsError, match=text) as served:
        SyncServer(MemoryServerStorage(), **{f"tls_{name}": path for name, path in files.items()})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=text) as connected:
        WebSocketTransport("wss://127.0.0.1:1", **{f"client_{name}": path for name, path in files.items()})  # type: ignore[arg-type]

    assert str(served.value).startswith("tls_")
    assert str(connected.value).startswith("client_")
    assert "secret words" not in str(served.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tls_key": "x.key"}, "tls_key.*--tls-cert"),
        ({"client_ca": "ca.pem"}, "client_ca.*--tls-cert"),
    ],
)
def test_files_without_a_certificate_of_the_server_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        SyncServer(MemoryServerStorage(), **options)  # type: ignore[arg-type]


def test_certificates_for_an_address_without_tls_are_refused(ours: Authority) -> None:
    for make in (
        lambda: WebSocketTransport("ws://h", ca=str(ours.ca)),
        lambda: TCPTransport("tcp://h:1", ca=str(ours.ca)),
    ):
        with pytest.raises(SettingsError, match="wss:// or tls://"):
            make()
    with pytest.raises(SettingsError, match="client_cert"):
        WebSocketTransport("wss://h", client_key=str(ours.ca))


def test_transports_are_equal_when_their_files_are(ours: Authority) -> None:
    one, other = (WebSocketTransport("wss://h", ca=str(ours.ca)) for _ in range(2))

    assert one == other
    assert hash(one) == hash(other)
    assert one != WebSocketTransport("wss://h")
    assert WebSocketTransport("wss://h") == WebSocketTransport("wss://h", ca="", client_cert="", client_key="")


async def test_a_server_without_tls_at_a_tls_address_is_recognized(ours: Authority) -> None:
    async with SyncServer(MemoryServerStorage(), port=0, tcp_port=0) as server:
        for url, kind in (
            (server.websocket_url.replace("ws:", "wss:"), WebSocketTransport),
            ((server.tcp_url or "").replace("tcp:", "tls:"), TCPTransport),
        ):
            error = await refusal(kind(url, ca=str(ours.ca)))
            assert isinstance(error, ConnectError), error


async def test_a_refused_client_that_goes_on_talking_is_cut(ours: Authority, foreign: Authority) -> None:
    """The server waits with the end of the connection only until the client had the chance to read why."""
    made, context = foreign.issue("talker"), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ours.ca)
    context.load_cert_chain(made.certificate, made.key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    async with listening(ours, client_ca=str(ours.ca)) as server, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
        while not is_done(client):
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))
        writer.write(outgoing.read())
        incoming.write(await reader.read(65536))
        with pytest.raises(ssl.SSLError, match="unknown ca"):
            client.read(1)

        writer.write(b"more")
        assert await reader.read() == b""
        writer.close()


def is_done(client: ssl.SSLObject) -> bool:
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
