"""
A server of the sync protocol, written from docs/reference/protocol.md alone.

It keeps everything in memory and answers on WebSocket and TCP. ``capabilities`` is what it announces, and so what
it does: with none of them it is a stock server, as far as a client can see.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from interop.third_party.wire import Digest, Joiner, Message, cut, decode, encode_message, new_decoder

EVERYTHING = ("entry-nonces", "through", "digests", "credit", "fetch")
ENTRY_COST = 256
ENTRIES_PER_CHANGES = 50
FETCHED_AT_ONCE = 10
"""Fewer than a client may ask for, so that it has to ask again."""

PROTOCOL_ERROR = 1002
POLICY_VIOLATION = 1008


class RefusedError(Exception):
    """What a client sent ends its session."""


@dataclass
class Journal:
    """The entries of one public key of one tenant."""

    entries: list[Message] = field(default_factory=list)
    sequences: dict[bytes, int] = field(default_factory=dict)

    def add(self, sent: Message, iv: bytes) -> int:
        """Append an entry, if it is new, and return its sequence."""
        entry_id = sent["entryId"]
        if entry_id not in self.sequences:
            sequence = self.sequences[entry_id] = len(self.entries)
            stored = {"sequence": sequence, "iv": sent.get("iv") or iv, "entryId": entry_id}
            self.entries.append(stored | {"encryptedEntry": sent["encryptedEntry"]})
        return self.sequences[entry_id]

    def digest(self, cursor: int) -> bytes | None:
        """Digest of the ids below a cursor, if there are so many."""
        if cursor > len(self.entries):
            return None
        digest = Digest()
        for stored in self.entries[:cursor]:
            digest.add(stored["entryId"])
        return digest.value


@dataclass(frozen=True)
class WaitingAck:
    """
    An Ack that waits until its connection has everything below ``due``.

    The write added the entries from ``due`` up to ``end``; the two are equal if it added none.
    """

    id: int
    sequences: list[int]
    due: int
    end: int


def cost_of(stored: Message) -> int:
    """What an entry takes of a credit."""
    return len(stored["encryptedEntry"]) + ENTRY_COST


@dataclass
class Server:
    """The data of all tenants, and who is connected."""

    capabilities: Collection[str] = EVERYTHING
    tokens: dict[str, str] = field(default_factory=dict)
    write_window: list[int] | None = None
    remote_id: bytes = field(default_factory=lambda: os.urandom(16))
    incarnation: bytes = field(default_factory=lambda: os.urandom(16))
    journals: dict[tuple[str, str], Journal] = field(default_factory=dict)
    connections: set[Connection] = field(default_factory=set)
    received: Counter[str] = field(default_factory=Counter)
    requested: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    url: str = ""
    tcp_url: str = ""

    def hello(self, tenant: str) -> bytes:
        """Introduce it."""
        ours: Message | None = None
        if self.capabilities:
            ours = {"version": 1, "capabilities": list(self.capabilities), "incarnation": self.incarnation}
            ours |= {"tenant": tenant}
            if self.write_window:
                ours["writeWindow"] = self.write_window
        return encode_message("Hello", remoteId=self.remote_id, agentlayers=ours)

    def accepts(self, tenant: str, token: str) -> bool:
        """Whether a token opens a tenant."""
        return not self.tokens or self.tokens.get(tenant) == token

    def journal(self, tenant: str, key: str) -> Journal:
        """Return the journal of a public key."""
        return self.journals.setdefault((tenant, key), Journal())

    @contextlib.asynccontextmanager
    async def run(self, port: int = 0) -> AsyncIterator[Server]:
        """Listen on loopback."""
        app = web.Application()
        app.router.add_get("/event-log", self._serve_websocket)
        app.router.add_get("/event-log/{tenant}", self._serve_websocket)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        stream = await asyncio.start_server(self._serve_stream, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
        self.tcp_url = f"tcp://127.0.0.1:{stream.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            stream.close()
            for connection in list(self.connections):
                await connection.drop()
            await stream.wait_closed()
            await runner.cleanup()

    async def _serve_websocket(self, request: web.Request) -> web.WebSocketResponse:
        tenant = request.match_info.get("tenant", "default")
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.accepts(tenant, token):
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)

        async def frames() -> AsyncIterator[Message]:
            async for received in socket:
                if received.type is WSMsgType.BINARY:
                    yield decode(received.data)

        connection = Connection(self, tenant, socket.send_bytes, socket.close)
        await connection.serve(frames(), greeted=False)
        return socket

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = new_decoder()

        async def send(frame: bytes) -> None:
            writer.write(frame)
            await writer.drain()

        async def close(**_: Any) -> None:
            writer.close()

        async def messages() -> AsyncIterator[Message]:
            while data := await reader.read(65_536):
                decoder.feed(data)
                for message in decoder:
                    yield message

        try:
            await self._greet_stream(send, close, messages())
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _greet_stream(self, send: Any, close: Any, messages: AsyncIterator[Message]) -> None:
        tenant = "default"
        if not self.tokens:
            await send(self.hello(tenant))
        first = await anext(messages, None)
        if first is None:
            return
        held = [first]
        if first["_tag"] == "Authenticate":
            tenant, held = first["tenant"], []
        if not self.accepts(tenant, first.get("token", "")):
            await send(encode_message("Rejected", code="authentication"))
            return

        async def following() -> AsyncIterator[Message]:
            for message in held:
                yield message
            async for message in messages:
                yield message

        await Connection(self, tenant, send, close).serve(following(), greeted=bool(held))


class Connection:
    """One client."""

    def __init__(self, server: Server, tenant: str, send: Any, close: Any) -> None:
        self._server = server
        self._tenant = tenant
        self._raw_send = send
        self._close = close
        self._sending = asyncio.Lock()
        self._numbers = 0
        self._cursors: dict[str, int] = {}
        self._acks: dict[str, deque[WaitingAck]] = {}
        self._accounts: dict[str, int] = {}

    async def drop(self) -> None:
        """End it."""
        await self._close()

    async def serve(self, messages: AsyncIterator[Message], *, greeted: bool) -> None:
        """Act on what the client sends until it goes."""
        joiner = Joiner()
        self._server.connections.add(self)
        try:
            if not greeted:
                await self._raw_send(self._server.hello(self._tenant))
            async for part in messages:
                message = joiner.join(part)
                if message is not None:
                    self._server.received[message["_tag"]] += 1
                    await self._act(message)
        except RefusedError as error:
            self._server.failures.append(str(error))
            await self._close(code=PROTOCOL_ERROR, message=str(error).encode())
        except ConnectionError:
            pass
        finally:
            self._server.connections.discard(self)

    async def _act(self, message: Message) -> None:
        actions = {
            "RequestChanges": self._request,
            "StopChanges": self._stop,
            "WriteEntries": self._write,
            "Ping": self._ping,
            "Credit": self._credit,
            "FetchEntries": self._fetch,
        }
        action = actions.get(message["_tag"])
        if action is None:
            raise RefusedError(f"unknown message {message['_tag']}")
        await action(message)

    async def _request(self, message: Message) -> None:
        key = message["publicKey"]
        self._cursors[key] = int(message["startSequence"])
        self._server.requested.append(self._cursors[key])
        self._accounts.pop(key, None)
        if message.get("credit") is not None:
            if "credit" not in self._server.capabilities:
                raise RefusedError("credit was not announced")
            self._accounts[key] = int(message["credit"])
        await self._bring_forward(key)

    async def _stop(self, message: Message) -> None:
        self._cursors.pop(message["publicKey"], None)
        self._accounts.pop(message["publicKey"], None)
        await self._bring_forward(message["publicKey"])

    async def _credit(self, message: Message) -> None:
        key = message["publicKey"]
        if key not in self._cursors:
            return
        if key not in self._accounts:
            raise RefusedError("Credit for a key without an account")
        self._accounts[key] += int(message["amount"])
        await self._bring_forward(key)

    async def _write(self, message: Message) -> None:
        key, listed = message["publicKey"], message["encryptedEntries"]
        nonces = {one.get("iv") for one in listed} - {None}
        if "entry-nonces" not in self._server.capabilities and (nonces or len(listed) > 1):
            raise RefusedError("several entries under one nonce")
        if len(listed) > 1 and len(nonces) != len(listed):
            raise RefusedError("a nonce is missing, or used twice")
        journal = self._server.journal(self._tenant, key)
        before = len(journal.entries)
        sequences = [journal.add(one, message["iv"]) for one in listed]
        after = len(journal.entries)
        due = before if after > before or not listed else max(sequences) + 1
        end = after if after > before else due
        self._acks.setdefault(key, deque()).append(WaitingAck(message["id"], sequences, due, end))
        await self._bring_forward(key)
        for connection in list(self._server.connections - {self}):
            if connection._tenant == self._tenant:
                with contextlib.suppress(ConnectionError):
                    await connection._bring_forward(key)

    async def _bring_forward(self, key: str) -> None:
        """Send what is new of a key in sequence order, each Ack in the place of the entries it stands for."""
        acks = self._acks.setdefault(key, deque())
        while True:
            while acks and (key not in self._cursors or acks[0].due <= self._cursors[key]):
                await self._send_ack(key, acks.popleft())
            if key not in self._cursors:
                return
            stop = acks[0].due if acks else None
            chosen = self._next_entries(key, self._cursors[key], stop)
            if not chosen:
                return
            through = self._cursors[key] = chosen[-1]["sequence"] + 1
            if key in self._accounts:
                self._accounts[key] -= sum(map(cost_of, chosen))
            await self._send(
                encode_message("Changes", publicKey=key, entries=chosen, through=self._announced("through", through))
            )

    async def _send_ack(self, key: str, ack: WaitingAck) -> None:
        through = None
        if key in self._cursors:
            self._cursors[key] = max(self._cursors[key], ack.end)
            through = self._announced("through", self._cursors[key])
        await self._send(encode_message("Ack", id=ack.id, sequenceNumbers=ack.sequences, through=through))

    def _announced(self, capability: str, value: Any) -> Any:
        return value if capability in self._server.capabilities else None

    def _next_entries(self, key: str, start: int, stop: int | None) -> list[Message]:
        chosen: list[Message] = []
        cost = 0
        for stored in self._server.journal(self._tenant, key).entries[start:stop][:ENTRIES_PER_CHANGES]:
            cost += cost_of(stored)
            if not self._covers(key, cost, alone=not chosen):
                break
            chosen.append(stored)
        return chosen

    def _covers(self, key: str, cost: int, *, alone: bool) -> bool:
        account = self._accounts.get(key)
        return account is None or account >= cost or (alone and account > 0)

    async def _ping(self, message: Message) -> None:
        cursors = message.get("cursors")
        digests = None
        if cursors is not None:
            digests = {key: self._heads(key, int(at)) for key, at in cursors.items() if key in self._cursors}
        await self._send(encode_message("Pong", id=message["id"], digests=digests))

    def _heads(self, key: str, cursor: int) -> list[Any]:
        journal = self._server.journal(self._tenant, key)
        digest = journal.digest(cursor)
        return [len(journal.entries)] if digest is None else [len(journal.entries), digest]

    async def _fetch(self, message: Message) -> None:
        journal = self._server.journal(self._tenant, message["publicKey"])
        answered = message["entryIds"][:FETCHED_AT_ONCE]
        found = [journal.entries[journal.sequences[one]] for one in answered if one in journal.sequences]
        await self._send(encode_message("FetchedEntries", id=message["id"], entries=found, answered=len(answered)))

    async def _send(self, message: bytes) -> None:
        self._numbers += 1
        async with self._sending:
            for frame in cut(message, self._numbers):
                await self._raw_send(frame)
