"""Servers that break off, change their kind or lie: a replica fails no caller, keeps trying and ends up whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from random import Random

import pytest

from agentlayers import limits
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, SmallServer, replica
from unit.sync.lying_server import lying_server

NAMES = ("audit_log", "chat_history")


@pytest.mark.parametrize("at_once", [True, False], ids=["message", "close"])
async def test_a_store_may_be_opened_at_any_moment_of_a_breaking_connection(at_once: bool) -> None:
    """Whoever opens it is told nothing of the connection, and the next one replicates it."""
    for steps in range(40):
        server = SmallServer()
        async with replica(MemoryTransport(server.serve)) as one:
            await one.until_pushed()
            log = EventLog(one.journal, IDENTITY, StoreSchema(name="audit_log"))
            await log.open()
            written = await log.write("event", "key", {})
            breaking = asyncio.ensure_future(server.peers[0].connection.send(b"\xc1") if at_once else server.drop(1006))
            for _ in range(steps):
                await asyncio.sleep(0)
            unregister = one.sync.register(log)
            await breaking
            async with asyncio.timeout(5):
                await server.heard.until(lambda server=server, entry=written.id: entry in server.sent_ids)  # type: ignore[misc]
            await unregister()


async def test_a_server_that_is_stock_to_one_connection_and_not_to_the_next_gets_everything() -> None:
    """As behind an address that leads to several of them while they are replaced: no connection fails for it."""
    stock, ours = SmallServer(is_stock=True), SmallServer()
    servers = iter([stock])
    transport = MemoryTransport(lambda connection: next(servers, ours).serve(connection))
    async with replica(transport, names=NAMES) as one:
        written = [await one.write("x", name) for name in NAMES]
        await one.sync.sync_now()

        assert one.sync.status.pending == 0
        assert {*stock.sent_ids, *ours.sent_ids} == {*written}
        assert (len(stock.peers), len(ours.peers), transport.connections) == (1, 1, 2)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("seed", "connections"),
    [(1, 150), *(pytest.param(seed, 1_000, marks=pytest.mark.slow) for seed in range(10, 15))],
)
async def test_a_lying_server_causes_documented_errors_only(
    seed: int, connections: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    It relabels, repeats, misnumbers and garbles what it has, under two ids and as every kind of server.

    Then an honest one takes its place: nothing that was written is missing there.
    """
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.005)
    transport = MemoryTransport(lying_server(Random(seed)), is_stream=True)
    async with replica(transport, names=NAMES) as one:
        while transport.connections < connections:
            for name in NAMES:
                await one.write("x", name)
            await asyncio.sleep(0.003)
        monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 10.0)
        honest = SmallServer()
        transport.server = honest.serve
        with contextlib.suppress(Exception):  # what ended the last connection to the liar
            await one.sync.sync_now()
        await one.sync.sync_now()

        assert await one.ids() | await one.ids("audit_log") <= set(honest.sent_ids)
        assert one.sync.status.pending == 0
        assert all(len(one.sync.quarantine(name)) < 1000 for name in NAMES)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
