"""A connection that lags behind is read for while its peer takes it, and no longer than it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentlayers.errors import StorageError, StorageUnavailableError
from agentlayers.limits import CHANGES_BATCH_BYTES_MAX
from agentlayers.protocol.messages import RemoteEncryptedEntry
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.catch_up import CATCH_UP_BYTES_MAX, CatchUp
from agentlayers.server.hub import Hub, Key
from agentlayers.server.memory_storage import MemoryServerStorage
from agentlayers.server.outbox import Outbox
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.silent_peer import SilentPeer
from unit.server.test_read_receipts import GatedSocket

KEY = Key("tenant", "key")
BATCHES = 10
ENTRIES = BATCHES * 4
SIZE = CHANGES_BATCH_BYTES_MAX // 4


class BrokenStorage(MemoryServerStorage):
    """Can be read no more once it is broken."""

    is_broken = False

    async def read(
        self, tenant: str, public_key: str, start: int, *, entries_max: int, bytes_max: int
    ) -> list[RemoteEncryptedEntry]:
        if self.is_broken:
            raise StorageUnavailableError(backend="test", operation="read", reason="broken")
        return await super().read(tenant, public_key, start, entries_max=entries_max, bytes_max=bytes_max)


class CatchingPeer(SilentPeer):
    """A connection without a session: what catching up needs of it."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.socket = GatedSocket()
        self.outbox = Outbox(self.socket, on_stall=lambda: None)
        self.failures: list[StorageError] = []
        self.catch_up = CatchUp(self, hub, self.outbox, self.failures.append)

    def send_changes(self, broadcast: Broadcast) -> None:
        super().send_changes(broadcast)
        self.outbox.put(broadcast.stream)

    def must_catch_up(self) -> None:
        self.catch_up.go_on()

    async def follow(self) -> None:
        await self.hub.subscribe(self, KEY, 0)

    async def close(self) -> None:
        await self.catch_up.close()
        await self.outbox.close()


@pytest.fixture
async def storage() -> AsyncIterator[BrokenStorage]:
    async with BrokenStorage() as storage:
        await storage.append(*KEY, sealed_entries(ENTRIES, size=SIZE))
        yield storage


@pytest.fixture
async def peer(storage: BrokenStorage) -> CatchingPeer:
    return CatchingPeer(Hub(storage))


async def rest() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(500):
        await asyncio.sleep(0)


async def test_it_reads_as_far_ahead_as_may_be_queued_and_goes_on_when_the_peer_does(peer: CatchingPeer) -> None:
    await peer.follow()
    await rest()
    read_ahead = len(peer.sequences)
    assert 0 < peer.outbox.size < CATCH_UP_BYTES_MAX + 2 * CHANGES_BATCH_BYTES_MAX
    assert read_ahead < ENTRIES

    peer.socket.gate.set()
    await rest()
    assert peer.sequences == list(range(ENTRIES))
    await peer.close()


async def test_asked_twice_it_reads_once(peer: CatchingPeer) -> None:
    peer.socket.gate.set()
    await peer.follow()
    peer.catch_up.go_on()
    peer.catch_up.go_on_later()
    await rest()

    assert peer.sequences == list(range(ENTRIES))
    await peer.close()


async def test_a_storage_that_cannot_be_read_is_told(peer: CatchingPeer, storage: BrokenStorage) -> None:
    storage.is_broken = True
    await peer.follow()
    await rest()
    await peer.close()

    assert [type(failure) for failure in peer.failures] == [StorageUnavailableError]
    assert peer.sequences == []


async def test_stopped_it_begins_nothing_any_more(peer: CatchingPeer) -> None:
    await peer.follow()
    await rest()
    peer.catch_up.stop()
    read = len(peer.sequences)
    peer.socket.gate.set()
    await rest()
    peer.catch_up.go_on()
    peer.catch_up.go_on_later()
    assert asyncio.all_tasks() == {asyncio.current_task()}

    # The batch that it was waiting to read is still sent.
    assert read <= len(peer.sequences) <= read + CHANGES_BATCH_BYTES_MAX // SIZE < ENTRIES
    await peer.close()


async def test_closing_leaves_nothing_that_waits_for_the_peer_or_for_time(peer: CatchingPeer) -> None:
    await peer.follow()
    await rest()
    peer.catch_up.go_on_later()
    await peer.close()

    assert asyncio.all_tasks() == {asyncio.current_task()}
