"""What is queued for a peer is counted until it is written, and to a stock TCP peer until it has been read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import Ack, Pong
from agentlayers.server import spacing
from agentlayers.server.outbox import Outbox
from agentlayers.server.peer_socket import PeerStream
from agentlayers.server.spacing import MessageSpacer

ACKS = [encode_message(Ack(number, (number,))) for number in range(4)]


def unexpected() -> None:
    raise AssertionError("the peer was taken for one that does not read")


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[PeerStream, asyncio.StreamReader]]:
    """Our end of a TCP connection, and what reads at the other."""
    accepted: asyncio.Queue[PeerStream] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(PeerStream(*ends)), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    ours = await accepted.get()
    try:
        yield ours, reader
    finally:
        await ours.close(1000, "")
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()


async def test_what_is_queued_while_the_peer_has_time_to_read_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or whoever waits for the queue to be empty would be told so too early."""
    monkeypatch.setattr(spacing, "GAP_SECONDS", 0.05)
    async with connected() as (ours, reader):
        outbox = Outbox(ours, on_stall=unexpected)
        outbox.spacer = MessageSpacer(ours.transport)
        outbox.put(ACKS[0])
        assert await reader.readexactly(len(ACKS[0])) == ACKS[0]
        outbox.put(ACKS[1])
        outbox.put(ACKS[2])
        is_empty = asyncio.create_task(outbox.wait_below(1))
        assert await reader.readexactly(len(ACKS[1])) == ACKS[1]
        assert outbox.size == len(ACKS[1]) + len(ACKS[2])
        assert not is_empty.done()
        assert await reader.readexactly(len(ACKS[2])) == ACKS[2]
        await is_empty
        await outbox.close()

        assert outbox.size == 0


async def test_what_overtakes_goes_in_its_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacing, "GAP_SECONDS", 0.0)
    pongs = [encode_message(Pong(number)) for number in range(3)]
    async with connected() as (ours, reader):
        outbox = Outbox(ours, on_stall=unexpected)
        outbox.spacer = MessageSpacer(ours.transport)
        for message in (ACKS[0], pongs[0], ACKS[1], pongs[1], pongs[2], ACKS[2]):
            outbox.put(message)
        await outbox.wait_below(1)
        expected = b"".join([*pongs, *ACKS[:3]])

        assert await reader.readexactly(len(expected)) == expected
        await outbox.close()


async def test_when_the_peer_finds_boundaries_itself_all_that_waits_goes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spacing, "GAP_SECONDS", 60.0)
    pong = encode_message(Pong(1))
    async with connected() as (ours, reader):
        outbox = Outbox(ours, on_stall=unexpected)
        outbox.spacer = MessageSpacer(ours.transport)
        for message in (*ACKS, pong):
            outbox.put(message)
        outbox.stop_spacing()
        async with asyncio.timeout(10):
            await outbox.wait_below(1)
            found = await reader.readexactly(len(pong) + sum(map(len, ACKS)))

        assert found == pong + b"".join(ACKS)
        await outbox.close()
