"""A server that speaks the protocol and tells the truth only sometimes."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

from agentlayers.errors import ProtocolError
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.messages import (
    Ack,
    Changes,
    ChunkedMessage,
    EncryptedEntry,
    Extensions,
    FetchedEntries,
    FetchEntries,
    HeadDigest,
    Hello,
    Message,
    Ping,
    Pong,
    RemoteEncryptedEntry,
    RequestChanges,
    WriteEntries,
    WriteWindow,
)
from agentlayers.server.greeting import CAPABILITIES
from agentlayers.transport.memory import MemoryConnection, ServeMemory

JUNK = [RemoteEncryptedEntry(n, bytes([n]) * 12, bytes([n]) * 16, bytes([n]) * 40) for n in range(6)]
IDS = (b"one remote id 16", b"other remote id ")


class LyingSession:
    """What it says on one connection."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._keys = ["a key of nobody"]
        self._seen: list[EncryptedEntry] = []

    def hello(self) -> Hello:
        """Introduce itself as any kind of server."""
        dice = self._dice
        window = WriteWindow(dice.choice([1, 2, 64]), 2**20)
        ours = Extensions(1, CAPABILITIES, dice.choice(IDS), "default", window)
        plain = Extensions(1, frozenset(), dice.choice(IDS), "default")
        return Hello(dice.choice(IDS), dice.choice([None, ours, ours, plain]))

    def answer(self, message: Message) -> Message:
        """Answer as it should, or nearly."""
        dice = self._dice
        if isinstance(message, RequestChanges | WriteEntries):
            self._keys.append(message.public_key)
        match message:
            case WriteEntries(id=id, entries=entries):
                self._seen += entries
                count = len(entries)
                numbers = tuple(range(count)) if dice.random() < 0.5 else tuple(self._number() for _ in range(count))
                return Ack(id, numbers, dice.choice([None, self._number(), count]))
            case RequestChanges(public_key=key, start_sequence=start):
                return self._changes(key, start)
            case Ping(id=id, cursors=cursors) if cursors:
                return Pong(id, {key: self._digest(cursor) for key, cursor in cursors.items()})
            case Ping(id=id):
                return Pong(id)
            case FetchEntries(id=id, entry_ids=ids):
                return FetchedEntries(id, (), dice.choice([1, len(ids)]))
        return self.nonsense()

    def nonsense(self) -> Message:
        """Say something nobody asked for."""
        dice = self._dice
        key = dice.choice(self._keys)
        messages: list[Message] = [
            Changes(key, tuple(dice.sample(JUNK, 2)), dice.choice([None, self._number()])),
            Ack(self._number(), (self._number(),), None),
            Pong(self._number()),
            ChunkedMessage(self._number(), 0, dice.choice([1, 2]), encode_message(Pong(self._number()))),
            self.hello(),
        ]
        return dice.choice(messages)

    def _changes(self, key: str, start: int) -> Changes:
        dice = self._dice
        first = self._number() if dice.random() < 0.3 else start
        some = [*dice.sample(self._seen, min(len(self._seen), 3))]
        entries = [
            RemoteEncryptedEntry(
                min(first + at, 2**53),
                entry.iv if dice.random() < 0.8 else dice.randbytes(12),
                entry.entry_id if dice.random() < 0.8 else dice.randbytes(16),
                entry.ciphertext,
            )
            for at, entry in enumerate(some)
        ]
        entries += dice.sample(JUNK, dice.randrange(2))
        return Changes(key, tuple(entries), dice.choice([None, self._number(), start + len(entries)]))

    def _digest(self, cursor: int) -> HeadDigest:
        dice = self._dice
        return HeadDigest(dice.choice([self._number(), cursor]), dice.choice([None, dice.randbytes(16)]))

    def _number(self) -> int:
        return self._dice.choice([0, 0, 1, 2, 3, 5, 100, 2**53, self._dice.randrange(20)])


def lying_server(dice: Random) -> ServeMemory:
    """Return what serves one connection after the other; give it to a :class:`MemoryTransport`."""

    async def serve(connection: MemoryConnection) -> None:
        session = LyingSession(dice)
        await connection.send(encode_message(session.hello()))
        for _ in range(dice.randint(1, 15)):
            message: Message | None = None
            with contextlib.suppress(TimeoutError, ProtocolError):
                async with asyncio.timeout(0.005):
                    message = decode_message(await connection.receive())
            told = session.nonsense() if message is None or dice.random() < 0.2 else session.answer(message)
            frame = encode_message(told, entry_nonces=True)
            if dice.random() < 0.05:
                frame = frame[: dice.randrange(len(frame))] + dice.randbytes(4)
            await connection.send(frame)
        if dice.random() < 0.5:
            await connection.close(dice.choice([1000, 1006, 1011]), "enough")

    return serve
