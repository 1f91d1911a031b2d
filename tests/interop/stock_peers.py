"""Stock Effect replicas and servers, and ours beside them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal
from agentlayers.server import MemoryServerStorage, SQLiteServerStorage, SyncServer
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import Replica, replica
from interop.npm_cache import InstalledPeers
from interop.stock_process import StockProcess

__all__ = ["STORE", "StockClient", "StockPeers", "StockServer", "notes_of", "our_replica", "our_server", "reach"]

STORE = "notes"
"""The store whose entries both sides know, under the shared identity's own keys."""


@dataclass(frozen=True)
class StockEntry:
    """One entry of a stock replica's journal, with how often it is in there and was handled."""

    id: str
    event: str
    primary_key: str
    payload: dict[str, Any]
    copies: int
    handled: int


class StockClient:
    """A stock replica."""

    def __init__(self, process: StockProcess) -> None:
        self.process = process
        self.identity = Identity.decode_string(process.facts["identity"])

    async def connect(self, url: str, *, following: int = 1) -> int:
        """Connect and wait until it listens to its own journal: a write before that may not be sent (W9)."""
        connection: int = await self.process.call("connect", url=url)
        await self.until(following=following)
        return connection

    async def write(self, payload: dict[str, Any], event: str = "note") -> None:
        """Write one entry."""
        await self.process.call("write", event=event, payload=payload)

    async def write_notes(self, count: int, prefix: str, size: int = 0) -> None:
        """Write notes with keys ``prefix-0`` and so on."""
        await self.process.call("writeNotes", count=count, prefix=prefix, bytes=size)

    async def until(self, **counts: int) -> None:
        """Wait for counts of distinct entries ``handled``, ``pushed``, or of connections ``following``."""
        await self.process.call("until", **counts)

    async def entries(self) -> dict[str, StockEntry]:
        """Return its journal, by entry id."""
        found = await self.process.call("entries")
        return {
            one["id"]: StockEntry(
                one["id"], one["event"], one["primaryKey"], one["payload"], one["copies"], one["handled"]
            )
            for one in found
        }


class StockServer:
    """A stock server."""

    def __init__(self, process: StockProcess) -> None:
        self.process = process
        self.url: str = process.facts["url"]
        self.remote_id: str = process.facts["remoteId"]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2].partition("/")[0])

    async def entries(self, public_key: str) -> list[dict[str, Any]]:
        """Return id, iv and sequence of all entries of a public key."""
        found: list[dict[str, Any]] = await self.process.call("entries", publicKey=public_key)
        return found


@dataclass(frozen=True)
class StockPeers:
    """Starts peers whose files and logs are in a folder of one test."""

    installed: InstalledPeers
    programs: Path
    directory: Path

    @contextlib.asynccontextmanager
    async def client(self, identity: Identity | None = None, journal: str = "") -> AsyncIterator[StockClient]:
        """Run a replica; with a ``journal`` it is kept in an SQLite file of this name."""
        options = {
            "identity": identity.encode_string() if identity else None,
            "journal": str(self.directory / journal) if journal else None,
        }
        async with self._start("client.mjs", options) as process:
            yield StockClient(process)

    @contextlib.asynccontextmanager
    async def server(
        self, *, storage: str = "", transport: str = "websocket", port: int = 0
    ) -> AsyncIterator[StockServer]:
        """Run a server; with a ``storage`` it is kept in an SQLite file of this name."""
        options = {
            "storage": str(self.directory / storage) if storage else None,
            "transport": transport,
            "port": port,
        }
        async with self._start("server.mjs", options) as process:
            yield StockServer(process)

    def _start(self, program: str, options: dict[str, Any]) -> contextlib.AbstractAsyncContextManager[StockProcess]:
        log = self.directory / f"{program}.log"
        return StockProcess.start(self.installed.node, self.programs / program, options, log)


@contextlib.asynccontextmanager
async def our_server(directory: Path | None = None, *, port: int = 0) -> AsyncIterator[SyncServer]:
    """Run our server on WebSocket and TCP, durable if it has a directory."""
    storage = SQLiteServerStorage(directory) if directory else MemoryServerStorage()
    async with storage, SyncServer(storage, port=port, tcp_port=0) as server:
        yield server


def reach(url: str) -> Transport:
    """Return our transport for a server's address."""
    return TCPTransport(url) if url.startswith("tcp:") else WebSocketTransport(url)


@contextlib.asynccontextmanager
async def our_replica(
    url: str,
    identity: Identity,
    journal: EventJournal | None = None,
    *,
    names: Collection[str] = (STORE,),
    remotes: Sequence[str] = (),
    **options: Any,
) -> AsyncIterator[Replica]:
    """Run a replica of ours whose stores have the keys of a stock identity, as the peer has it."""
    shared = Identity(identity.public_key, identity.private_key, {STORE: identity})
    flags = dict.fromkeys(names, True)
    options |= {"identity": shared, "names": tuple(names), "stores": flags, "remotes": [*map(reach, remotes)]}
    async with replica(reach(url), journal=journal, **options) as made:
        yield made


async def notes_of(one: Replica, store: str = STORE) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return event, primary key and payload of all entries of a replica of ours, by entry id in hex."""
    from agentlayers.protocol.payload import decode_payload

    found: dict[str, tuple[str, str, dict[str, Any]]] = {}
    after = 0
    while stored := await one.journal.entries(store, after=after, entries_max=1000):
        for each in stored:
            entry = each.entry
            found[entry.id.hex()] = (entry.event, entry.primary_key, decode_payload(entry.payload))
        after = stored[-1].position
    return found
