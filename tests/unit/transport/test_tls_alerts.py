"""What a client says when TLS fails: what the alert says where there is one, and nothing more where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from agentlayers.errors import AgentLayersError, AuthenticationError, ConnectError, TransportError
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.certificates import Authority, Issued

VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True)
class Certificates:
    """Ours, which the servers trust, and those of somebody else."""

    ours: Authority
    good: Issued
    expired: Issued
    foreign: Issued


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    ours = Authority(tmp_path_factory.mktemp("ours"))
    foreign = Authority(tmp_path_factory.mktemp("foreign"), "another authority")
    return Certificates(ours, ours.issue("good"), ours.issue("expired", begins=-3, ends=-1), foreign.issue("foreign"))


@pytest.fixture(params=["wss", "tls"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return VERSIONS[request.param]


def asking(certificates: Certificates, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Make the context of a server that lets in only whom our authority signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = certificates.ours.issue("server")
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(certificates.ours.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    return context


@contextlib.contextmanager
def blocking_server(context: ssl.SSLContext) -> Iterator[int]:
    """
    Serve with blocking sockets, where OpenSSL sends its alerts by itself.

    What a client still says is read to its end: a socket that is closed before is reset, and a client that writes
    meanwhile may lose the alert to that.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener is shut down at the end
            while True:
                plain, _ = listener.accept()
                with plain.dup() as raw, contextlib.suppress(OSError):
                    with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as accepted:
                        accepted.recv(1)
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(4096):
                        pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextlib.asynccontextmanager
