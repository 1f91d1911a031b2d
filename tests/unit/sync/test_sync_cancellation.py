"""Whatever a caller does with the service, and wherever it is cancelled: nothing is lost, left open or left running."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from agentlayers import limits
from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.errors import AgentLayersError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal import MemoryJournal
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.protocol.entry_codec import encode_entry
from agentlayers.protocol.events import ChangesRequested, ChangesStopped
from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry
from agentlayers.protocol.payload import encode_payload
from agentlayers.protocol.server_session import ServerSession
from agentlayers.schedule import fixed
from agentlayers.server import MemoryServer, MemoryServerStorage
from agentlayers.sync.service import SyncService
from agentlayers.transport.memory import MemoryConnection, MemoryTransport
from helpers.sync_world import IDENTITY, Replica, SmallServer, replica

CHAT = "chat_history"
KEY = IDENTITY.for_store(CHAT)
STEPS = [*range(12), *range(12, 60, 4)]
"""Turns of the loop before the cancellation: each of the first, then every fourth."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLUSH_ON_CLOSE_SECONDS", 0.3)
    monkeypatch.setattr("agentlayers.transport.memory._CLOSE_SECONDS", 0.1)


async def cancelled_after(steps: int, work: Awaitable[Any]) -> None:
    """Run something for some turns of the loop, then cancel it."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    with contextlib.suppress(AgentLayersError, asyncio.CancelledError):
        task.result()


async def reconnected(one: Replica) -> None:
    await one.sync.disconnect()
    await one.sync.connect()


async def returned(one: Replica) -> None:
    """Take the store back from the service, and give it to it again."""
    await one.unregister[CHAT]()
    one.unregister[CHAT] = one.sync.register(one.logs[CHAT])


async def with_credentials(one: Replica) -> None:
    """Connect to the same server with something else."""
    transport = next(iter(one.sync._remotes.values())).transport
    assert isinstance(transport, MemoryTransport)
    await one.sync.connect_transport(MemoryTransport(transport.server, is_stream=True))


CALLS: dict[str, Callable[[Replica], Awaitable[Any]]] = {
    "sync_now": lambda one: one.sync.sync_now(),
    "connect": lambda one: one.sync.connect(),
    "reconnect": reconnected,
    "disconnect": lambda one: one.sync.disconnect(),
    "return": returned,
    "credentials": with_credentials,
    "fetch": lambda one: one.sync.fetch(CHAT, [bytes(16)]),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("is_fresh", [True, False])
async def test_a_call_may_be_cancelled_at_any_step(call: str, is_fresh: bool) -> None:
    """Before the first connection is up as well as on one that is open; afterwards everything is exchanged."""
    async with MemoryServerStorage() as storage, MemoryServer(storage) as server:
        written = 0
        for steps in STEPS:
            async with replica(server.transport()) as one:
                if not is_fresh:
                    await one.sync.connect()
                await one.write_many(3)
                written += 3
                await cancelled_after(steps, CALLS[call](one))
                if CHAT not in one.sync._logs:
                    one.unregister[CHAT] = one.sync.register(one.logs[CHAT])
                await one.sync.sync_now()

                assert len(await one.ids()) == written
                assert one.sync.status.pending == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert await storage.head("default", KEY.public_key) == written


async def test_a_service_may_be_cancelled_while_it_closes() -> None:
    """Twice, even: once while it sends what is left, and again while it closes."""
    for first in range(0, 40, 3):
        for second in (0, 1, 3, 9):
            server = SmallServer()
            server.acks_answered = False
            async with MemoryJournal() as journal:
                await cancelled_after(first, closing(journal, server, second))
                for _ in range(20):
                    await asyncio.sleep(0.001)
                assert not server.peers
            assert asyncio.all_tasks() == {asyncio.current_task()}


async def closing(journal: MemoryJournal, server: SmallServer, second: int) -> None:
    sync = SyncService(MemoryTransport(server.serve), AesGcmEncryption(), stores={CHAT: True}, schedule=fixed(0.01))
    inner = asyncio.ensure_future(_open_and_close(journal, sync))
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        inner.cancel()
        for _ in range(second):
            await asyncio.sleep(0)
        inner.cancel()
        await asyncio.wait({inner})
        raise


async def _open_and_close(journal: MemoryJournal, sync: SyncService) -> None:
    async with sync:
        log = EventLog(journal, IDENTITY, StoreSchema(name=CHAT))
        await log.open()
        sync.register(log)
        await log.write("event", "key", {})
        await asyncio.sleep(0)


# -- what is under way when a store is closed and opened again -----------------------------------------------------


class Straggler:
    """A server whose Changes for a store that was left are still under way when the store comes again."""

    def __init__(self) -> None:
        self.entries = [self._entry(number) for number in range(10)]
        self.starts: list[int] = []
        self.heard = asyncio.Event()

    @staticmethod
    def _entry(sequence: int) -> RemoteEncryptedEntry:
        entry_id = (1_700_000_000_000 + sequence).to_bytes(6) + b"\x70\x00\x80" + bytes(7)
        plaintext = encode_entry(entry_id, "event", "key", encode_payload({"number": sequence}))
        sealed = EncryptedEntry(entry_id, *AesGcmEncryption().seal(KEY.private_key, plaintext))
        return RemoteEncryptedEntry(sequence, sealed.iv, entry_id, sealed.ciphertext)

    async def serve(self, connection: MemoryConnection) -> None:
        """Send the first half; the rest only when the store comes again, and then hang up."""
        session = ServerSession(is_stream=False, hello=SmallServer().hello())
        is_again = bool(self.starts)
        while True:
            for data in session.data_to_send():
                await connection.send(data)
            session.receive_data(await connection.receive())
            for event in session.events_received():
                if isinstance(event, ChangesRequested):
                    for message in self._answer(session, event.start_sequence, is_again=is_again):
                        await connection.send(message)
                    if self.starts.count(event.start_sequence) > 1 and not is_again:
                        await connection.close(1006)
                elif isinstance(event, ChangesStopped):
                    self.heard.set()

    def _answer(self, session: ServerSession, start: int, *, is_again: bool) -> Iterator[bytes]:
        self.starts.append(start)
        some = self.entries[start:] if is_again else self.entries[:5]
        if len(self.starts) == 2 and not is_again:
            some = self.entries[5:]
        session.send_changes(KEY.public_key, some, some[-1].sequence + 1)
        yield from session.data_to_send()


async def test_what_was_under_way_when_a_store_was_closed_does_not_move_the_cursor_of_the_next() -> None:
    """It begins far beyond what the journal has: the rest was received, and dropped with the store."""
    server = Straggler()
    async with replica(MemoryTransport(server.serve)) as one:
        real, gate, waiting = one.journal.transact, asyncio.Event(), asyncio.Event()

        async def slow(work: Callable[[Any], Any]) -> Any:
            task = asyncio.current_task()
            if task is not None and task.get_name().startswith("commit "):
                waiting.set()
                await gate.wait()
            return await real(work)

        one.journal.transact = slow  # type: ignore[method-assign]
        await waiting.wait()
        await returned(one)
        gate.set()
        await one.until_ids({entry.entry_id for entry in server.entries})

        assert await one.journal.next_remote_sequence(CHAT, SmallServer().remote_id) == 10
