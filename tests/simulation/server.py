"""A server that dies and comes back, is restored to an older moment, loses everything or is replaced by another."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Self

from agentlayers.errors import ConnectionLostError, StorageUnavailableError
from agentlayers.limits import OUTBOX_BYTES_MAX
from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry
from agentlayers.server import MemoryServer, MemoryServerStorage
from agentlayers.server.auth import DEFAULT_TENANT
from agentlayers.server.storage import Appended, Found, ServerStorage, TenantInfo
from agentlayers.transport.memory import MemoryConnection
from simulation.chance import pause
from simulation.network import Network
from simulation.run_log import RunLog

__all__ = ["SimulatedServer", "SimulatedStorage"]


class SimulatedStorage(ServerStorage):
    """
    A storage that takes its time, and fails now and then.

    Attributes:
        inner: What is committed.
        ailing: Chance of a failure, for each operation; some fail after they were done.
        unsaid: By public key, entries whose append failed after it was done, so that no server knows of them yet.
    """

    def __init__(self, inner: MemoryServerStorage, random: Random) -> None:
        self.inner, self._random = inner, random
        self.ailing = 0.0
        self.unsaid: dict[str, set[bytes]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def _struggle(self, operation: str) -> None:
        await pause(self._random)
        if self._random.random() < self.ailing:
            raise StorageUnavailableError(backend="simulated", operation=operation, reason="it is ailing")

    async def tenant(self, tenant: str) -> TenantInfo:
        await self._struggle("read")
        return await self.inner.tenant(tenant)

    async def append(self, tenant: str, public_key: str, entries: Sequence[EncryptedEntry]) -> Appended:
        await self._struggle("append")
        appended = await self.inner.append(tenant, public_key, entries)
        unsaid = self.unsaid.setdefault(public_key, set())
        try:
            await self._struggle("append")
        except StorageUnavailableError:
            unsaid.update(entry.entry_id for entry in appended.new)
            raise
        if appended.new:
            unsaid.clear()  # nobody overlooks what lies below them
        return appended

    async def read(
        self, tenant: str, public_key: str, start: int, *, entries_max: int, bytes_max: int
    ) -> list[RemoteEncryptedEntry]:
        await self._struggle("read")
        found = await self.inner.read(tenant, public_key, start, entries_max=entries_max, bytes_max=bytes_max)
        await pause(self._random)
        return found

    async def find(self, tenant: str, public_key: str, entry_ids: Sequence[bytes], *, bytes_max: int) -> Found:
        await self._struggle("read")
        return await self.inner.find(tenant, public_key, entry_ids, bytes_max=bytes_max)

    async def head(self, tenant: str, public_key: str) -> int:
        await self._struggle("read")
        found = await self.inner.head(tenant, public_key)
        await pause(self._random)
        return found

    async def digest(self, tenant: str, public_key: str, sequence: int) -> bytes | None:
        await self._struggle("read")
        return await self.inner.digest(tenant, public_key, sequence)


class SimulatedServer:
    """
    A server under one address, whatever becomes of it.

    Attributes:
        name: Its address.
        storage: Of the process that runs, or ran last.
        rewinds: How often its data was replaced by something else than it had said it has.
    """

    def __init__(self, name: str, network: Network, random: Random, log: RunLog) -> None:
        self.name, self._network, self._random, self._log = name, network, random, log
        self.storage = SimulatedStorage(MemoryServerStorage(random=random.randbytes), random)
        self.rewinds = 0
        self._server: MemoryServer | None = None
        self._copies: list[MemoryServerStorage] = []

    # -- serving ----------------------------------------------------------------------------------------------
    @property
    def is_up(self) -> bool:
        """Whether a process runs."""
        return self._server is not None

    async def serve(self, connection: MemoryConnection) -> None:
        """Serve one connection until it ends."""
        if self._server is None:
            raise ConnectionLostError(reason="nobody listens there")
        await self._server.serve(connection)

    async def start(self) -> None:
        """Start the process on what is committed."""
        if self._server is None:
            self._log.note(self.name, "starts")
            self._server = await MemoryServer(self.storage).__aenter__()

    async def stop(self) -> None:
        """End the process with good manners."""
        server, self._server = self._server, None
        if server is not None:
            self._log.note(self.name, "stops")
            await server.__aexit__(None, None, None)

    async def die(self) -> None:
        """End the process at once; what it has not committed by now, it never will."""
        self._log.note(self.name, "dies")
        self._server = None
        self._replace(_copy_of(self.storage.inner))
        for wire in self._network.of(server=self):
            await wire.reset()

    def _replace(self, inner: MemoryServerStorage) -> None:
        ailing = self.storage.ailing
        self.storage = SimulatedStorage(inner, self._random)
        self.storage.ailing = ailing

    # -- misfortunes ------------------------------------------------------------------------------------------
    def back_up(self) -> None:
        """Keep a copy of what is committed now."""
        self._log.note(self.name, f"backup {len(self._copies)}")
        self._copies.append(_copy_of(self.storage.inner))

    async def restore(self) -> None:
        """Die, and go on from an older moment; whoever restores may renew the incarnation, or forget to."""
        await self.die()
        if not self._copies:
            return
        self.rewinds += 1
        number = self._random.randrange(len(self._copies))
        inner = _copy_of(self._copies[number])
        renews = self._random.random() < 0.5
        if renews:
            _renew(inner, self._random)
        self._log.note(self.name, f"restored from backup {number}{' with a new incarnation' if renews else ''}")
        self._replace(inner)

    async def lose_everything(self) -> None:
        """Die, and come back empty: as another server, as the same with a new incarnation, or as if nothing were."""
        await self.die()
        self.rewinds += 1
        inner = MemoryServerStorage(random=self._random.randbytes)
        kind = self._random.choice(("another", "renewed", "same"))
        if kind != "another":
            inner._tenants = dict(self.storage.inner._tenants)
        if kind == "renewed":
            _renew(inner, self._random)
        self._log.note(self.name, f"lost everything, {kind}")
        self._replace(inner)

    # -- looking ----------------------------------------------------------------------------------------------
    @property
    def remote_id(self) -> bytes:
        """What it introduces itself as; empty before the first time."""
        info = self.storage.inner._tenants.get(DEFAULT_TENANT)
        return b"" if info is None else info.remote_id

    def ids(self, public_key: str) -> list[bytes]:
        """Return the ids of all entries of a key, in sequence."""
        journal = self.storage.inner._journals.get((DEFAULT_TENANT, public_key))
        return [] if journal is None else [entry.entry_id for entry in journal.entries]

    def said(self, public_key: str) -> set[bytes]:
        """Return the ids of all entries of a key that it knows it has stored."""
        return set(self.ids(public_key)) - self.storage.unsaid.get(public_key, set())

    def holds(self, public_key: str) -> dict[bytes, int]:
        """Return the sequence of each entry of a key."""
        journal = self.storage.inner._journals.get((DEFAULT_TENANT, public_key))
        return {} if journal is None else journal.sequence_of

    def check_bounds(self) -> None:
        """Look at what is queued for its connections."""
        for connection in self._server._connections if self._server else ():
            size = connection._outbox.size
            self._log.require(self.name, f"{size} bytes queued for one connection", holds=size <= 2 * OUTBOX_BYTES_MAX)

    def leftovers(self) -> int:
        """Return how many connections the process still holds."""
        return len(self._server._connections) if self._server else 0


def _copy_of(storage: MemoryServerStorage) -> MemoryServerStorage:
    made = MemoryServerStorage(random=storage._random)
    made._tenants = dict(storage._tenants)
    for key, journal in storage._journals.items():
        made._journals[key] = type(journal)(list(journal.entries), dict(journal.sequence_of), list(journal.digests))
    return made


def _renew(storage: MemoryServerStorage, random: Random) -> None:
    """Give the data a new incarnation."""
    for tenant, info in storage._tenants.items():
        storage._tenants[tenant] = TenantInfo(info.remote_id, random.randbytes(16))
