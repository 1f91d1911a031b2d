"""Whatever happens to connections: every replica ends with every entry, and nothing is applied twice."""

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from agentlayers.journal.transaction import JournalTransaction
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, Replica, SmallServer, replica

CHAT = IDENTITY.for_store("chat_history").public_key


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("is_stock", [False, True], ids=["ours", "stock"])
async def test_replicas_converge_whatever_happens_to_their_connections(
    seed: int, *, is_stock: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes, bursts, drops, lost Acks, disconnects and outages, in a random order."""
    monkeypatch.setattr("agentlayers.sync.replication.STOCK_QUIET_SECONDS", 0.02)
    random = Random(seed)
    server = SmallServer(is_stock=is_stock)
    transports = [MemoryTransport(server.serve) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(replica(t)) for t in transports]
        violations: list[str] = []
        for one in replicas:
            watch_cursor(one, server, violations)
        for _ in range(40):
            one = random.choice(replicas)
            action = random.choice(("write", "write", "burst", "drop", "lose", "leave", "outage", "wait"))
            if action == "write":
                await one.write("x")
            elif action == "burst":
                await one.write_many(random.randint(2, 20))
            elif action == "drop":
                await server.drop(random.choice((1000, 1006, 1012)))
            elif action == "lose":
                server.acks_answered = not server.acks_answered
            elif action == "leave":
                await one.sync.disconnect()
                await one.write("offline")
                with contextlib.suppress(Exception):
                    await one.sync.connect()
            elif action == "outage":
                for transport in transports:
                    transport.server = None if transport.server else server.serve
            else:
                await asyncio.sleep(random.choice((0, 0.001, 0.02)))
        server.acks_answered = True
        for transport in transports:
            transport.server = server.serve
        await server.drop()
        for one in [*replicas, *replicas]:
            await one.sync.sync_now(timeout_seconds=15)
        held = [await one.ids() for one in replicas]
        stored = [entry.entry_id for entry in server.journals.get(CHAT, [])]
        counts = [len(await one.journal.entries("chat_history", entries_max=10_000)) for one in replicas]

        assert held[0] == held[1] == held[2] == set(stored)
        assert len(stored) == len(set(stored))
        assert counts == [len(stored)] * 3
        assert all(one.sync.status.pending == 0 for one in replicas)
        assert not server.failures
        assert not violations


def watch_cursor(one: Replica, server: SmallServer, violations: list[str]) -> None:
    """Check after each transaction that everything below the cursor is held: a crash may come now."""
    real = one.journal.transact

    def check(tx: JournalTransaction) -> None:
        cursor = tx.remote_state("chat_history", server.remote_id).next_sequence
        violations.extend(
            f"{stored.sequence} is missing below {cursor}"
            for stored in server.journals.get(CHAT, ())
            if stored.sequence < cursor and tx.entry(stored.entry_id) is None
        )

    async def checked(work: Callable[[JournalTransaction], Any]) -> Any:
        result = await real(work)
        await one.journal.read(check)
        return result

    one.journal.transact = checked  # type: ignore[method-assign]
