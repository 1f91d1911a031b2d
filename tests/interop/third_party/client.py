"""
A client of the sync protocol, written from docs/reference/protocol.md alone.

It holds what it received in memory and does what the page says a client does: it joins chunks, batches under nonces
of its own, keeps to the write window, gives credit and renews it, resumes by ``through``, and compares digests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from interop.third_party.wire import Digest, Entry, Joiner, Message, StoreKeys, cut, decode, encode_message, new_decoder

UNDERSTOOD = frozenset({"entry-nonces", "through", "digests", "credit", "fetch"})
CREDIT = 1_000_000
ENTRY_COST = 256


class EndedError(Exception):
    """The connection ended; the text is why, as far as the server said it."""


@dataclass
class Followed:
    """What is known of one public key: kept over connections."""

    keys: StoreKeys
    entries: dict[bytes, Entry] = field(default_factory=dict)
    cursor: int = 0
    changes: int = 0
    unopened: int = 0
    ids: dict[int, bytes] = field(default_factory=dict)
    owed: int = 0

    @property
    def digest(self) -> bytes:
        """The digest below the cursor."""
        digest = Digest()
        for sequence in range(self.cursor):
            digest.add(self.ids[sequence])
        return digest.value


class Client:
    """One connection."""

    def __init__(self, connection: Any, *, tenant: str, understood: Iterable[str]) -> None:
        self._connection = connection
        self._tenant = tenant
        self._understood = frozenset(understood)
        self._joiner = Joiner()
        self._answers: dict[tuple[str, int], asyncio.Future[Message]] = {}
        self._unacknowledged: dict[int, tuple[str, int]] = {}
        self._number = 0
        self._pings = 0
        self._sending = asyncio.Lock()
        self._changed = asyncio.Condition()
        self.followed: dict[str, Followed] = {}
        self.hello: Message = {}
        self.ended: EndedError | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        """What both sides understand."""
        return self._understood & frozenset(self.hello.get("agentlayers", {}).get("capabilities", ()))

    async def write(self, keys: StoreKeys, entries: list[Entry]) -> list[int]:
        """Write entries: as one batch if each may have a nonce of its own, else one by one."""
        if "entry-nonces" in self.capabilities or not entries:
            return await self._write(keys, entries)
        answers = await asyncio.gather(*(self._write(keys, [entry]) for entry in entries))
        return [sequence for answer in answers for sequence in answer]

    async def _write(self, keys: StoreKeys, entries: list[Entry]) -> list[int]:
        nonces = [os.urandom(12) for _ in entries] or [os.urandom(12)]
        sealed = [entry.sealed(keys.encryption_key, iv) for entry, iv in zip(entries, nonces, strict=False)]
        number, self._number = self._number, self._number + 1
        size = sum(map(len, sealed))
        async with self._changed:
            await self._changed.wait_for(lambda: self.ended or self._window_is_open(keys.public_key))
            self._unacknowledged[number] = (keys.public_key, size)
        own = "entry-nonces" in self.capabilities
        listed = [
            {"entryId": entry.id, "encryptedEntry": text} | ({"iv": iv} if own else {})
            for entry, text, iv in zip(entries, sealed, nonces, strict=False)
        ]
        message = encode_message(
            "WriteEntries", publicKey=keys.public_key, id=number, iv=nonces[0], encryptedEntries=listed
        )
        ack = await self._ask(("Ack", number), cut(message, number))
        followed = self.followed.get(keys.public_key)
        if followed:
            followed.ids.update(zip(ack["sequenceNumbers"], (entry.id for entry in entries), strict=True))
            followed.entries.update((entry.id, entry) for entry in entries)
            followed.cursor = max(followed.cursor, int(ack.get("through", 0)))
        await self._notify()
        return [int(sequence) for sequence in ack["sequenceNumbers"]]

    def _window_is_open(self, public_key: str) -> bool:
        window = self.hello.get("agentlayers", {}).get("writeWindow")
        sizes = [size for key, size in self._unacknowledged.values() if key == public_key]
        return window is None or not (len(sizes) >= window[0] or sum(sizes) >= window[1])

    async def follow(self, followed: Followed) -> None:
        """Ask for everything from the cursor on."""
        key = followed.keys.public_key
        self.followed[key] = followed
        credit = CREDIT if "credit" in self.capabilities else None
        await self._send(
            [encode_message("RequestChanges", publicKey=key, startSequence=followed.cursor, credit=credit)]
        )

    async def stop(self, followed: Followed) -> None:
        """Follow a key no longer."""
        del self.followed[followed.keys.public_key]
        await self._send([encode_message("StopChanges", publicKey=followed.keys.public_key)])

    async def ping(self, *, compare: bool = False) -> dict[str, list[Any]]:
        """Send a heartbeat; return heads and digests of the keys followed."""
        cursors = {key: one.cursor for key, one in self.followed.items()} if compare else None
        number, self._pings = self._pings, self._pings + 1
        pong = await self._ask(("Pong", number), [encode_message("Ping", id=number, cursors=cursors)])
        return dict(pong.get("digests", {}))

    async def fetch(self, keys: StoreKeys, ids: list[bytes]) -> list[Entry]:
        """Ask for entries by id until each id was answered."""
        found: list[Entry] = []
        while ids:
            asked = ids[:64]
            number, self._number = self._number, self._number + 1
            question = encode_message("FetchEntries", id=number, publicKey=keys.public_key, entryIds=asked)
            answer = await self._ask(("FetchedEntries", number), [question])
            opened = [Entry.opened(keys.encryption_key, sent) for sent in answer["entries"]]
            found.extend(entry for entry in opened if entry)
            ids = ids[int(answer["answered"]) :]
        return found

    async def until(self, condition: Any) -> None:
        """Wait until something received makes a condition true."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: condition() or self.ended)
        if not condition() and self.ended:
            raise self.ended

    async def _ask(self, name: tuple[str, int], frames: list[bytes]) -> Message:
        if self.ended:
            raise self.ended
        answer = self._answers[name] = asyncio.get_running_loop().create_future()
        await self._send(frames)
        message: Message = await answer
        return message

    async def _send(self, frames: list[bytes]) -> None:
        async with self._sending:
            for frame in frames:
                await self._connection.send(frame)

    async def greet(self) -> None:
        """Wait for the server's Hello, of the tenant that was asked for."""
        async for message in self._messages():
            if message["_tag"] != "Hello":
                raise EndedError(message.get("code", message["_tag"]))
            ours = message.get("agentlayers", {})
            if ours and ours["version"] != 1:
                raise EndedError(f"version {ours['version']}")
            if not self._tenant or ours.get("tenant") == self._tenant:
                self.hello = message
                return
        raise EndedError(self._connection.reason)

    async def listen(self) -> None:
        """Act on what the server sends until the connection ends."""
        try:
            async for message in self._messages():
                await self._act(message)
                await self._notify()
            self.ended = EndedError(self._connection.reason)
        except EndedError as error:
            self.ended = error
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self.ended)
        await self._notify()

    async def _messages(self) -> AsyncIterator[Message]:
        async for message in self._connection.messages():
            whole = self._joiner.join(message)
            if whole is not None:
                yield whole

    async def _act(self, message: Message) -> None:
        tag = message["_tag"]
        if tag == "Changes":
            await self._take(message)
        elif tag in {"Ack", "Pong", "FetchedEntries"}:
            self._unacknowledged.pop(message["id"] if tag == "Ack" else -1, None)
            answer = self._answers.pop((tag, message["id"]), None)
            if answer and not answer.done():
                answer.set_result(message)
        elif tag == "Rejected":
            raise EndedError(message["code"])

    async def _take(self, changes: Message) -> None:
        followed = self.followed.get(changes["publicKey"])
        if followed is None:
            return
        followed.changes += 1
        for sent in changes["entries"]:
            entry = Entry.opened(followed.keys.encryption_key, sent)
            followed.ids[int(sent["sequence"])] = sent["entryId"]
            followed.owed += len(sent["encryptedEntry"]) + ENTRY_COST
            followed.unopened += entry is None
            if entry:
                followed.entries[entry.id] = entry
        last = max((int(sent["sequence"]) + 1 for sent in changes["entries"]), default=0)
        followed.cursor = max(followed.cursor, int(changes.get("through", last)))
        if "credit" in self.capabilities and followed.owed > CREDIT // 2:
            owed, followed.owed = followed.owed, 0
            await self._send([encode_message("Credit", publicKey=changes["publicKey"], amount=owed)])

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class _WebSocket:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.reason = ""

    async def send(self, frame: bytes) -> None:
        await self._socket.send_bytes(frame)

    async def messages(self) -> AsyncIterator[Message]:
        async for received in self._socket:
            yield decode(received.data)
        self.reason = str(self._socket.close_code)


