"""What sync tests are made of: replicas, and a small server over the real server session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentlayers.crypto.encryption import AesGcmEncryption, Encryption
from agentlayers.errors import ConnectionLostError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal, StoreSchema
from agentlayers.journal.memory.journal import MemoryJournal
from agentlayers.protocol.events import (
    ChangesRequested,
    ChangesStopped,
    SessionFailed,
    WriteReceived,
)
from agentlayers.protocol.messages import (
    CAPABILITY_ACK_THROUGH,
    CAPABILITY_ENTRY_NONCES,
    EncryptedEntry,
    Extensions,
    Hello,
    RemoteEncryptedEntry,
)
from agentlayers.protocol.server_session import ServerSession
from agentlayers.schedule import fixed
from agentlayers.sync.service import SyncService
from agentlayers.sync.signal import Signal
from agentlayers.transport.memory import MemoryConnection
from agentlayers.transport.transport import Transport

IDENTITY = Identity.generate(lambda count: bytes(range(count)))
STORES = {"audit_log": True, "chat_history": True, "artifacts": False}


@dataclass
class Replica:
    """One journal with its logs and its sync service, all open."""

    journal: EventJournal
    sync: SyncService
    logs: dict[str, EventLog]
    unregister: dict[str, Callable[[], Awaitable[None]]]

    async def write(self, text: str, store: str = "chat_history") -> bytes:
        """Write one small entry and return its id."""
        return (await self.logs[store].write("event", "key", {"text": text})).id

    async def write_many(self, count: int, store: str = "chat_history", size: int = 1) -> None:
        """Write entries in one transaction."""

        def work(tx: Any) -> None:
            for number in range(count):
                tx.write(store, "event", "key", {"number": number, "text": "x" * size})

        await self.logs[store].transact(work)

    async def ids(self, store: str = "chat_history") -> set[bytes]:
        """Return the ids of all entries of a store."""
        found: set[bytes] = set()
        after = 0
        while stored := await self.journal.entries(store, after=after, entries_max=1000):
            found.update(one.entry.id for one in stored)
            after = stored[-1].position
        return found

    async def until_ids(self, expected: set[bytes], store: str = "chat_history") -> None:
        """Wait for a set of entries, woken by commits and not by time."""
        committed = asyncio.Event()
        stop = self.journal.on_commit(lambda commit: committed.set())
        try:
            async with asyncio.timeout(10):
                while not expected <= await self.ids(store):
                    await committed.wait()
                    committed.clear()
        finally:
            stop()

    async def until(self, predicate: Callable[[SyncService], bool]) -> None:
        """Wait for a status."""
        async with asyncio.timeout(10), contextlib.aclosing(self.sync.status_stream()) as stream:
            async for _ in stream:
                if predicate(self.sync):
                    return

    async def until_pushed(self, store: str = "chat_history") -> None:
        """Wait until the server has acknowledged everything of a store."""
        await self.until(lambda sync: sync.status.is_connected and sync.status.stores[store].pending == 0)


@contextlib.asynccontextmanager
async def replica(
    transport: Transport,
    *,
    journal: EventJournal | None = None,
    stores: Mapping[str, Any] | None = None,
    names: Sequence[str] = ("chat_history",),
    encryption: Encryption | None = None,
    identity: Identity = IDENTITY,
    **options: Any,
) -> AsyncIterator[Replica]:
    """Open a replica that retries every 10 ms."""
    sync = SyncService(
        transport,
        encryption or AesGcmEncryption(),
        stores=STORES if stores is None else stores,
        **{"schedule": fixed(0.01), **options},
    )
    async with journal or MemoryJournal() as opened, sync:
        logs = {name: EventLog(opened, identity, StoreSchema(name=name)) for name in names}
        unregister = {}
        for name, log in logs.items():
            await log.open()
            unregister[name] = sync.register(log)
        made = Replica(opened, sync, logs, unregister)
        try:
            yield made
        finally:
            for name in list(unregister):
                await unregister[name]()


@dataclass
class Peer:
    """One connection as the small server sees it."""

    connection: MemoryConnection
    session: ServerSession
    latest: int = -1
    following: dict[str, int] = field(default_factory=dict)

    async def flush(self) -> None:
        """Send what the session has to say."""
        for frame in self.session.data_to_send():
            await self.connection.send(frame)


class SmallServer:
    """
    A small server; with ``is_stock`` it behaves as the unmodified Effect memory server.

    Give :meth:`serve` to a ``MemoryTransport``.
    """

    def __init__(
        self, *, is_stock: bool = False, first_sequence: int = 0, remote_id: bytes = b"remote-id-16byte"
    ) -> None:
        self.is_stock = is_stock
        self.first_sequence = first_sequence
        self.remote_id = remote_id
        self.incarnation = b"incarnation-16by"
        self.journals: dict[str, list[RemoteEncryptedEntry]] = {}
        self.writes: list[tuple[str, tuple[EncryptedEntry, ...]]] = []
        self.requests: list[tuple[str, int]] = []
        self.stops: list[str] = []
        self.peers: list[Peer] = []
        self.failures: list[Exception] = []
        self.acks_answered = True
        self.heard = Signal()
        self.is_answering = asyncio.Event()
        self.is_answering.set()

    @property
    def sent_ids(self) -> list[bytes]:
        """Ids of all entries ever received, repeated ones too."""
        return [entry.entry_id for _, entries in self.writes for entry in entries]

    def hello(self) -> Hello:
        """Return what it introduces itself with."""
        if self.is_stock:
            return Hello(self.remote_id)
        capabilities = frozenset({CAPABILITY_ENTRY_NONCES, CAPABILITY_ACK_THROUGH})
        return Hello(self.remote_id, Extensions(1, capabilities, self.incarnation, "default"))

    async def serve(self, connection: MemoryConnection) -> None:
        """Serve one connection until it ends."""
        session = ServerSession(is_stream=connection.is_stream, hello=self.hello())
        peer = Peer(connection, session)
        self.peers.append(peer)
        try:
            await peer.flush()
            while True:
                session.receive_data(await connection.receive())
                await self.is_answering.wait()
                for event in session.events_received():
                    await self._handle(peer, event)
                    self.heard.notify()
                await peer.flush()
        finally:
            self.peers.remove(peer)

    async def drop(self, code: int = 1006) -> None:
        """Close all connections."""
        for peer in list(self.peers):
            await peer.connection.close(code, "dropped")

    def append(self, public_key: str, *entries: EncryptedEntry) -> list[RemoteEncryptedEntry]:
        """Store entries without telling anybody."""
        journal = self.journals.setdefault(public_key, [])
        new = []
        for entry in entries:
            sequence = journal[-1].sequence + 1 if journal else self.first_sequence
            stored = RemoteEncryptedEntry(sequence, entry.iv, entry.entry_id, entry.ciphertext)
            journal.append(stored)
            new.append(stored)
        return new

    async def publish(self, public_key: str, *entries: EncryptedEntry) -> None:
        """Store entries and send them to whoever follows the key."""
        self.append(public_key, *entries)
        for peer in list(self.peers):
            self._bring_forward(peer, public_key)
            with contextlib.suppress(ConnectionLostError):
                await peer.flush()

    async def _handle(self, peer: Peer, event: object) -> None:
        if isinstance(event, ChangesRequested):
            self.requests.append((event.public_key, event.start_sequence))
            head = self._head(event.public_key)
            start = event.start_sequence
            peer.following[event.public_key] = start if self.is_stock else min(start, head)
            self._bring_forward(peer, event.public_key)
        elif isinstance(event, ChangesStopped):
            self.stops.append(event.public_key)
            peer.following.pop(event.public_key, None)
        elif isinstance(event, WriteReceived):
            await self._write(peer, event)
        elif isinstance(event, SessionFailed):
            self.failures.append(event.error)
            await peer.connection.close(1002, str(event.error))

    async def _write(self, peer: Peer, event: WriteReceived) -> None:
        if event.entries:
            self.writes.append((event.public_key, event.entries))
        known = {e.entry_id: e.sequence for e in self.journals.get(event.public_key, ())}
        new = [entry for entry in event.entries if entry.entry_id not in known]
        if self.is_stock and event.entries and not new:
            await peer.connection.close(1005, "a batch of duplicates only")
            return
        stored = self.append(event.public_key, *new)
        known |= {entry.entry_id: entry.sequence for entry in stored}
        if self.is_stock:
            sequences = [entry.sequence for entry in stored]
            peer.latest = max([peer.latest, *sequences])
        else:
            sequences = [known[entry.entry_id] for entry in event.entries]
        if peer.following.get(event.public_key) is not None and stored:
            peer.following[event.public_key] = stored[-1].sequence + 1
        if self.acks_answered:
            through = None if self.is_stock else self._head(event.public_key)
            peer.session.send_ack(event.message_id, sequences, through)
        await peer.flush()
        for other in self.peers:
            if other is not peer:
                self._bring_forward(other, event.public_key)
                with contextlib.suppress(ConnectionLostError):
                    await other.flush()

    def _head(self, public_key: str) -> int:
        journal = self.journals.get(public_key)
        return journal[-1].sequence + 1 if journal else 0

    def _bring_forward(self, peer: Peer, public_key: str) -> None:
        start = peer.following.get(public_key)
        if start is None:
            return
        missing = [e for e in self.journals.get(public_key, ()) if e.sequence >= start]
        if self.is_stock:
            missing = [entry for entry in missing if entry.sequence > peer.latest]
        if missing:
            peer.latest = max(peer.latest, missing[-1].sequence)
            peer.following[public_key] = missing[-1].sequence + 1
            through = None if self.is_stock else missing[-1].sequence + 1
            peer.session.send_changes(public_key, missing, through)
