"""The same server behind TLS, and on another event loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.wire_client import stream_client, websocket_client


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context for a certificate made now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(path))
    return server, client


async def test_both_media_speak_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    for_server, for_client = contexts
    async with SyncServer(MemoryServerStorage(), port=0, tcp_port=0, ssl=for_server) as server:
        assert server.websocket_url.startswith("wss://")
        assert (server.tcp_url or "").startswith("tls://")
        async with (
            websocket_client(server, ssl=for_client) as writer,
            stream_client(server, ssl=for_client) as reader,
        ):
            await writer.hello()
            await reader.hello()
            await reader.follow()
            for number in range(5):
                await writer.write(sealed_entries(1, first=number, size=900_000))
            found = await reader.changes(5)

    assert [entry.sequence for entry in found] == [0, 1, 2, 3, 4]


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_the_server_runs_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is an extra")

    async def run() -> list[int]:
        async with (
            SyncServer(MemoryServerStorage(), port=0, tcp_port=0) as server,
            websocket_client(server) as writer,
            stream_client(server) as reader,
        ):
            await writer.hello()
            await reader.hello()
            await reader.follow()
            for number in range(12):
                await writer.write(sealed_entries(1, first=number, size=900_000))
            return [entry.sequence for entry in await reader.changes(12)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == list(range(12))
