"""Retention drops nothing that a server is still to be sent, one that was never reached included."""

from __future__ import annotations

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.journal import MemoryJournal
from agentlayers.journal.compaction import ByCount
from agentlayers.schedule import fixed
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.sync.service import SyncService
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, SmallServer


class Second(MemoryTransport):
    """A way to another server."""

    @property
    def url(self) -> str:
        return "memory://second"


def service(transport: MemoryTransport, *further: MemoryTransport, synced: bool = True) -> SyncService:
    stores = {"chat_history": synced}
    return SyncService(transport, AesGcmEncryption(), remotes=further, stores=stores, schedule=fixed(0.01))


async def fill(chat: ChatHistoryStore) -> None:
    for number in range(10):
        await chat.append("s", {"text": str(number)})


async def dropped(chat: ChatHistoryStore) -> int:
    report = await chat.cleanup()
    return 0 if report is None else report.dropped


async def test_what_was_written_before_a_server_was_first_reached_is_kept_for_it() -> None:
    server, transport = SmallServer(), MemoryTransport(None)
    async with (
        MemoryJournal() as journal,
        service(transport) as sync,
        ChatHistoryStore(journal, IDENTITY, sync=sync, compaction=ByCount(3)) as chat,
    ):
        await fill(chat)
        before = await dropped(chat)
        transport.server = server.serve
        await sync.sync_now()
        after = await dropped(chat)

        assert (before, len(server.sent_ids), after) == (0, 10, 7)


async def test_a_second_server_that_was_never_reached_counts_too() -> None:
    first, second, way = SmallServer(), SmallServer(remote_id=b"another-remote-i"), Second(None)
    async with (
        MemoryJournal() as journal,
        service(MemoryTransport(first.serve), way) as sync,
        ChatHistoryStore(journal, IDENTITY, sync=sync, compaction=ByCount(3)) as chat,
    ):
        await fill(chat)
        await sync.sync_now(return_errors=True)
        before = await dropped(chat)
        way.server = second.serve
        await sync.sync_now()
        after = await dropped(chat)

        assert (before, len(second.sent_ids), after) == (0, 10, 7)


async def test_a_server_that_is_left_holds_nothing_back() -> None:
    async with (
        MemoryJournal() as journal,
        service(MemoryTransport(None), Second(None)) as sync,
        ChatHistoryStore(journal, IDENTITY, sync=sync, compaction=ByCount(3)) as chat,
    ):
        await fill(chat)
        await sync.disconnect("memory://second")
        held = await dropped(chat)
        await sync.disconnect("memory://")

        assert (held, await dropped(chat)) == (0, 7)


async def test_a_store_that_is_not_synced_holds_nothing_back() -> None:
    async with (
        MemoryJournal() as journal,
        service(MemoryTransport(None), synced=False) as sync,
        ChatHistoryStore(journal, IDENTITY, sync=sync, compaction=ByCount(3)) as chat,
    ):
        await fill(chat)

        assert await dropped(chat) == 7


async def test_a_server_that_is_reached_at_two_addresses_holds_nothing_back() -> None:
    """It is one remote, known at the address used last."""
    server = SmallServer()
    async with (
        MemoryJournal() as journal,
        service(MemoryTransport(server.serve), Second(server.serve)) as sync,
        ChatHistoryStore(journal, IDENTITY, sync=sync, compaction=ByCount(3)) as chat,
    ):
        await fill(chat)
        await sync.sync_now()

        assert await dropped(chat) == 7
