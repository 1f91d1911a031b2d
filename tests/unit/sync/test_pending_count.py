"""What a status says is pending is never less than what was written and not acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.event_journal import Commit, StoreSchema
from agentlayers.journal.memory import MemoryJournal
from agentlayers.server import MemoryServer
from agentlayers.sync.registration import Registration
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, SmallServer, replica

STORE = "chat_history"


async def test_an_ack_takes_nothing_from_what_was_written_since_the_last_count() -> None:
    """A burst: its first entries are acknowledged before the others were even looked for."""
    log = EventLog(MemoryJournal(), IDENTITY, StoreSchema(name=STORE))
    registration = Registration(log, enabled=True)
    registration.counted(0)
    registration.note_commit(Commit(frozenset({STORE}), 40, frozenset({(STORE, b"")})))
    registration.acknowledged(10, 0.0)
    in_between = registration.pending
    registration.counted(30)
    registration.acknowledged(30, 0.0)

    assert (in_between, registration.pending) == (1, 0)


async def test_what_is_written_while_a_connection_resumes_is_pending() -> None:
    """The journal was asked before, and its answer is taken note of behind."""
    server = SmallServer(is_stock=True)  # pushes nothing before the backlog is read, which takes a while
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        await one.sync.disconnect()
        real = one.journal.transact
        written: list[bytes] = []

        async def transact(work: Callable[[Any], Any]) -> Any:
            result = await real(work)
            task = asyncio.current_task()
            if not written and task is not None and task.get_name().startswith("replicate"):
                one.journal.transact = real  # type: ignore[method-assign]
                written.append(await one.write("meanwhile"))
            return result

        one.journal.transact = transact  # type: ignore[method-assign]
        requested = len(server.requests)
        await one.sync.connect()
        async with asyncio.timeout(10):
            await server.heard.until(lambda: len(server.requests) > requested)

        assert (len(written), one.sync.status.pending) == (1, 1)

        await one.sync.sync_now()

        assert (server.sent_ids, one.sync.status.pending) == (written, 0)


async def test_what_is_not_relayed_keeps_no_count_up() -> None:
    """A store on demand got something from one server, and then all of its own is acknowledged by the other."""
    flags = {"artifact_content": "on_demand"}
    names = ("artifact_content",)
    async with MemoryServer() as first, MemoryServer() as second, asyncio.timeout(20):
        transports = [
            MemoryTransport(one.serve, is_stream=True, name=str(at)) for at, one in enumerate((first, second))
        ]
        async with replica(transports[0], stores=flags, names=names) as other:
            theirs = await other.write("theirs", "artifact_content")
            await other.sync.sync_now()
        async with replica(transports[0], remotes=transports[1:], stores=flags, names=names) as one:
            await one.sync.connect()
            await one.sync.fetch("artifact_content", [theirs])
            await asyncio.gather(*(one.write("ours", "artifact_content") for _ in range(20)))

            def told() -> list[tuple[int, int | None]]:
                remotes = one.sync.status.remotes.values()
                return [
                    (found.stores["artifact_content"].sent, found.stores["artifact_content"].pending)
                    for found in remotes
                ]

            while [sent for sent, _ in told()] != [20, 20]:  # noqa: ASYNC110 - what wakes a stream counts anew
                await asyncio.sleep(0)

            assert told() == [(20, 0), (20, 0)]
