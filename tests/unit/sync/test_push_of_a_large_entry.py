"""Batches are bounded in bytes; one that ends early because a large entry comes next is not the last one."""

import asyncio
from typing import Any

from agentlayers import limits
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import SmallServer, replica


async def test_a_large_entry_behind_a_small_one_is_sent_without_another_write() -> None:
    """In one transaction, so that one commit has to bring all of them to the server."""
    server = SmallServer()
    large = "x" * (limits.PUSH_BATCH_BYTES_MAX + 1)
    async with replica(MemoryTransport(server.serve)) as one:

        def work(tx: Any) -> None:
            for text in ("small", large, "small again"):
                tx.write("chat_history", "event", "key", {"text": text})

        await one.sync.sync_now()
        await one.logs["chat_history"].transact(work)
        async with asyncio.timeout(5):
            await server.heard.until(lambda: len(server.sent_ids) >= 3)

        assert set(server.sent_ids) == await one.ids()
        assert len(server.sent_ids) == 3


async def test_a_batch_of_large_entries_is_bounded_in_bytes() -> None:
    """So is what a lost connection has to send again, and what waits in memory for an Ack."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.write_many(100, size=20_000)
        await one.sync.sync_now()

    sizes = [sum(len(entry.ciphertext) for entry in entries) for _, entries in server.writes]
    assert len(server.sent_ids) == 100
    assert max(sizes) <= limits.PUSH_BATCH_BYTES_MAX + 100 * 100  # what sealing adds to each
    assert len(sizes) < 20
