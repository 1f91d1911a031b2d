"""Every way to name a server takes the files for TLS, and says it when they do not do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import AuthenticationError, SettingsError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.layer import Layer
from agentlayers.layer.errors import LayerStartError
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.presets import load_preset
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.sync.service import SyncService
from agentlayers.sync.status import SyncState
from agentlayers.transport.offline import OfflineTransport
from agentlayers.transport.transport import TLSFiles
from helpers.certificates import Authority, Issued
from helpers.sync_world import replica


@dataclass(frozen=True)
class Certificates:
    """An authority of ours and its server, and a client of somebody else."""

    ours: Authority
    server: Issued
    client: Issued
    expired: Issued
    foreign: Issued
    foreign_ca: Path

    def files(self, shown: Issued | None = None) -> TLSFiles:
        """Name what a replica gives that trusts our authority."""
        one = shown or self.client
        return {"ca": str(self.ours.ca), "client_cert": str(one.certificate), "client_key": str(one.key)}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    ours, foreign = Authority(tmp_path_factory.mktemp("ours")), Authority(tmp_path_factory.mktemp("foreign"), "another")
    expired = ours.issue("expired", begins=-3, ends=-1)
    return Certificates(ours, ours.issue("server"), ours.issue("client"), expired, foreign.issue("client"), foreign.ca)


@pytest.fixture
async def server(certificates: Certificates) -> AsyncIterator[SyncServer]:
    """A server that lets in nobody without a certificate of our authority."""
    async with SyncServer(
        MemoryServerStorage(),
        port=0,
        tcp_port=0,
        tls_cert=str(certificates.server.certificate),
        tls_key=str(certificates.server.key),
        client_ca=str(certificates.ours.ca),
    ) as server:
        yield server


WAYS: dict[str, Callable[[SyncServer, TLSFiles], Layer]] = {
    "layer_websocket": lambda server, files: SyncService.layer_websocket(server.websocket_url, **files),
    "layer_tcp": lambda server, files: SyncService.layer_tcp(server.tcp_url or "", **files),
    "with_remote_sync, WebSocket": lambda server, files: SyncService.with_remote_sync(server.websocket_url, **files),
    "with_remote_sync, TCP": lambda server, files: SyncService.with_remote_sync(server.tcp_url or "", **files),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_sync_layer_takes_the_files(certificates: Certificates, server: SyncServer, way: str) -> None:
    layer = WAYS[way](server, certificates.files()).provide(Encryption.layer_aes_gcm())
    async with layer.build(SyncService) as sync:
        assert (await sync.connect()).state is SyncState.CONNECTED


async def test_a_service_connects_to_further_servers_with_files(certificates: Certificates, server: SyncServer) -> None:
    files, port = certificates.files(), int((server.tcp_url or "").rpartition(":")[2])
    async with replica(OfflineTransport()) as one:
        await one.sync.connect_websocket(server.websocket_url, **files)
        status = await one.sync.connect_tcp("127.0.0.1", port, tls=True, **files)
        assert set(status.remotes) == {server.websocket_url, server.tcp_url}

        await one.write("hello")
        report = await one.sync.sync_now()
        assert [remote.error for remote in report.remotes] == [None, None]

        with pytest.raises(SettingsError, match="wss:// or tls:// where certificates are given"):
            await one.sync.connect_tcp("127.0.0.1", port, **files)


async def test_a_store_with_a_remote_of_its_own_takes_the_files(certificates: Certificates, server: SyncServer) -> None:
    shared = Layer.merge(
        Layer.scoped(EventJournal, MemoryJournal),
        Layer.succeed(Identity, Identity.generate()),
        Encryption.layer_aes_gcm(),
    )
    layer = ChatHistoryStore.layer_journaled_with_sync_websocket(server.websocket_url, **certificates.files()).provide(
        shared
    )
    async with layer.build(ChatHistoryStore) as writer, layer.build(ChatHistoryStore) as reader:
        await writer.append("session", {"type": "user", "text": "hello"})
        async with asyncio.timeout(10):
            while not await reader.list("session"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
async def test_a_file_that_cannot_be_used_points_at_the_callers_line(
    certificates: Certificates, server: SyncServer, way: str
) -> None:
    layer = WAYS[way](server, {**certificates.files(), "client_key": "missing.key"}).provide(Encryption.layer_aes_gcm())
    with pytest.raises(LayerStartError, match=r"client_key: 'missing\.key' cannot be used") as caught:
        async with layer.build(SyncService):
            pass

    assert f"{Path(__file__).name}:" in str(caught.value)


async def test_a_store_in_yaml_takes_the_files(
    certificates: Certificates, server: SyncServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path / "replica"))
    files = certificates.files()
    container = load_preset(
        f"""
        extends: local
        chat_history:
          journaled_with_sync_websocket:
            url: {server.websocket_url}
            ca: {files["ca"]}
            client_cert: {files["client_cert"]}
            client_key: {files["client_key"]}
        """
    )
    async with container.build(ChatHistoryStore), asyncio.timeout(10):
        while not server.connection_count:  # noqa: ASYNC110 - who is not let in is not counted
            await asyncio.sleep(0.01)


async def test_a_runtime_with_remote_sync_takes_the_files(
    certificates: Certificates, server: SyncServer, tmp_path: Path
) -> None:
    layer = AgentRuntime.layer_with_remote_sync(server.websocket_url, directory=tmp_path, **certificates.files())
    async with layer.build(AgentRuntime) as runtime:
        assert runtime.sync is not None
        assert (await runtime.sync.connect()).state is SyncState.CONNECTED


@pytest.mark.parametrize("medium", ["websocket", "tcp"])
async def test_the_status_says_that_the_certificate_was_refused(
    certificates: Certificates, server: SyncServer, medium: str
) -> None:
    url = server.websocket_url if medium == "websocket" else server.tcp_url or ""
    layer = SyncService.with_remote_sync(url, **certificates.files(certificates.foreign)).provide(
        Encryption.layer_aes_gcm()
    )
    async with layer.build(SyncService) as sync:
        with pytest.raises(AuthenticationError, match="does not know the authority that signed it"):
            await sync.connect()
        assert "does not know the authority that signed it" in (sync.status.last_error or "")


# -- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A replica with one message."""
    identity = Identity.load_or_create(tmp_path / "identity")
    async with SQLiteJournal(tmp_path) as journal, ChatHistoryStore(journal, identity) as chat:
        await chat.append("session", {"type": "user", "text": "hello"})
    return tmp_path


