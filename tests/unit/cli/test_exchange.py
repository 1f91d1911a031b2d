"""An exchange lasts as long as something moves, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from agentlayers import limits
from agentlayers.cli.exchange import exchange, progress_of
from agentlayers.errors import ConnectError, TransportError
from agentlayers.transport.memory import MemoryConnection, MemoryTransport
from helpers.sync_world import SmallServer, replica

PATIENCE_SECONDS = 0.6


async def test_a_narrow_line_is_waited_for_as_long_as_something_moves() -> None:
    """Far longer than nothing may move."""
    server = SmallServer()

    async def narrow(connection: MemoryConnection) -> None:
        receive = connection.receive

        async def receive_slowly() -> bytes:
            await asyncio.sleep(0.06)
            return await receive()

        connection.receive = receive_slowly  # type: ignore[method-assign]
        await server.serve(connection)

    async with replica(MemoryTransport(narrow)) as one:
        await one.sync.disconnect()  # so that all of it is sent while the exchange is measured
        await one.write_many(12_000)
        report = await exchange(one.sync, patience_seconds=PATIENCE_SECONDS)

        assert [remote.error for remote in report.remotes] == [None]
        assert report.seconds > 2 * PATIENCE_SECONDS
        assert len(server.sent_ids) == 12_000
        assert progress_of(one.sync.status) == "(connected): 12,000 sent, 0 received"


async def test_a_server_that_does_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLUSH_ON_CLOSE_SECONDS", 0.1)
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        server.is_answering.clear()
        await one.write("never acknowledged")
        report = await exchange(one.sync, patience_seconds=PATIENCE_SECONDS)

        assert [type(remote.error) for remote in report.remotes] == [TransportError]
        assert progress_of(one.sync.status) == "(connected): 0 sent, 0 received, 1 to send"
        server.is_answering.set()


async def test_a_server_that_is_not_there_is_no_reason_to_wait() -> None:
    async with replica(MemoryTransport(None)) as one:
        report = await exchange(one.sync)

        assert [type(remote.error) for remote in report.remotes] == [ConnectError]
        assert report.seconds < 10
