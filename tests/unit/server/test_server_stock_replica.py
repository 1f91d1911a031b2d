"""A client over a WebSocket that asks like a stock replica with a history: sent as much as it says it has read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import aiohttp
import pytest

from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.messages import Ack, Changes, EncryptedEntry, RequestChanges, WriteEntries
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.server.intake import ENTRIES_MAX, FIRST_WRITE_SECONDS_MAX
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.wire_client import Client, WebSocket, websocket_client


@pytest.fixture
async def server() -> AsyncIterator[SyncServer]:
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0) as server:
        yield server
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the server left tasks behind"


def websocket_of(client: Client) -> aiohttp.ClientWebSocketResponse:
    return cast("WebSocket", client.socket).websocket


async def fill(server: SyncServer, count: int) -> None:
    async with websocket_client(server) as writer:
        await writer.hello()
        await writer.write(sealed_entries(count))


async def test_it_gets_its_backlog_and_then_what_comes(server: SyncServer) -> None:
    await fill(server, 4_000)
    async with websocket_client(server) as reader, websocket_client(server) as writer:
        await reader.hello()
        await writer.hello()
        await reader.follow(start=1)
        assert (await reader.write([])).sequence_numbers == ()
        found = await reader.changes(4_000)
        await writer.write(sealed_entries(300, first=4_000))
        found += await reader.changes(300)

    assert [entry.sequence for entry in found] == list(range(4_300))


async def test_without_an_answer_to_a_ping_it_gets_no_more(server: SyncServer) -> None:
    await fill(server, 4_000)
    count = pings = 0
    async with websocket_client(server, autoping=False) as reader:
        websocket = websocket_of(reader)
        await websocket.send_bytes(encode_message(RequestChanges("key", 700)))
        await websocket.send_bytes(encode_message(WriteEntries("key", 0, ())))
        while True:
            try:
                received = await websocket.receive(timeout=0.5)
            except TimeoutError:
                break
            if received.type is aiohttp.WSMsgType.PING:
                pings += 1
                continue
            message = decode_message(received.data)
            count += len(message.entries) if isinstance(message, Changes) else 0

    assert ENTRIES_MAX // 2 < count <= ENTRIES_MAX
    assert pings == 1


async def test_the_ack_of_its_first_write_comes_at_once_though_a_backlog_waits(server: SyncServer) -> None:
    """It stores nothing before; and what the Ack does not list it is sent like everything else."""
    await fill(server, 4_000)
    sequences: list[int] = []
    own = [EncryptedEntry(one.entry_id, bytes(12), one.ciphertext) for one in sealed_entries(3, first=4_000)]
    async with websocket_client(server) as reader:
        websocket = websocket_of(reader)
        await websocket.send_bytes(encode_message(RequestChanges("key", 1)))
        await websocket.send_bytes(encode_message(WriteEntries("key", 0, own)))
        while len(sequences) < 4_003:
            message = decode_message((await websocket.receive(timeout=5)).data)
            if isinstance(message, Changes):
                sequences += [entry.sequence for entry in message.entries]
            elif isinstance(message, Ack):
                assert (message.id, list(message.sequence_numbers)) == (0, [])
                assert len(sequences) <= ENTRIES_MAX

    assert sequences == list(range(4_003))


async def test_a_first_write_is_not_waited_for_at_length(server: SyncServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that only reads is no stock one, and may yet be there."""
    assert FIRST_WRITE_SECONDS_MAX > 1
    monkeypatch.setattr("agentlayers.server.intake.FIRST_WRITE_SECONDS_MAX", 0.3)
    await fill(server, 3_000)
    async with websocket_client(server) as reader:
        await reader.hello()
        await reader.follow(start=1)
        found = await reader.changes(3_000)

    assert [entry.sequence for entry in found] == list(range(3_000))


async def test_a_ping_frame_is_answered_and_an_answer_that_nobody_asked_for_ignored(server: SyncServer) -> None:
    async with websocket_client(server, autoping=False) as client:
        websocket = websocket_of(client)
        await websocket.receive()  # the Hello
        await websocket.pong(b"nobody asked")
        await websocket.ping(b"there?")
        received = await websocket.receive()

        assert (received.type, bytes(received.data)) == (aiohttp.WSMsgType.PONG, b"there?")
        await websocket.send_bytes(encode_message(WriteEntries("key", 0, ())))
        assert isinstance(decode_message((await websocket.receive()).data), Ack)