async def silent_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Serve with asyncio, which drops a refused connection together with the alert."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0, ssl=context)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def reach(
    scheme: str, port: int, certificates: Certificates, shown: Issued | None, host: str = "127.0.0.1"
) -> Transport:
    """Make a transport that shows any certificate, also one that our own files' check would not take."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates.ours.ca)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    kind = WebSocketTransport if scheme == "wss" else TCPTransport
    return kind(f"{scheme}://{host}:{port}", ssl=context)


async def failure(transport: Transport) -> AgentLayersError:
    """Connect, say something and wait for an answer; return what went wrong with that."""

    async def converse() -> None:
        connection = await transport.connect()
        try:
            await connection.send(b"\x80")
            await connection.receive()
        finally:
            await connection.close()

    with pytest.raises(AgentLayersError) as caught:
        await converse()
    return caught.value


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("expired", "refused the client certificate: it has expired; renew it"),
        ("foreign", "refused the client certificate: it does not know the authority that signed it"),
    ],
)
async def test_an_alert_about_the_client_certificate_is_passed_on(
    certificates: Certificates, scheme: str, version: ssl.TLSVersion, shown: str, said: str
) -> None:
    with blocking_server(asking(certificates, version)) as port:
        error = await failure(reach(scheme, port, certificates, getattr(certificates, shown)))

    assert isinstance(error, AuthenticationError)
    assert f"{scheme}://127.0.0.1:{port}" in str(error)
    assert said in str(error)


async def test_a_server_that_asks_for_a_certificate_is_understood(certificates: Certificates, scheme: str) -> None:
    with blocking_server(asking(certificates)) as port:
        error = await failure(reach(scheme, port, certificates, None))

    assert isinstance(error, AuthenticationError)
    assert "asks for a client certificate; give the one its operator issued (client_cert, --client-cert)" in str(error)


async def test_who_only_writes_learns_of_the_alert_too(certificates: Certificates) -> None:
    async def write_on(transport: Transport) -> None:
        connection = await transport.connect()
        try:
            while True:
                await connection.send(b"\x80")
                await asyncio.sleep(0.01)
        finally:
            await connection.close()

    with (
        blocking_server(asking(certificates)) as port,
        pytest.raises(AuthenticationError, match="it does not know the authority that signed it"),
    ):
        await asyncio.wait_for(write_on(reach("tls", port, certificates, certificates.foreign)), 5)


async def test_with_tls_1_2_a_missing_certificate_is_only_a_refused_handshake(
    certificates: Certificates, scheme: str
) -> None:
    """The same alert stands for much else, so it is not taken for more than it says."""
    with blocking_server(asking(certificates, ssl.TLSVersion.TLSv1_2)) as port:
        error = await failure(reach(scheme, port, certificates, None))

    assert isinstance(error, ConnectError)
    assert "the server refused the handshake; one that asks for a client certificate says this" in str(error)


@pytest.mark.parametrize("shown", ["expired", "foreign", None])
async def test_nothing_is_read_into_a_connection_that_is_cut_without_an_alert(
    certificates: Certificates, scheme: str, shown: str | None
) -> None:
    async with silent_server(asking(certificates)) as port:
        error = await failure(reach(scheme, port, certificates, getattr(certificates, shown or "", None)))

    assert isinstance(error, TransportError)
    assert "closed the connection after the TLS handshake without saying why" in str(error)


async def test_a_handshake_that_is_cut_is_told_in_words(certificates: Certificates, scheme: str) -> None:
    async with silent_server(asking(certificates, ssl.TLSVersion.TLSv1_2)) as port:
        error = await failure(reach(scheme, port, certificates, certificates.foreign))

    assert isinstance(error, ConnectError)
    assert "the server closed the connection during the handshake" in str(error)


@pytest.mark.parametrize(
    ("begins", "ends", "host", "said"),
    [
        (-3, -1, "127.0.0.1", "the server's certificate, or one in its chain, has expired"),
        (1, 2, "127.0.0.1", "the server's certificate, or one in its chain, is not valid yet; is the clock right here"),
        (-1, 1, "10.0.0.1", "the server's certificate is for another host; connect to a name that stands in it"),
    ],
    ids=["expired", "not valid yet", "another host"],
)
async def test_what_is_wrong_with_the_servers_certificate_is_named(
    certificates: Certificates, scheme: str, begins: float, ends: float, host: str, said: str
) -> None:
    context = asking(certificates)
    made = certificates.ours.issue("wrong", begins=begins, ends=ends, host=host)
    context.load_cert_chain(made.certificate, made.key)
    with blocking_server(context) as port:
        error = await failure(reach(scheme, port, certificates, certificates.good))

    assert isinstance(error, ConnectError)
    assert said in str(error)


async def test_a_host_name_that_stands_in_no_certificate_is_named(certificates: Certificates, scheme: str) -> None:
    context = asking(certificates)
    made = certificates.ours.issue("other-name", host_name="sync.example.org")
    context.load_cert_chain(made.certificate, made.key)
    with blocking_server(context) as port:
        error = await failure(reach(scheme, port, certificates, certificates.good, host="localhost"))

    assert isinstance(error, ConnectError)
    assert "is for another host" in str(error)
    assert "'localhost'" in str(error)


async def test_a_server_of_an_unknown_authority_is_named(certificates: Certificates, scheme: str) -> None:
    context = asking(certificates)
    context.load_cert_chain(certificates.foreign.certificate, certificates.foreign.key)
    with blocking_server(context) as port:
        error = await failure(reach(scheme, port, certificates, certificates.good))

    assert isinstance(error, ConnectError)
    assert "no trusted authority signed the server's certificate" in str(error)
    assert "give its CA (ca, --ca)" in str(error)


async def test_versions_of_tls_that_do_not_meet_are_named(certificates: Certificates, scheme: str) -> None:
    context = asking(certificates, ssl.TLSVersion.TLSv1_2)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(certificates.ours.ca)
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    kind = WebSocketTransport if scheme == "wss" else TCPTransport
    with blocking_server(context) as port:
        error = await failure(kind(f"{scheme}://127.0.0.1:{port}", ssl=client))

    assert isinstance(error, ConnectError)
    assert "takes none of the versions of TLS that are spoken here" in str(error)
