"""Strangers, clients of another tenant and clients that flood: what they can take from others, and what they leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from agentlayers.errors import LayerError
from agentlayers.layer import load_layers
from agentlayers.protocol import session as protocol_session
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.events import EntriesFetched, PongReceived
from agentlayers.protocol.messages import Authenticate, Message, Ping
from agentlayers.server import (
    Authenticator,
    MemoryServerStorage,
    ServerContainer,
    SQLiteServerStorage,
    SyncServer,
    app,
    connection,
    sqlite_writer,
)
from agentlayers.server.sqlite_writer import CallJob
from agentlayers.testing.contracts.server_storage import sealed_entries
from agentlayers.transport import loop_share
from helpers.certificates import Authority
from unit.server.wire_client import Client, stream_client, websocket_client

TOKEN = "canary-27c1e9"
WAIT = 10
ClientOf = Callable[..., contextlib.AbstractAsyncContextManager[Client]]
CLIENTS = [websocket_client, stream_client]


@pytest.fixture
async def server() -> AsyncIterator[SyncServer]:
    """A server with two tenants that have tokens of their own, and no others."""
    auth = Authenticator({"alpha": "token-a", "beta": "token-b"})
    async with MemoryServerStorage() as storage, SyncServer(storage, auth=auth, port=0, tcp_port=0) as server:
        yield server


@contextlib.asynccontextmanager
async def connected(port: int | None) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until_cut(reader: asyncio.StreamReader) -> bytes:
    """Return what the server still says before it ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(WAIT):
            while data := await reader.read(65_536):
                received += data
    return received


# -- strangers ----------------------------------------------------------------------------------------------


async def test_a_request_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a thousand sockets that send a byte now and then would leave no file for anybody else."""
    monkeypatch.setattr(app, "CONNECT_TIMEOUT_SECONDS", 0.2)
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0) as server,
        connected(server.port) as (silent, _),
        connected(server.port) as (slow, writer),
    ):
        writer.write(b"GET /event-log HTTP/1.1\r\nX-Long: ")

        async def trickle() -> None:
            while not slow.at_eof():
                writer.write(b"a")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert [await until_cut(silent), await until_cut(slow)] == [b"", b""]
        await trickling


async def test_a_websocket_outlives_the_time_that_a_request_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that says nothing may stay."""
    monkeypatch.setattr(app, "CONNECT_TIMEOUT_SECONDS", 0.1)
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0) as server,
        websocket_client(server) as client,
    ):
        await client.hello()
        await asyncio.sleep(0.3)
        await client.pong()


@pytest.mark.parametrize(
    "lines",
    [
        f"Authorization: Bearer {TOKEN}\x01\r\n\r\n",
        f"Authorization : Bearer {TOKEN}\r\n\r\n",
        f"Sec-WebSocket-Protocol: sync-auth.{TOKEN}\x00\r\n\r\n",
        f"X: {TOKEN * 1_000}\r\n\r\n",
        f"\r\n\r\n{TOKEN} no request",
    ],
    ids=["control character", "space", "subprotocol", "long", "garbage behind it"],
)
async def test_a_malformed_request_is_logged_without_what_it_holds(
    server: SyncServer, caplog: pytest.LogCaptureFixture, lines: str
) -> None:
    """It may hold a token, and is as long as whoever sends it likes."""
    caplog.set_level(logging.DEBUG)
    async with connected(server.port) as (reader, writer):
        writer.write(f"GET /event-log HTTP/1.1\r\nHost: x\r\n{lines}".encode())
        assert b"400 Bad Request" in await until_cut(reader)

    assert "request_malformed" in caplog.text
    assert TOKEN not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_strangers_name_of_a_tenant_is_not_logged(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """It may hold escapes that the terminal of an operator would follow; a name that can be none is refused first."""
    caplog.set_level(logging.DEBUG)
    ours = Authority(tmp_path_factory.mktemp("ours"))
    made = ours.issue("server")
    files = {"tls_cert": str(made.certificate), "tls_key": str(made.key), "client_ca": str(ours.ca)}
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0, **files) as server:  # type: ignore[arg-type]
        url = server.websocket_url.replace("wss:", "https:")
        async with aiohttp.ClientSession() as http, http.get(f"{url}/%1b%5d0;owned%07", ssl=False) as answer:
            assert answer.status == 403

    assert "owned" not in caplog.text


