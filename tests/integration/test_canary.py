"""
What is written on a replica shows nowhere outside replicas: not in frames, server files, logs or sealed exports.

Each place is searched for texts and bytes that stand in the content, its names and its keys, as they are and in the
usual encodings. With the plaintext provider the same search finds them, so it can.
"""

from __future__ import annotations

import base64
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption, Encryption, PlaintextEncryption
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal import SQLiteJournal
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.protocol.payload import encode_payload
from agentlayers.schedule import fixed
from agentlayers.server import Authenticator, SQLiteServerStorage, SyncServer
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.export import export_lines
from agentlayers.storage.sealed_export import ExportSecret, seal_lines
from agentlayers.sync.service import SyncService
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Connection, Transport
from agentlayers.transport.websocket import WebSocketTransport

TEXT = "canary-Zaunkönig-im-Text"
SESSION = "canary-session-4711"
NAME = "canary-artifact-name"
CONTENT = b"canary \x00 bytes of the content \xff" * 8
TOKEN = "canary-token-of-the-tenant"
LARGE = 3_000_000


def encodings(secret: str | bytes) -> list[bytes]:
    """Return what a secret may look like when it leaks."""
    data = secret.encode() if isinstance(secret, str) else secret
    found = [data, data.hex().encode(), data.hex().upper().encode(), repr(data)[2:-1].encode()]
    if isinstance(secret, str):
        found += [secret.encode("utf-16-le"), repr(secret)[1:-1].encode(), secret.encode("unicode_escape")]
    for shift in range(3):  # base64 looks different at each offset; the ends depend on the neighbours
        found.append(base64.b64encode(bytes(shift) + data)[4 : -(4 + shift)])
    return found


def leaks(places: Iterable[bytes], *secrets: str | bytes) -> list[str | bytes]:
    """Return the secrets that stand in any of the places."""
    data = b"\n".join(places)
    return [secret for secret in secrets if any(form in data for form in encodings(secret))]


class Recorded(Connection):
    """A connection, and every byte that went through it."""

    def __init__(self, connection: Connection, frames: list[bytes]) -> None:
        self.is_stream, self.authenticate = connection.is_stream, connection.authenticate
        self._connection, self._frames = connection, frames

    async def send(self, data: bytes) -> None:
        self._frames.append(bytes(data))
        await self._connection.send(data)

    async def receive(self) -> bytes:
        data = await self._connection.receive()
        self._frames.append(bytes(data))
        return data

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._connection.close(code, reason)


class RecordedTransport(Transport):
    """A transport whose connections are recorded."""

    def __init__(self, transport: Transport, frames: list[bytes]) -> None:
        self._transport, self._frames = transport, frames

    @property
    def url(self) -> str:
        return self._transport.url

    async def connect(self) -> Connection:
        return Recorded(await self._transport.connect(), self._frames)


@contextlib.asynccontextmanager
async def replica(
    directory: Path, transport: Transport, encryption: Encryption, identity: Identity
) -> AsyncIterator[tuple[ChatHistoryStore, ArtifactStore, SyncService]]:
    flags = {"chat_history": True, "artifacts": True, "artifact_content": True}
    sync = SyncService(transport, encryption, stores=flags, schedule=fixed(0.01))
    async with (
        SQLiteJournal(directory) as journal,
        sync,
        ChatHistoryStore(journal, identity, sync=sync) as chat,
        ArtifactStore(journal, identity, sync=sync) as artifacts,
    ):
        yield chat, artifacts, sync


