"""A replica that is closed, killed, copied and opened again, with a clock that may be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final

from agentlayers.crypto.encryption import PlaintextEncryption
from agentlayers.errors import AgentLayersError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.conflict_policy import Version
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.memory.data import MemoryData
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.sync.remote_sync import RemoteSync
from agentlayers.sync.service import SyncService
from simulation.journal import SimulatedJournal
from simulation.network import Network, SimulatedTransport
from simulation.run_log import RunLog
from simulation.server import SimulatedServer

__all__ = ["CONTENT", "FOLLOWED", "KEYS", "NOTES", "STORES", "SimulatedReplica", "schemas"]

IDENTITY: Final = Identity.generate(lambda count: bytes(range(count)))
SAID, NOTES, CONTENT = "chat_history", "notes", "artifact_content"
FOLLOWED: Final = (SAID, NOTES)
STORES: Final = (SAID, NOTES, CONTENT)
FLAGS: Final[dict[str, Any]] = {SAID: True, NOTES: True, CONTENT: "on_demand"}
KEYS: Final = {store: IDENTITY.for_store(store).public_key for store in STORES}
EPOCH: Final = 1_800_000_000.0


def _count(tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
    """Count how often an entry was applied."""
    del heads
    key = b"applied/" + entry.id
    tx.put(key, bytes([*(tx.get(key) or b""), 1]))


def _show(tx: JournalTransaction, entry: Entry, heads: Sequence[Version]) -> None:
    """Keep what is to be shown of a key."""
    _count(tx, entry, heads)
    tx.put(b"shown/" + entry.primary_key.encode(), b"".join(head.id for head in heads))


def schemas() -> list[StoreSchema]:
    """Return what a journal is told of the stores."""
    return [
        StoreSchema(name=SAID, project=_count),
        StoreSchema(
            name=NOTES, keyed_events=frozenset({"put", "delete"}), deletions=frozenset({"delete"}), project=_show
        ),
        StoreSchema(name=CONTENT, project=_count),
    ]


class SimulatedReplica:
    """
    One replica, whatever becomes of it.

    Attributes:
        name: What the log calls it.
        journal: Its journal, also while it is closed.
        sync: Its service, while it is open.
        logs: Its stores, while they are open.
        offset: By how many seconds its clock is wrong.
        servers: Those it knows.
        checked: Up to which sequence the entries of a store at a server were found in the journal.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[SimulatedServer],
        network: Network,
        random: Random,
        log: RunLog,
        *,
        relay: bool | None = None,
        data: MemoryData | None = None,
    ) -> None:
        self.name, self.servers, self._network, self.random, self._log = name, list(servers), network, random, log
        self._relay = relay
        self.offset = 0.0
        self.journal = SimulatedJournal(clock=self.clock, random=random, data=data)
        self.is_copy = data is not None
        self.checked: dict[tuple[str, str], int] = {}
        self.sync: SyncService | None = None
        self.logs: dict[str, EventLog] = {}
        self._unregister: dict[str, Callable[[], Awaitable[None]]] = {}

    def clock(self) -> float:
        """Return the time as this replica believes it is."""
        return EPOCH + asyncio.get_running_loop().time() + self.offset

    def transport(self, server: SimulatedServer) -> SimulatedTransport:
        """Return its way to a server."""
        return SimulatedTransport(self._network, self.name, server)

    # -- life -------------------------------------------------------------------------------------------------
    async def open(self) -> None:
        """Open the journal, the service and all stores."""
        self._log.note(self.name, "opens")
        await self.journal.__aenter__()
        if self.is_copy:
            # As a journal in a file does that finds itself in another place.
            await self.journal.transact(lambda tx: tx.renew_replica_id())
            self.is_copy = False
        first, *further = [self.transport(server) for server in self.servers]
        self.sync = SyncService(
            first,
            PlaintextEncryption(),
            remotes=further,
            relay=self._relay,
            stores=FLAGS,
            clock=self.clock,
            random=self.random,
        )
        await self.sync.__aenter__()
        for schema in schemas():
            await self.open_store(schema)

    async def open_store(self, schema: StoreSchema) -> None:
        """Open one store and let it take part in sync."""
        assert self.sync is not None
        log = self.logs.get(schema.name)
        if log is None:
            log = self.logs[schema.name] = EventLog(self.journal, IDENTITY, schema)
            await log.open()
        self._unregister[schema.name] = self.sync.register(log)

    async def close_store(self, store: str) -> None:
        """Let one store no longer take part."""
        try:
            await self._unregister.pop(store)()
        except AgentLayersError as error:
            self._log.violate(self.name, f"taking {store} out of sync fails: {error!r}")

    async def close(self) -> None:
        """Close everything, as an application does."""
        assert self.sync is not None
        self._log.note(self.name, "closes")
        for store in list(self._unregister):
            await self.close_store(store)
        await self._close_rest()

    async def _close_rest(self) -> None:
        assert self.sync is not None
        self._unregister.clear()
        self.logs.clear()
        await self.sync.__aexit__(None, None, None)
        await self.journal.__aexit__(None, None, None)
        self._log.require(self.name, "somebody still listens to a closed journal", holds=not self.journal.listeners)
        self.sync = None

    async def die(self) -> None:
        """End at once; only what is committed by now is there when it is opened again."""
        self._log.note(self.name, "dies")
        data = self.journal.kill()
        for wire in self._network.of(client=self.name):
            await wire.reset()
        await self._close_rest()
        self._become(data)

    def restore(self, data: MemoryData) -> None:
        """Go on from an older copy of the journal."""
        self._log.note(self.name, "is restored")
        self._become(data)
        self.is_copy = True

    def _become(self, data: MemoryData) -> None:
        self.checked = {}
        self.journal = SimulatedJournal(clock=self.clock, random=self.random, data=data)

    def copied(self, name: str) -> SimulatedReplica:
        """Return another replica that begins with a copy of this one's journal."""
        self._log.note(self.name, f"is copied as {name}")
        return SimulatedReplica(
            name,
            self.servers,
            self._network,
            Random(self.random.getrandbits(64)),
            self._log,
            relay=self._relay,
            data=self.journal.copied_data(),
        )

    # -- looking ----------------------------------------------------------------------------------------------
    @property
    def registered(self) -> tuple[str, ...]:
        """The stores that take part in sync now."""
        return tuple(self._unregister)

    def remote(self, server: SimulatedServer) -> RemoteSync | None:
        """Return what the service knows of a server."""
        return None if self.sync is None else self.sync._remotes.get(f"memory://{server.name}")

    def ids(self, store: str, *, own: bool = False, up_to: int | None = None) -> set[bytes]:
        """Return the ids of a store's entries: all, or those written here, or only those that were heard of."""
        data, number = self.journal.data, self.journal.data.stores.get(store, 0)
        rows = [data.row(position) for position in data.by_store.get(number, ())]
        return {row.id for row in rows if (row.outbound or not own) and (up_to is None or row.position <= up_to)}