async def test_a_stranger_is_cut_off_before_it_has_a_frame_kept(
    server: SyncServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a token is asked for, nothing but an Authenticate is waited for."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 6 * WAIT)  # it is not the time that ends it
    async with connected(server.tcp_port) as (reader, writer):
        writer.write(b"\xc6\x00\x30\x00\x00" + bytes(1_000_000))

        assert await until_cut(reader) == b""


# -- another tenant -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["token-b", "wrong", None])
async def test_a_tenant_that_exists_is_refused_like_one_that_does_not(server: SyncServer, token: str | None) -> None:
    """So that nobody learns who is served."""
    async with websocket_client(server, tenant="alpha", token="token-a") as client:
        await client.hello()
        await client.write(sealed_entries(1))
    origin = f"http://{urlsplit(server.websocket_url).netloc}/event-log"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    refusals = []
    async with aiohttp.ClientSession() as http:
        for tenant in ("alpha", "nobody"):
            async with http.get(f"{origin}/{tenant}", headers=headers) as answer:
                shown = {name: value for name, value in answer.headers.items() if name != "Date"}
                refusals.append((answer.status, shown, await answer.text()))
    rejections = []
    for tenant in ("alpha", "nobody"):
        async with connected(server.tcp_port) as (reader, writer):
            writer.write(encode_message(Authenticate(tenant, token or "")))
            rejections.append(await until_cut(reader))

    assert refusals[0] == refusals[1]
    assert refusals[0][0] == 401
    assert rejections[0] == rejections[1] != b""


@pytest.mark.parametrize("client_of", CLIENTS, ids=["websocket", "tcp"])
async def test_a_key_of_another_tenant_is_another_key(server: SyncServer, client_of: ClientOf) -> None:
    """Neither its entries, nor its head, nor that it is there can be learned, and nothing be added to it."""
    entries = sealed_entries(3)
    async with client_of(server, tenant="alpha", token="token-a") as owner:
        await owner.hello()
        await owner.write(entries)
        async with client_of(server, tenant="beta", token="token-b") as other:
            await other.hello()
            other.session.fetch_entries("key", [entry.entry_id for entry in entries])
            await other.follow()
            await other.flush()
            fetched: EntriesFetched = await other.next(EntriesFetched)
            other.session.ping({"key": 0})
            await other.flush()
            pong: PongReceived = await other.next(PongReceived)
            assert (fetched.entries, fetched.unanswered, pong.digests["key"].head) == ((), (), 0)

            ack = await other.write(entries[:1])
            assert ack.sequence_numbers == (0,)

        await owner.follow()
        owner.session.ping({"key": 3})
        assert [entry.entry_id for entry in await owner.changes(3)] == [entry.entry_id for entry in entries]
        await owner.flush()
        pong = await owner.next(PongReceived)
        assert pong.digests["key"].head == 3


# -- floods -------------------------------------------------------------------------------------------------


async def flooded(client: Client, messages: list[bytes]) -> None:
    """Send everything at once, and read every answer."""
    if hasattr(client.socket, "websocket"):
        for message in messages:
            await client.socket.send(message)
    else:
        await client.socket.send(b"".join(messages))
    received = 0
    while received < len(messages):
        data = await asyncio.wait_for(client.socket.receive(), WAIT)
        received += data.count(b"\xa4Pong")


@pytest.mark.parametrize("client_of", CLIENTS, ids=["websocket", "tcp"])
async def test_a_flood_does_not_keep_other_clients_waiting(
    server: SyncServer, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is little work, and there is always one more to read: the loop would see to nobody else."""
    monkeypatch.setattr(loop_share, "SECONDS_MAX", 0.0)
    handled = most = 0

    def counted(data: bytes) -> Message:
        nonlocal handled
        handled += 1
        return decode_message(data)

    async with client_of(server, tenant="alpha", token="token-a") as client:
        await client.hello()
        monkeypatch.setattr(protocol_session, "decode_message", counted)
        flooding = asyncio.create_task(flooded(client, [encode_message(Ping(number)) for number in range(3_000)]))
        before = handled
        while not flooding.done():
            await asyncio.sleep(0)
            most, before = max(most, handled - before), handled
        await flooding

    assert 0 < most < 400


async def test_new_keys_do_not_cost_a_commit_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would wait for the disk, and everybody else's entries behind it; nor are they remembered for ever."""
    monkeypatch.setattr(sqlite_writer, "_JOURNALS_MAX", 100)
    statements: list[str] = []
    loop = asyncio.get_running_loop()
    async with SQLiteServerStorage(tmp_path) as storage:
        writer = storage._writer
        assert writer is not None
        traced = loop.create_future()
        writer.submit(CallJob("trace", lambda db: db.set_trace_callback(statements.append), traced))
        await asyncio.wait_for(traced, WAIT)
        statements.clear()
        for number in range(10):
            # While the writer is busy with this, the appends gather behind it.
            held, go_on = loop.create_future(), threading.Event()
            writer.submit(CallJob("hold", lambda db, go_on=go_on: go_on.wait(WAIT), held))  # type: ignore[misc]
            appends = [storage.append("tenant", f"key {number} {one}", sealed_entries(1)) for one in range(30)]
            appending = asyncio.gather(*appends)
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.wait_for(asyncio.gather(held, appending), WAIT)
            assert await storage.head("tenant", f"key {number} 29") == 1
        assert len(writer._journals) < 200

    is_begun, made, made_alone = False, 0, 0
    for statement in statements:
        is_begun = (is_begun or statement.startswith("BEGIN")) and not statement.startswith("COMMIT")
        made += statement.startswith("INSERT INTO journals")
        made_alone += statement.startswith("INSERT INTO journals") and not is_begun
    assert (made, made_alone) == (300, 0)


# -- what an operator is shown ------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", [f"{{tokens: {{tokens: {TOKEN}}}}}", "{token: {token: 271900}}"])
async def test_a_token_in_a_wrong_place_is_not_repeated(auth: str) -> None:
    """What is wrong with a graph is told in terminals, logs and builds; a number is as good a token as a word."""
    text = f"container: server\nstorage: memory\nauth: {auth}\n"
    with pytest.raises(LayerError, match=r"3:\d+: tokens?: expected .*, got \*\*\*") as caught:
        load_layers(text, container=ServerContainer, containers={"server": ServerContainer})

    assert TOKEN not in str(caught.value)
    assert "271900" not in str(caught.value)