class _Stream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = new_decoder()
        self.reason = "the stream ended"

    async def send(self, frame: bytes) -> None:
        self._writer.write(frame)
        await self._writer.drain()

    async def messages(self) -> AsyncIterator[Message]:
        while True:
            for message in self._decoder:
                yield message
            data = await self._reader.read(65_536)
            if not data:
                return
            self._decoder.feed(data)


@contextlib.asynccontextmanager
async def _connection(url: str, tenant: str, token: str) -> AsyncIterator[Any]:
    parts = urlsplit(url)
    if parts.scheme == "tcp":
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        stream = _Stream(reader, writer)
        if tenant or token:
            await stream.send(encode_message("Authenticate", tenant=tenant or "default", token=token))
        try:
            yield stream
        finally:
            writer.close()
        return
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    path = f"/event-log/{tenant}" if tenant else "/event-log"
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(f"ws://{parts.netloc}{path}", headers=headers, max_msg_size=0) as socket:
                yield _WebSocket(socket)
        except aiohttp.WSServerHandshakeError as error:
            raise EndedError(f"HTTP {error.status}") from error


@contextlib.asynccontextmanager
async def connect(
    url: str, *, tenant: str = "", token: str = "", understood: Iterable[str] = UNDERSTOOD
) -> AsyncIterator[Client]:
    """Connect over WebSocket or TCP and wait for the Hello."""
    async with _connection(url, tenant, token) as connection:
        client = Client(connection, tenant=tenant if url.startswith("tcp") else "", understood=understood)
        async with asyncio.timeout(10):
            await client.greet()
        listening = asyncio.create_task(client.listen())
        try:
            yield client
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
