"""What the protocol page says of order, refusals and ends, seen from outside our server."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer
from interop.third_party.client import EndedError, connect
from interop.third_party.wire import Message, decode, encode_message, new_decoder

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "protocol.md").read_text(encoding="utf-8")
NONCE = bytes(12)


@pytest.fixture
async def server() -> AsyncIterator[SyncServer]:
    """Our server, open."""
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0, tcp_port=0) as running:
        yield running


def test_the_third_party_imports_nothing_of_ours() -> None:
    for module in ("wire", "client", "server"):
        tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
        imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        imported += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]

        assert imported
        assert not [name for name in imported if name.startswith(("agentlayers", "helpers"))]


def sealed(count: int, first: int = 0) -> bytes:
    """Return a WriteEntries with some entries of 1,000 bytes; the ids are their numbers."""
    listed = [
        {"entryId": number.to_bytes(16, "big"), "encryptedEntry": bytes(1000), "iv": number.to_bytes(12, "big")}
        for number in range(first, first + count)
    ]
    return encode_message("WriteEntries", publicKey="key", id=first, iv=NONCE, encryptedEntries=listed)


async def receive(socket: aiohttp.ClientWebSocketResponse, seconds: float = 5) -> Message:
    """Return the next message."""
    message: Message = decode(await socket.receive_bytes(timeout=seconds))
    return message


async def test_an_ack_waits_for_the_changes_below_it_and_they_for_credit(server: SyncServer) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(server.websocket_url) as writer:
            await receive(writer)
            await writer.send_bytes(sealed(3))
            await receive(writer)
        async with session.ws_connect(server.websocket_url) as reader:
            await receive(reader)
            await reader.send_bytes(encode_message("RequestChanges", publicKey="key", startSequence=0, credit=1))
            first = await receive(reader)
            await reader.send_bytes(sealed(1, first=3))
            await reader.send_bytes(sealed(0, first=4))
            await reader.send_bytes(encode_message("Ping", id=1))
            pong = await receive(reader)
            await reader.send_bytes(encode_message("Credit", publicKey="key", amount=100_000))
            changes, ack, nothing = [await receive(reader) for _ in range(3)]

    assert ([one["sequence"] for one in first["entries"]], first["through"]) == ([0], 1)
    assert pong["_tag"] == "Pong"
    assert ([one["sequence"] for one in changes["entries"]], changes["through"]) == ([1, 2], 3)
    assert ack == {"id": 3, "sequenceNumbers": [3], "through": 4, "_tag": "Ack"}
    assert nothing == {"id": 4, "sequenceNumbers": [], "through": 4, "_tag": "Ack"}


async def test_a_request_beyond_the_end_is_taken_as_the_end(server: SyncServer) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(server.websocket_url) as socket:
        await receive(socket)
        await socket.send_bytes(encode_message("RequestChanges", publicKey="key", startSequence=1000))
        await socket.send_bytes(sealed(0))
        ack = await receive(socket)

    assert ack == {"id": 0, "sequenceNumbers": [], "through": 0, "_tag": "Ack"}


MALFORMED = encode_message("RequestChanges", publicKey="key")
UNKNOWN = encode_message("Later", publicKey="key")
LONG_KEY = encode_message("StopChanges", publicKey="k" * 257)
PAST_A_BOUND = encode_message("ChunkedMessage", id=1, part=[0, 68], data=b"x")
SERVERS_OWN = encode_message("Pong", id=1)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("text", 1003),
        (MALFORMED, 1002),
        (UNKNOWN, 1002),
        (SERVERS_OWN, 1002),
        (encode_message("Ping", id=1) * 2, 1002),
        (LONG_KEY, 1002),
        (PAST_A_BOUND, 1009),
    ],
    ids=["text", "malformed", "unknown", "of a server", "two in one", "long key", "bound"],
)
async def test_what_is_not_allowed_ends_with_the_close_code_of_the_page(
    server: SyncServer, frame: str | bytes, code: int
) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(server.websocket_url) as socket:
        await receive(socket)
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
        await socket.receive(timeout=5)

        assert socket.close_code == code
        assert f"\n| {code} |" in PAGE


@pytest.mark.parametrize(
    ("frame", "code"),
    [(MALFORMED, "malformed_message"), (SERVERS_OWN, "unexpected_message"), (PAST_A_BOUND, "limit_exceeded")],
    ids=["malformed", "unexpected", "bound"],
)
async def test_over_tcp_who_authenticated_is_told_the_code(server: SyncServer, frame: bytes, code: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
    writer.write(encode_message("Authenticate", tenant="default", token="") + frame)
    decoder = new_decoder()
    decoder.feed(await asyncio.wait_for(reader.read(), 5))
    writer.close()

    assert list(decoder)[-1] == {"code": code, "_tag": "Rejected"}
    assert f"`{code}`" in PAGE


async def test_over_tcp_who_did_not_sees_the_end_only(server: SyncServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.tcp_port)
    writer.write(UNKNOWN)
    decoder = new_decoder()
    decoder.feed(await asyncio.wait_for(reader.read(), 5))
    writer.close()

    assert [message["_tag"] for message in decoder] == ["Hello"]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/event-log", {}, 401),
        ("/event-log", {"Authorization": "Bearer wrong"}, 401),
        ("/event-log/elsewhere", {"Authorization": "Bearer open-sesame"}, 401),
        ("/event-log/-", {"Authorization": "Bearer open-sesame"}, 403),
        ("/event-log", {"Authorization": "Bearer open-sesame", "Origin": "https://example.org"}, 403),
        ("/elsewhere", {"Authorization": "Bearer open-sesame"}, 404),
    ],
)
async def test_the_upgrade_is_refused_with_the_status_of_the_page(
    path: str, headers: dict[str, str], status: int
) -> None:
    auth = Authenticator({"default": "open-sesame"})
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0, auth=auth) as guarded,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"ws://127.0.0.1:{guarded.port}{path}", headers=headers)

    assert refused.value.status == status
    assert f"{status} " in PAGE


async def test_what_is_no_websocket_is_told_to_become_one(server: SyncServer) -> None:
    address = server.websocket_url.replace("ws:", "http:")
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        assert answer.status == 426
        assert "426 " in PAGE


async def test_a_browser_gives_its_token_as_a_subprotocol_and_has_it_echoed() -> None:
    auth = Authenticator({"default": "open-sesame"})
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0, auth=auth) as guarded,
        aiohttp.ClientSession() as session,
        session.ws_connect(guarded.websocket_url, protocols=("sync-auth.open-sesame",)) as socket,
    ):
        assert socket.protocol == "sync-auth.open-sesame"
        assert (await receive(socket))["_tag"] == "Hello"


async def test_a_name_that_no_tenant_can_have_is_refused_by_its_own_code(server: SyncServer) -> None:
    with pytest.raises(EndedError, match="authorization"):
        async with connect(f"tcp://127.0.0.1:{server.tcp_port}", tenant="no tenant"):
            pass


async def test_a_server_that_stops_says_1001_after_its_acks() -> None:
    async with MemoryServerStorage() as storage, aiohttp.ClientSession() as session:
        async with SyncServer(storage, port=0) as stopping:
            socket = await session.ws_connect(stopping.websocket_url)
            await receive(socket)
            await socket.send_bytes(sealed(2))
            ack = await receive(socket)
            goodbye = asyncio.ensure_future(socket.receive(timeout=5))
        await goodbye

    assert (ack["sequenceNumbers"], socket.close_code) == ([0, 1], 1001)
