"""A client of the tests: a real socket and the protocol's client session, nothing in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp

from agentlayers.limits import FRAME_BYTES_MAX
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.events import AckReceived, ChangesReceived, HelloReceived
from agentlayers.protocol.messages import Authenticate, Credit, EncryptedEntry, RemoteEncryptedEntry
from agentlayers.server import SyncServer

WAIT = 10.0


class Closed(Exception):  # noqa: N818 - an event of the tests, not a fault
    """The server closed the connection."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Socket(Protocol):
    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...


class WebSocket:
    """One binary frame, one message."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.websocket = websocket

    async def send(self, data: bytes) -> None:
        await self.websocket.send_bytes(data)

    async def receive(self) -> bytes:
        message = await self.websocket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return bytes(message.data)
        raise Closed(self.websocket.close_code, str(message.extra or ""))


class Stream:
    """Bytes, cut anywhere."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        data = await self.reader.read(65_536)
        if not data:
            raise Closed(None, "")
        return data


class Client:
    """Speaks to the server and keeps every event until a test asks for it."""

    def __init__(self, socket: Socket, session: ClientSession) -> None:
        self.socket = socket
        self.session = session
        self.events: list[Any] = []

    async def flush(self) -> None:
        for message in self.session.data_to_send():
            await self.socket.send(message)

    async def _receive(self) -> None:
        async with asyncio.timeout(WAIT):
            data = await self.socket.receive()
        self.session.receive_data(data)
        self.events += self.session.events_received()

    async def next(self, kind: type[Any] = object) -> Any:
        """Return the next event of a kind; events before it stay."""
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind):
                    return self.events.pop(index)
            await self._receive()

    async def hello(self) -> HelloReceived:
        found: HelloReceived = await self.next()
        assert isinstance(found, HelloReceived)
        if isinstance(self.socket, Stream) and self.session.takes_credit:
            # Anything of ours will do: to a stock peer over TCP the server speaks slowly.
            await self.socket.send(encode_message(Credit("nothing that is followed", 1)))
        return found

    async def follow(self, public_key: str = "key", start: int = 0) -> None:
        self.session.request_changes(public_key, start)
        await self.flush()

    async def write(self, entries: Sequence[EncryptedEntry], public_key: str = "key") -> AckReceived:
        message_id = self.session.write_entries(public_key, entries)
        await self.flush()
        ack: AckReceived = await self.next(AckReceived)
        assert ack.message_id == message_id
        return ack

    async def changes(self, count: int, public_key: str = "key") -> list[RemoteEncryptedEntry]:
        """Return the next ``count`` entries of a key."""
        found: list[RemoteEncryptedEntry] = []
        while len(found) < count:
            event: ChangesReceived = await self.next(ChangesReceived)
            assert event.public_key == public_key
            found += event.entries
        return found

    async def pong(self) -> None:
        """Wait for the answer to a Ping: everything sent before it has been handled."""
        self.session.ping()
        await self.flush()
        await self.next()

    async def closed(self) -> Closed:
        """Wait for the server to close the connection."""
        try:
            while True:
                await self._receive()
        except Closed as closed:
            return closed
        except ConnectionError:
            return Closed(None, "")


@asynccontextmanager
async def websocket_client(
    server: SyncServer, *, tenant: str | None = None, token: str | None = None, **options: Any
) -> AsyncIterator[Client]:
    url = server.websocket_url + (f"/{tenant}" if tenant else "")
    headers = dict(options.pop("headers", {}))
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(url, headers=headers, max_msg_size=FRAME_BYTES_MAX, **options) as websocket,
    ):
        yield Client(WebSocket(websocket), ClientSession(is_stream=False))


@asynccontextmanager
async def stream_client(
    server: SyncServer, *, tenant: str | None = None, token: str | None = None, ssl: SSLContext | None = None
) -> AsyncIterator[Client]:
    assert server.tcp_url is not None
    address = urlsplit(server.tcp_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=ssl)
    authenticate = Authenticate(tenant or "default", token or "") if tenant or token else None
    client = Client(Stream(reader, writer), ClientSession(is_stream=True, authenticate=authenticate))
    try:
        await client.flush()
        yield client
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
