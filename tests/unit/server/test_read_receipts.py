"""Whoever wants to know when a peer has read something is told so, and only then."""

from __future__ import annotations

import asyncio

import pytest

from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import Pong
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.outbox import Outbox
from agentlayers.server.peer_socket import PeerSocket
from agentlayers.server.read_receipts import ReadReceipts

MESSAGE = encode_message(Pong(1))


class GatedSocket(PeerSocket):
    """A peer that takes nothing before its gate opens, and answers when the test says so."""

    is_stream = True

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0
        self.taken = b""

    def wire(self, broadcast: Broadcast) -> bytes:
        return broadcast.stream

    async def receive(self) -> bytes | None:
        return None

    async def drain(self) -> None:
        await self.gate.wait()

    async def _close(self, code: int, reason: str) -> None: ...

    def write_now(self, data: bytes) -> bool:
        del data
        return False

    def write(self, data: bytes) -> None:
        self.taken += data

    def ask_read(self) -> None:
        self.asked += 1

    def answer(self) -> None:
        assert self.on_read is not None
        self.on_read()


class World:
    """The receipts of one peer, and what they told."""

    def __init__(self) -> None:
        self.socket = GatedSocket()
        self.outbox = Outbox(self.socket, on_stall=lambda: self.told.append("stalled"))
        self.told: list[str] = []
        self.receipts = ReadReceipts(self.socket, self.outbox, after=lambda: self.told.append("after"))

    def when_read(self, name: str) -> None:
        self.receipts.when_read(lambda: self.told.append(name))

    async def rest(self) -> None:
        """Let everything happen that waits for nothing."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.receipts.close()
        await self.outbox.close()


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_peer_is_asked_behind_all_that_is_queued(world: World) -> None:
    world.outbox.put(MESSAGE)
    world.when_read("first")
    await world.rest()
    assert (world.socket.asked, world.told) == (0, [])

    world.socket.gate.set()
    await world.rest()
    assert (world.socket.taken, world.socket.asked, world.told) == (MESSAGE, 1, [])

    world.socket.answer()
    assert world.told == ["first", "after"]
    await world.close()


async def test_those_who_ask_before_the_question_goes_share_an_answer(world: World) -> None:
    world.when_read("first")
    world.when_read("second")
    await world.rest()
    world.when_read("third")
    await world.rest()
    assert world.socket.asked == 2

    world.socket.answer()
    assert world.told == ["first", "second", "after"]
    world.socket.answer()
    assert world.told[3:] == ["third", "after"]
    await world.close()


async def test_an_answer_that_nobody_asked_for_tells_nothing(world: World) -> None:
    world.socket.answer()
    world.when_read("first")
    world.socket.answer()  # the question has not gone yet

    assert world.told == []
    await world.close()


async def test_one_who_is_told_may_ask_again(world: World) -> None:
    world.receipts.when_read(lambda: world.when_read("again"))
    await world.rest()
    world.socket.answer()
    await world.rest()
    world.socket.answer()

    assert world.told == ["after", "again", "after"]
    await world.close()


async def test_once_stopped_it_neither_asks_nor_tells(world: World) -> None:
    """A connection that ends sends nothing more behind its goodbye."""
    world.when_read("asked already")
    await world.rest()
    world.outbox.put(MESSAGE)
    world.when_read("to be asked")
    await world.rest()
    world.receipts.stop()
    world.when_read("too late")
    world.socket.gate.set()
    await world.rest()
    world.socket.answer()

    assert (world.socket.asked, world.told) == (1, [])
    await world.close()


async def test_closing_leaves_no_task_that_waits_for_a_peer_which_reads_nothing(world: World) -> None:
    world.outbox.put(MESSAGE)
    world.when_read("never")
    await world.rest()
    before = asyncio.all_tasks()
    await world.receipts.close()

    assert len(before - asyncio.all_tasks()) == 1
    await world.outbox.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert world.told == []
