"""Whatever a peer sends, and in whatever order: its connection ends or goes on, and nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from random import Random

import pytest

from agentlayers.errors import ConnectionLostError
from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import (
    Authenticate,
    Credit,
    EncryptedEntry,
    FetchEntries,
    Message,
    Ping,
    RequestChanges,
    StopChanges,
    WriteEntries,
)
from agentlayers.server import MemoryServer, MemoryServerStorage, SQLiteServerStorage
from agentlayers.transport.memory import MemoryConnection
from helpers.sync_world import replica
from unit.protocol.test_mutated_frames import mutated

KEYS = ("k", "key-é", "", "x" * 200)
IDS = (bytes(16), bytes(15) + b"\x01", b"\xff" * 16)


def request(dice: Random) -> Message:
    """Make a request that is well-formed, wanted or not."""
    key = dice.choice(KEYS)

    def number() -> int:
        return dice.choice([0, 1, 2, 3, 5, 100, 2**31, 2**53])

    def entry() -> EncryptedEntry:
        entry_id = dice.choice((*IDS, dice.randbytes(16)))
        return EncryptedEntry(entry_id, dice.randbytes(12), dice.randbytes(dice.choice([0, 1, 20, 3000])))

    if dice.random() < 0.05:
        return Authenticate(dice.choice(["default", "another"]), "token")
    match dice.randrange(7):
        case 0:
            return RequestChanges(key, number(), dice.choice([None, None, 0, 1, 100, 2**20, 2**30]))
        case 1 | 2:
            return WriteEntries(key, number(), tuple(entry() for _ in range(dice.choice([0, 1, 2, 5, 50]))))
        case 3:
            return Ping(number(), dice.choice([None, {}, {key: number(), "k": number()}]))
        case 4:
            return Credit(key, dice.choice([1, 5, 2**20, 2**31]))
        case 5:
            wanted = tuple(dice.choice((*IDS, dice.randbytes(16))) for _ in range(dice.choice([1, 2, 64])))
            return FetchEntries(number(), key, wanted)
    return StopChanges(key)


async def converse(server: MemoryServer, dice: Random) -> int:
    """Send requests and broken ones, reading slowly or not, and leave in the middle; returns how many."""
    ours, theirs = MemoryConnection.pair()
    serving = asyncio.create_task(server.serve(theirs))
    sent = 0

    async def read() -> None:
        with contextlib.suppress(ConnectionLostError):
            while True:
                await ours.receive()

    reading = asyncio.create_task(read())
    with contextlib.suppress(ConnectionLostError):
        for _ in range(dice.randint(1, 12)):
            frame = encode_message(request(dice), entry_nonces=True) if dice.random() < 0.75 else mutated(dice)
            at = dice.randrange(len(frame) + 1) if dice.random() < 0.1 else 0
            for piece in (frame[:at], frame[at:]):
                await ours.send(piece)
            sent += 1
            if dice.random() < 0.3:
                await asyncio.sleep(0)
    await ours.close()
    async with asyncio.timeout(10):
        await asyncio.gather(serving, reading)
    return sent


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("seed", "frames"), [(1, 2_000), *(pytest.param(seed, 20_000, marks=pytest.mark.slow) for seed in range(10, 15))]
)
async def test_mutated_frames_end_their_connection_and_nothing_else(
    seed: int, frames: int, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight peers at a time, and an honest replica that is served all the while."""
    dice = Random(seed)
    storage = SQLiteServerStorage(tmp_path) if kind == "sqlite" else MemoryServerStorage()
    async with storage, MemoryServer(storage) as server, replica(server.transport()) as one:
        while frames > 0:
            frames -= sum(await asyncio.gather(*(converse(server, dice) for _ in range(8))))
            await one.write("x")
        await one.sync.sync_now()

        assert one.sync.status.last_error is None
        assert one.sync.status.attempt == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_what_breaks_the_protocol_behind_an_authenticate_in_one_read_ends_the_connection() -> None:
    ours, theirs = MemoryConnection.pair()
    async with MemoryServer() as server:
        serving = asyncio.create_task(server.serve(theirs))
        await ours.send(encode_message(Authenticate("default", "token")) + b"\xc1")
        async with asyncio.timeout(5):
            await serving
        received = await ours.receive() + await ours.receive()
        with pytest.raises(ConnectionLostError) as lost:
            await ours.receive()

    assert lost.value.close_code == 1002
    assert received.count(b"Hello") == received.count(b"Rejected") == 1