async def large_content() -> AsyncIterator[bytes]:
    piece = CONTENT * 100
    for _ in range(LARGE // len(piece)):
        yield piece


@pytest.mark.parametrize("medium", ["websocket", "tcp"])
@pytest.mark.parametrize("encryption", [AesGcmEncryption(), PlaintextEncryption()], ids=["sealed", "plaintext"])
async def test_content_shows_outside_replicas_only_without_encryption(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, medium: str, encryption: Encryption
) -> None:
    caplog.set_level(logging.DEBUG)
    identity, frames = Identity.generate(), []  # type: tuple[Identity, list[bytes]]
    auth = Authenticator.single_token(TOKEN)
    async with (
        SQLiteServerStorage(tmp_path / "server") as storage,
        SyncServer(storage, auth=auth, port=0, tcp_port=0) as server,
    ):
        reach = WebSocketTransport(server.websocket_url, TOKEN) if medium == "websocket" else _tcp(server)
        transport = RecordedTransport(reach, frames)
        async with (
            replica(tmp_path / "a", transport, encryption, identity) as (chat, artifacts, sync),
            replica(tmp_path / "b", transport, encryption, identity) as (other_chat, other_artifacts, other_sync),
        ):
            await chat.append(SESSION, {"type": "user", "text": TEXT})
            await artifacts.put(ArtifactRecord(id=NAME, session_id=SESSION, kind="file", content=CONTENT))
            record = ArtifactRecord(id=NAME + "-large", session_id=SESSION, kind="file", content=b"")
            await artifacts.put_stream(record, large_content())
            await sync.sync_now()
            await other_sync.sync_now()
            assert [message.message["text"] for message in await other_chat.list(SESSION)] == [TEXT]
            found = await other_artifacts.get(NAME)
            assert found is not None
            assert found.content == CONTENT
            assert b"".join([piece async for piece in other_artifacts.open(NAME + "-large")]).startswith(CONTENT)
        files = [path.read_bytes() for path in sorted((tmp_path / "server").rglob("*")) if path.is_file()]

    secrets = (TEXT, SESSION, NAME, CONTENT)
    leaking = () if isinstance(encryption, AesGcmEncryption) else secrets
    assert sum(map(len, files)) > 0.9 * LARGE
    assert sum(map(len, frames)) > 1.9 * LARGE
    assert tuple(leaks(files, *secrets)) == leaking
    assert tuple(leaks(frames, *secrets)) == leaking
    assert leaks([caplog.text.encode()], *secrets, TOKEN) == []
    assert leaks(files, TOKEN) == []
    assert "connection_opened" in caplog.text


def _tcp(server: SyncServer) -> TCPTransport:
    assert server.tcp_url is not None
    return TCPTransport(server.tcp_url, TOKEN)


async def test_an_entry_that_cannot_be_read_is_reported_without_what_it_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where the sealed text is no entry, nor where the entry's payload is not what the store knows."""
    caplog.set_level(logging.DEBUG)
    identity = Identity.generate()
    async with SQLiteServerStorage(tmp_path / "server") as storage, SyncServer(storage, port=0) as server:
        transport = WebSocketTransport(server.websocket_url)
        async with (
            SQLiteJournal(tmp_path / "bad") as journal,
            SyncService(transport, _Broken(), stores={"chat_history": True}) as sync,
        ):
            log = EventLog(journal, identity, StoreSchema(name="chat_history"))
            await log.open()
            sync.register(log)
            await log.write("chat_event", f"{SESSION}:1", {"broken": TEXT})
            await log.write("chat_event", f"{SESSION}:2", {"sessionId": SESSION, "sequence": TEXT, "event": [TEXT]})
            await sync.sync_now()
        async with replica(tmp_path / "good", transport, AesGcmEncryption(), identity) as (_, _, sync):
            await sync.sync_now()
            # The second one is taken over, and set aside by the journal as one that no read model can use.
            assert sync.status.stores["chat_history"].quarantined == 1
            reasons = repr(sync.quarantine("chat_history"))

    assert "entry_quarantined" in caplog.text
    assert "unapplied" in caplog.text
    assert leaks([caplog.text.encode(), reasons.encode()], TEXT, SESSION) == []


class _Broken(Encryption):
    """Seals the entries whose payload says so as something that is no entry."""

    def __init__(self) -> None:
        self._real = AesGcmEncryption()

    def seal(self, key: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        broken = encode_payload({"text": TEXT, SESSION: 1})
        return self._real.seal(key, broken if b"broken" in plaintext else plaintext)

    def open_sealed(self, key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
        return self._real.open_sealed(key, iv, ciphertext)


async def test_a_sealed_export_shows_nothing_and_a_plain_one_everything(tmp_path: Path) -> None:
    identity = Identity.generate()
    async with (
        SQLiteJournal(tmp_path / "a") as journal,
        ChatHistoryStore(journal, identity) as chat,
        ArtifactStore(journal, identity) as artifacts,
    ):
        await chat.append(SESSION, {"type": "user", "text": TEXT})
        await artifacts.put(ArtifactRecord(id=NAME, session_id=SESSION, kind="file", content=CONTENT))
    plain = [*export_lines(tmp_path / "a")]
    secret: Any
    for secret in (ExportSecret.of_identity(identity), ExportSecret.of_passphrase(TOKEN)):
        sealed = [*seal_lines(plain, secret)]
        assert leaks([line.encode() for line in sealed], TEXT, SESSION, NAME, CONTENT, TOKEN) == []

    assert leaks([line.encode() for line in plain], TEXT, SESSION, NAME, CONTENT) == [TEXT, SESSION, NAME, CONTENT]


@pytest.mark.parametrize("shift", range(5))
def test_the_search_finds_every_encoding(shift: int) -> None:
    noise = b"0123456789"
    for secret in (TEXT, CONTENT):
        data = secret.encode() if isinstance(secret, str) else secret
        around = noise[:shift] + data + noise
        for hidden in (around, around.hex().encode(), base64.b64encode(around)):
            assert leaks([b"x", hidden], secret) == [secret]
    assert leaks([repr(TEXT).encode(), b"nothing"], TEXT, CONTENT) == [TEXT]
    assert leaks([b"nothing"], TEXT, CONTENT) == []
