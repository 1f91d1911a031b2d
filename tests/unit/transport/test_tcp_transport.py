"""The TCP transport against a real asyncio server on loopback, with and without TLS."""

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agentlayers import limits
from agentlayers.errors import ConnectError, ConnectionLostError, SettingsError
from agentlayers.protocol.messages import Authenticate
from agentlayers.transport.offline import OfflineTransport
from agentlayers.transport.tcp import TCPTransport

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until the peer is done."""
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()


async def test_bytes_travel_both_ways() -> None:
    """A stream: nothing tells where a message ends."""
    async with serving(echo) as port:
        connection = await TCPTransport(f"tcp://127.0.0.1:{port}").connect()
        await connection.send(b"one")
        await connection.send(b"two")
        received = b""
        while len(received) < 6:
            received += await connection.receive()
        await connection.close()
        await connection.close()

    assert received == b"onetwo"
    assert connection.is_stream
    assert connection.authenticate is None


@pytest.mark.parametrize(
    ("token", "tenant", "expected"),
    [
        (None, None, None),
        ("", "", None),
        ("t", None, Authenticate(tenant="default", token="t")),
        ("t", "a", Authenticate(tenant="a", token="t")),
        (None, "a", Authenticate(tenant="a", token="")),
    ],
)
async def test_credentials_are_left_to_the_session(
    token: str | None, tenant: str | None, expected: Authenticate | None
) -> None:
    """TCP has no header to carry them."""
    async with serving(echo) as port:
        connection = await TCPTransport(f"tcp://127.0.0.1:{port}", token, tenant).connect()
        await connection.close()

    assert expected == connection.authenticate


async def test_a_closed_stream_is_a_lost_connection() -> None:
    """Reading and writing both say so."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        return

    async with serving(close) as port:
        connection = await TCPTransport(f"tcp://127.0.0.1:{port}").connect()
        with pytest.raises(ConnectionLostError, match="closed the connection"):
            await connection.receive()
        await connection.close()
        with pytest.raises(ConnectionLostError):
            await connection.send(b"late")


async def test_nobody_listening_is_a_connect_error() -> None:
    """With an address that can be shown."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()

    with pytest.raises(ConnectError, match="connection refused") as caught:
        await TCPTransport(f"tcp://127.0.0.1:{port}", "s3cr3t").connect()

    assert f"tcp://127.0.0.1:{port}" == caught.value.url


async def test_close_does_not_wait_for_a_peer_that_does_not_read() -> None:
    """What cannot be flushed is dropped."""
    done = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()

    async with serving(deaf) as port:
        connection = await TCPTransport(f"tcp://127.0.0.1:{port}").connect()

        async def flood() -> None:
            while True:
                await connection.send(bytes(limits.MIB))

        flooding = asyncio.create_task(flood())
        finished, _ = await asyncio.wait({flooding}, timeout=0.3)
        assert not finished
        flooding.cancel()
        await asyncio.wait({flooding})
        await asyncio.wait_for(connection.close(), 20)
        done.set()


def certificate(directory: Path) -> Path:
    """Make a self-signed certificate for localhost."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_tls_is_spoken_to_a_trusted_server_and_refused_to_another(tmp_path: Path) -> None:
    """An unknown certificate is a connect error that says so."""
    path = certificate(tmp_path)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(path)
    trusting = ssl.create_default_context(cafile=str(path))
    async with serving(echo, server_context) as port:
        connection = await TCPTransport(f"tls://localhost:{port}", ssl=trusting).connect()
        await connection.send(b"sealed")
        received = await connection.receive()
        await connection.close()
        with pytest.raises(ConnectError, match="TLS: "):
            await TCPTransport(f"tls://localhost:{port}").connect()

    assert received == b"sealed"


def test_the_representation_hides_the_token_and_equal_values_are_equal() -> None:
    """Transports are values."""
    one = TCPTransport("tcp://h:1", "s3cr3t", "a")

    assert repr(one) == "TCPTransport('tcp://h:1', token=***, tenant='a')"
    assert TCPTransport("tcp://h:1", "s3cr3t", "a") == one
    assert hash(TCPTransport("tcp://h:1", "s3cr3t", "a")) == hash(one)
    assert TCPTransport("tcp://h:1", "other", "a") != one
    assert TCPTransport("tcp://[::1]:1").url == "tcp://[::1]:1"
    with pytest.raises(SettingsError, match="tls://"):
        TCPTransport("tcp://h:1", ssl=ssl.create_default_context())


async def test_the_offline_transport_leads_nowhere() -> None:
    """It says so before anybody tries, and when somebody does."""
    transport = OfflineTransport()

    assert not transport.is_online
    assert transport.url == "offline"
    assert OfflineTransport() == transport
    with pytest.raises(ConnectError, match="no transport is configured"):
        await transport.connect()
