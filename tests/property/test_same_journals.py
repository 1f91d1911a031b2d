"""
However a connection delivers it, what replicas and servers hold in the end is the same.

Any interleaving of two public keys on one connection and any cut of its bytes; any loss, repetition and delay of what
a replica sends again after a connection broke.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.errors import ConnectionLostError
from agentlayers.protocol.entry_codec import encode_entry
from agentlayers.protocol.events import ChangesRequested, WriteReceived
from agentlayers.protocol.messages import CAPABILITY_CREDIT, Extensions, Hello, RemoteEncryptedEntry
from agentlayers.protocol.payload import encode_payload
from agentlayers.protocol.server_session import ServerSession
from agentlayers.schedule import fixed
from agentlayers.server import MemoryServer, MemoryServerStorage
from agentlayers.server.auth import DEFAULT_TENANT
from agentlayers.transport.memory import MemoryConnection, MemoryTransport
from agentlayers.transport.transport import Connection, Transport
from helpers.sync_world import IDENTITY, replica

STORES = ("chat_history", "audit_log")
REMOTE = bytes(range(16))
HELLO = Hello(REMOTE, Extensions(1, frozenset({"entry-nonces", "through", CAPABILITY_CREDIT}), bytes(16), "default"))
EVERYTHING = {"entries_max": 10_000, "bytes_max": 1 << 30}

# -- two keys on one connection ----------------------------------------------------------------------------------------


class Script:
    """A server that sends the same entries of two keys whatever the order of its messages, and how they are cut."""

    def __init__(self, plan: Sequence[tuple[int, int, bool]], cuts: Sequence[int]) -> None:
        self.plan, self.cuts = plan, cuts
        self.keys = [IDENTITY.for_store(store) for store in STORES]
        self.heads = [0, 0]
        self.ids: list[list[bytes]] = [[], []]

    async def serve(self, connection: MemoryConnection) -> None:
        session = ServerSession(is_stream=True, hello=HELLO)
        waiting = {key.public_key for key in self.keys}
        barriers: list[WriteReceived] = []
        while True:
            for data in session.data_to_send():
                await connection.send(data)
            if not waiting:
                break
            session.receive_data(await connection.receive())
            for event in session.events_received():
                if isinstance(event, ChangesRequested):
                    waiting.discard(event.public_key)
                elif isinstance(event, WriteReceived):
                    barriers.append(event)
        for data in self._conversation(session):
            await connection.send(data)
        while True:
            session.receive_data(await connection.receive())

    def _conversation(self, session: ServerSession) -> Iterator[bytes]:
        for number, count, repeats in self.plan:
            before = self.heads[number]
            entries = [self._entry(number) for _ in range(count)]
            for _ in range(2 if repeats else 1):
                session.send_changes(self.keys[number].public_key, entries, before + count)
        data, at = b"".join(session.data_to_send()), 0
        for size in self.cuts:
            yield data[at : at + size]
            at += size
        yield data[at:]

    def _entry(self, number: int) -> RemoteEncryptedEntry:
        sequence = self.heads[number]
        self.heads[number] += 1
        entry_id = (1_700_000_000_000 + sequence).to_bytes(6) + bytes([0x70, number, 0x80]) + bytes(7)
        self.ids[number].append(entry_id)
        plaintext = encode_entry(entry_id, "event", f"key {sequence % 3}", encode_payload({"number": sequence}))
        iv, ciphertext = AesGcmEncryption().seal(self.keys[number].private_key, plaintext)
        return RemoteEncryptedEntry(sequence, iv, entry_id, ciphertext)


messages = st.tuples(st.integers(0, 1), st.integers(1, 3), st.booleans())


@settings(max_examples=60, deadline=None)
@example([(0, 2, True), (1, 1, False), (0, 1, False), (1, 3, True)], [1, 2, 3])
@given(st.lists(messages, min_size=1, max_size=12), st.lists(st.integers(0, 90), max_size=14))
def test_any_interleaving_of_two_keys_and_any_cut_give_the_same_journals(
    plan: list[tuple[int, int, bool]], cuts: list[int]
) -> None:
    asyncio.run(read_both(plan, cuts))


async def read_both(plan: list[tuple[int, int, bool]], cuts: list[int]) -> None:
    script = Script(plan, cuts)
    async with replica(MemoryTransport(script.serve, is_stream=True), names=STORES) as one:
        await one.sync.connect()
        async with asyncio.timeout(10):
            totals = [sum(count for number, count, _ in plan if number == index) for index in (0, 1)]
            for index, store in enumerate(STORES):
                while await one.journal.next_remote_sequence(store, REMOTE) < totals[index]:  # noqa: ASYNC110
                    await asyncio.sleep(0)
        for index, store in enumerate(STORES):
            held = [stored.entry.id for stored in await one.journal.entries(store, entries_max=1000)]
            assert held == script.ids[index]
            assert await one.journal.next_remote_sequence(store, REMOTE) == totals[index]
        assert one.sync.status.stores["chat_history"].quarantined == 0
        await one.sync.disconnect()


# -- retries -----------------------------------------------------------------------------------------------------------


class Late(Connection):
    """
    A connection that breaks for its client after some messages, while what the client sent is still on its way.

    So what an earlier connection carries may reach the server after a later one repeated it.
    """

    is_stream = True

    def __init__(self, inner: Connection, survives: int, delay: int) -> None:
        self._inner, self._left, self._delay = inner, survives, delay
        self._broken = asyncio.Event()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_closed = False
        self.delivered = asyncio.create_task(self._deliver())

    async def _deliver(self) -> None:
        with contextlib.suppress(ConnectionLostError):  # the server may be done with it
            while (data := await self._queue.get()) is not None:
                for _ in range(self._delay * 5):
                    await asyncio.sleep(0)
                await self._inner.send(data)
        await self._inner.close()

    def _count(self) -> None:
        if self._left == 0:
            raise ConnectionLostError(reason="broken by the test")
        self._left -= 1
        if self._left == 0:
            self._broken.set()

    async def send(self, data: bytes) -> None:
        self._count()
        self._queue.put_nowait(data)

    async def receive(self) -> bytes:
        receiving = asyncio.ensure_future(self._inner.receive())
        breaking = asyncio.ensure_future(self._broken.wait())
        try:
            await asyncio.wait((receiving, breaking), return_when=asyncio.FIRST_COMPLETED)
            self._count()
            return receiving.result()
        finally:
            for task in (receiving, breaking):
                task.cancel()
            await asyncio.gather(receiving, breaking, return_exceptions=True)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.is_closed = True
        self._queue.put_nowait(None)


class LateTransport(Transport):
    """Connections that behave as planned, and then healthy ones."""

    def __init__(self, inner: Transport, plan: Sequence[tuple[int, int]]) -> None:
        self._inner, self._plan = inner, iter(plan)
        self.connections: list[Late] = []

    @property
    def url(self) -> str:
        return self._inner.url

    async def connect(self) -> Connection:
        inner = await self._inner.connect()
        planned = next(self._plan, None)
        if planned is None:
            return inner
        self.connections.append(Late(inner, *planned))
        return self.connections[-1]


breaks = st.lists(st.tuples(st.integers(1, 14), st.integers(0, 4)), max_size=5)
writes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(1, 4), st.integers(0, 3)), max_size=12)


@settings(max_examples=60, deadline=None)
@example([(5, 4), (5, 0), (6, 4)], [(4, 2)], [(0, 0, 3, 2), (0, 0, 2, 3), (1, 0, 1, 1), (0, 1, 2, 3), (0, 0, 4, 3)])
@given(breaks, breaks, writes)
def test_any_loss_repetition_and_delay_of_retries_give_the_same_journals(
    one_breaks: list[tuple[int, int]],
    other_breaks: list[tuple[int, int]],
    plan: list[tuple[int, int, int, int]],
) -> None:
    asyncio.run(retry((one_breaks, other_breaks), plan))


async def retry(breaking: Sequence[list[tuple[int, int]]], plan: list[tuple[int, int, int, int]]) -> None:
    options: dict[str, Any] = {"names": STORES, "schedule": fixed(0.0005)}
    async with MemoryServerStorage() as storage, MemoryServer(storage) as server:
        transports = [LateTransport(server.transport(), each) for each in breaking]
        async with replica(transports[0], **options) as one, replica(transports[1], **options) as other:
            written: dict[str, int] = dict.fromkeys(STORES, 0)
            for who, number, count, pause in plan:
                await (one, other)[who].write_many(count, STORES[number])
                written[STORES[number]] += count
                for _ in range(pause * 10):
                    await asyncio.sleep(0)
            for each in (one, other, one):
                await each.sync.sync_now(timeout_seconds=10)
            for transport in transports:
                broken = [found for found in transport.connections if found.is_closed]
                await asyncio.gather(*(found.delivered for found in broken), return_exceptions=True)
            for store in STORES:
                key = IDENTITY.for_store(store).public_key
                stored = [entry.entry_id for entry in await storage.read(DEFAULT_TENANT, key, 0, **EVERYTHING)]
                assert len(stored) == len(set(stored)) == written[store]
                for each in (one, other):
                    held = [found.entry.id for found in await each.journal.entries(store, entries_max=1000)]
                    assert sorted(held) == sorted(stored)
                    assert each.sync.status.stores[store].pending == 0
