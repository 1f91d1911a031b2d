"""A peer that writes faster than can be stored, or never reads, is not read any more: what it sent waits with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import EncryptedEntry, Ping, Pong, RequestChanges, WriteEntries
from agentlayers.server import MemoryServer, MemoryServerStorage
from agentlayers.server.writes_in_flight import ACKS_OWED_MAX, WRITE_BYTES_IN_FLIGHT_MAX, WRITES_IN_FLIGHT_MAX
from agentlayers.transport.memory import MemoryConnection

UNDER_WAY = 16 + 2
"""Messages that the connection itself holds, and what is being read and sent."""


class SlowStorage(MemoryServerStorage):
    """Stores nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def append(self, tenant: str, public_key: str, entries: Sequence[EncryptedEntry]) -> Any:
        await self.let.wait()
        return await super().append(tenant, public_key, entries)


class Writer:
    """A client that writes without waiting for Acks, as a stock one may."""

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.taken = 0

    async def flood(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            await self.connection.send(frame)
            self.taken += 1

    async def until_stuck(self) -> int:
        """Wait until the server takes no more, and return how many messages it took."""
        async with asyncio.timeout(30):
            while True:
                before = self.taken
                await asyncio.sleep(0.2)
                if self.taken == before:
                    return before

    async def acks(self, count: int, *, tag: bytes = b"\xa4_tag\xa3Ack") -> None:
        """Read until there were so many answers."""
        async with asyncio.timeout(30):
            while count > 0:
                data = await self.connection.receive()
                count -= data.count(tag)


def entry(number: int, size: int = 0) -> EncryptedEntry:
    return EncryptedEntry(number.to_bytes(16), number.to_bytes(12), bytes(size))


@contextlib.asynccontextmanager
async def writing(server: MemoryServer) -> AsyncIterator[Writer]:
    ours, theirs = MemoryConnection.pair()
    serving = asyncio.create_task(server.serve(theirs))
    try:
        yield Writer(ours)
    finally:
        await ours.close()
        await serving


@pytest.mark.parametrize(
    ("entries", "size", "taken_max"),
    [
        (1, 0, WRITES_IN_FLIGHT_MAX),
        (1, 1 << 20, WRITE_BYTES_IN_FLIGHT_MAX >> 20),
        (4_096, 0, WRITE_BYTES_IN_FLIGHT_MAX >> 20),
    ],
    ids=["many messages", "large entries", "many empty entries"],
)
async def test_writes_that_are_not_stored_yet_are_bounded(entries: int, size: int, taken_max: int) -> None:
    """In number and in the memory they take; each is for another key, so that no window helps."""
    count = 3 * (taken_max + UNDER_WAY)
    some = [entry(n, size) for n in range(entries)]
    frames = [encode_message(WriteEntries(f"key {n}", n, some), entry_nonces=True) for n in range(count)]
    async with SlowStorage() as storage, MemoryServer(storage) as server, writing(server) as writer:
        flooding = asyncio.create_task(writer.flood(frames))

        taken = await writer.until_stuck()
        storage.let.set()
        await asyncio.gather(flooding, writer.acks(count))

    assert taken_max <= taken <= taken_max + UNDER_WAY


async def test_acks_that_wait_until_their_writer_reads_are_bounded() -> None:
    """It follows a key whose backlog it never reads; its Acks have their place behind that."""
    count = ACKS_OWED_MAX + 3 * UNDER_WAY
    async with MemoryServerStorage() as storage, MemoryServer(storage) as server, writing(server) as writer:
        await storage.append("default", "key", [entry(n, 400_000) for n in range(64)])
        frames = [encode_message(WriteEntries("key", n, ())) for n in range(count)]
        flooding = asyncio.create_task(writer.flood([encode_message(RequestChanges("key", 0)), *frames]))

        assert ACKS_OWED_MAX <= await writer.until_stuck() <= ACKS_OWED_MAX + UNDER_WAY + 1

        await asyncio.gather(flooding, writer.acks(count))


async def test_answers_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings cost the server a Pong each, and nothing else."""
    monkeypatch.setattr("agentlayers.server.connection.LIVE_BYTES_MAX", 10_000)
    count = 5_000
    pong = len(encode_message(Pong(70_000)))
    async with MemoryServerStorage() as storage, MemoryServer(storage) as server, writing(server) as writer:
        flooding = asyncio.create_task(writer.flood([encode_message(Ping(70_000 + n)) for n in range(count)]))

        assert await writer.until_stuck() <= 10_000 // pong + 2 * UNDER_WAY

        await asyncio.gather(flooding, writer.acks(count, tag=b"\xa4_tag\xa4Pong"))
