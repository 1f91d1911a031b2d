"""Stores that share a connection do not wait for one another, whatever one of them leaves unread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlayers import limits
from agentlayers.errors import ErrorCode
from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import Changes, Extensions, Hello, RemoteEncryptedEntry
from agentlayers.protocol.server_session import ServerSession
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.server.greeting import CAPABILITIES
from agentlayers.sync.link import Link
from agentlayers.sync.pull import Pull
from agentlayers.transport.memory import MemoryConnection, MemoryTransport
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import IDENTITY, Replica, replica

CREDIT = 64 * limits.KIB
ENTRY = 8 * limits.KIB
NAMES = ("chat_history", "audit_log")


@pytest.fixture(params=["websocket", "tcp"])
async def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transport]:
    """A way to a real server, for replicas that give a small credit."""
    monkeypatch.setattr(limits, "PULL_CREDIT_BYTES", CREDIT)
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0, tcp_port=0) as server:
        yield WebSocketTransport(server.websocket_url) if request.param == "websocket" else TCPTransport(server.tcp_url)  # type: ignore[arg-type]


class Stuck:
    """The receiving half of one store whose transactions do not end until it is let go."""

    def __init__(self, one: Replica, store: str = "chat_history") -> None:
        link = next(iter(one.sync._remotes.values()))._pool._workers[0].link
        assert link is not None
        self.link: Link = link
        self.pull: Pull = link.replications[one.logs[store].public_key].pull
        self.go_on = asyncio.Event()
        self._commit = self.pull._commit
        self.pull._commit = self._commit_later  # type: ignore[method-assign]

    async def _commit_later(self, step: Any) -> None:
        await self.go_on.wait()
        await self._commit(step)


async def quiet(pull: Pull) -> int:
    """Wait until nothing more arrives, and return what waits."""
    before = -1
    while before != pull._inbox._size:
        before = pull._inbox._size
        await asyncio.sleep(0.1)
    return before


async def test_a_store_that_is_stuck_holds_up_neither_another_nor_a_heartbeat(transport: Transport) -> None:
    async with replica(transport, names=NAMES) as one, replica(transport, names=NAMES) as other:
        await one.until_pushed()
        await other.until_pushed()
        stuck = Stuck(one)
        await other.write_many(100, size=ENTRY)
        await other.until_pushed()
        waiting = await quiet(stuck.pull)

        for number in range(20):
            await other.write(f"{number}", "audit_log")
        await one.until_ids(await other.ids("audit_log"), "audit_log")
        ping_id = stuck.link._awaited_pong = stuck.link.session.ping()
        stuck.link.flush()
        async with asyncio.timeout(2):
            while stuck.link._awaited_pong == ping_id:  # noqa: ASYNC110 - nothing tells of a Pong
                await asyncio.sleep(0.01)
        assert await one.ids() == set()
        assert waiting <= CREDIT + 2 * ENTRY

        stuck.go_on.set()
        await one.until_ids(await other.ids())


async def test_an_entry_larger_than_the_credit_arrives(transport: Transport) -> None:
    async with replica(transport) as one, replica(transport) as other:
        await one.until_pushed()
        for _ in range(3):
            await other.write_many(1, size=5 * CREDIT)
            await other.write_many(3, size=10)
        await one.until_ids(await other.ids())


async def test_a_backlog_of_many_times_the_credit_arrives_whole(transport: Transport) -> None:
    async with replica(transport) as other:
        await other.write_many(3000)
        await other.until_pushed()
        async with replica(transport) as one:
            await one.until_ids(await other.ids())
            link = next(iter(one.sync._remotes.values()))._pool._workers[0].link
            assert link is not None
            account = link.session._accounts[one.logs["chat_history"].public_key]

            assert CREDIT // 2 <= account.available <= CREDIT


async def test_writes_beyond_the_servers_window_wait_for_acks(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many the replica itself would have on their way."""
    monkeypatch.setattr(limits, "PUSH_WINDOW_MESSAGES", 10 * limits.WRITE_WINDOW_MESSAGES)
    monkeypatch.setattr(limits, "PUSH_BATCH_ENTRIES_MAX", 1)
    async with replica(transport) as one, replica(transport) as other:
        await one.write_many(3 * limits.WRITE_WINDOW_MESSAGES)
        await one.until_pushed()
        await other.until_ids(await one.ids())


async def test_a_server_that_sends_more_than_was_granted_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sent beyond that is held by nobody, and the status says why."""
    monkeypatch.setattr(limits, "PULL_CREDIT_BYTES", CREDIT)
    hello = Hello(bytes(16), Extensions(1, CAPABILITIES, bytes(16), "default"))
    key = IDENTITY.for_store("chat_history").public_key

    async def flood(connection: MemoryConnection) -> None:
        session = ServerSession(is_stream=False, hello=hello)
        await connection.send(session.data_to_send()[0])
        session.receive_data(await connection.receive())
        for number in range(10_000):
            entry = RemoteEncryptedEntry(number, bytes(12), number.to_bytes(16), bytes(ENTRY))
            await connection.send(encode_message(Changes(key, (entry,), number + 1)))

    async with replica(MemoryTransport(flood)) as one:
        await one.until(lambda sync: sync.status.last_error_code == ErrorCode.LIMIT_EXCEEDED)

        assert "credit" in (one.sync.status.last_error or "")