async def synced(directory: Path, url: str, files: TLSFiles) -> tuple[int, str]:
    """Run ``agentlayers sync``; returns its exit status and what it said on standard error."""
    options = [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", str(path))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentlayers", "sync", str(directory), "--to", url, *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("SYNC_")},
    )  # fmt: skip
    _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@contextlib.asynccontextmanager
async def showing(certificate: Issued) -> AsyncIterator[SyncServer]:
    """Serve with a certificate that ``SyncServer`` itself would not take from a file."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    async with SyncServer(MemoryServerStorage(), port=0, tcp_port=0, ssl=context) as server:
        yield server


async def test_the_command_tells_each_refusal_in_one_line_with_a_status_of_its_own(
    certificates: Certificates, server: SyncServer, directory: Path
) -> None:
    websocket, tcp = server.websocket_url, server.tcp_url or ""
    good = certificates.files()
    wanted: list[tuple[str, TLSFiles, int, str]] = [
        (websocket, {"ca": good["ca"]}, 3, "asks for a token or a client certificate"),
        (tcp, {"ca": good["ca"]}, 3, "client certificate"),
        (websocket, certificates.files(certificates.foreign), 3, "does not know the authority that signed it"),
        (tcp, certificates.files(certificates.foreign), 3, "does not know the authority that signed it"),
        (tcp, {"ca": str(certificates.foreign_ca)}, 5, "no trusted authority signed the server's certificate"),
        (websocket, certificates.files(certificates.expired), 2, "this one expired on"),
    ]
    for url, files, status, said in wanted:
        returned, error = await synced(directory, url, files)

        assert (returned, error.count("error: "), len(error.splitlines())) == (status, 1, 1), error
        assert said in error


async def test_the_command_says_what_is_wrong_with_the_servers_certificate(
    certificates: Certificates, directory: Path
) -> None:
    elsewhere = certificates.ours.issue("elsewhere", host="10.0.0.1")
    async with showing(certificates.expired) as expired, showing(elsewhere) as other:
        for url, said in (
            (expired.websocket_url, "the server's certificate, or one in its chain, has expired"),
            (other.tcp_url or "", "the server's certificate is for another host"),
        ):
            returned, error = await synced(directory, url, {"ca": str(certificates.ours.ca)})

            assert returned == 5
            assert error.startswith(f"error: cannot connect to {url}")
            assert said in error
