"""What happens at a replica: an application that writes, and one that opens, closes, asks and gives up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Final

from agentlayers.errors import AgentLayersError
from agentlayers.sync.service import SyncService
from simulation.replica import CONTENT, FOLLOWED, KEYS, NOTES, STORES, SimulatedReplica, schemas

if TYPE_CHECKING:
    from simulation.episode import Episode
    from simulation.server import SimulatedServer

__all__ = ["Bystander", "Operator", "Writer"]

_HANG_SECONDS: Final = 400.0
"""Nothing an application waits for may take longer: the longest has a bound of its own of 60 seconds."""

_SIZES: Final = (*[10] * 200, *[3_000] * 20, 200_000, 200_000, 700_000)


class Writer:
    """Writes, as long as the replica is open."""

    def __init__(self, episode: Episode, one: SimulatedReplica) -> None:
        self._episode, self._one, self._random = episode, one, one.random

    async def run(self) -> None:
        """Write so many times as the episode has steps."""
        for _ in range(self._episode.steps):
            await asyncio.sleep(self._random.choice((0.0, 0.0, 0.001, 0.1, 1.0, 5.0, 20.0)))
            count = self._random.choice((1, 1, 1, 1, 3, 40))
            store = self._random.choice((*FOLLOWED, *FOLLOWED, CONTENT))
            for _ in range(count):
                await self._write(store)

    @property
    def name(self) -> str:
        """Whose."""
        return self._one.name

    async def write_burst(self, store: str) -> None:
        """Write one after the other for a short while."""
        for _ in range(30):
            await asyncio.sleep(self._random.random() * 0.02)
            await self._write(store)

    async def write_in_peace(self) -> None:
        """Write some more, close to one another, when no misfortune happens any more."""
        await asyncio.sleep(20)
        for _ in range(10):
            await asyncio.sleep(self._random.choice((0.0, 0.001, 0.01, 1.0)))
            await asyncio.gather(*(self._write(store) for store in STORES))

    async def _write(self, store: str) -> None:
        one = self._one
        log = one.logs.get(store)
        if log is None:
            return
        key = f"key {self._random.randrange(4)}"
        event = self._random.choice(("put", "put", "put", "delete")) if store == NOTES else "said"
        size = self._random.choice(_SIZES)
        try:
            async with asyncio.timeout(_HANG_SECONDS):
                entry = await log.write(event, key, {"text": "x" * size, "by": one.name})
        except AgentLayersError as error:
            self._episode.log.note(one.name, f"could not write: {error}")
        except TimeoutError:
            self._episode.log.violate(one.name, "write() hangs")
        else:
            self._episode.acknowledged[store].add(entry.id)
            self._episode.log.note(one.name, f"wrote {entry.id.hex()} to {store}")


class Bystander:
    """Asks for things while another part of the application does others, and mostly gives up."""

    def __init__(self, episode: Episode, one: SimulatedReplica) -> None:
        self._episode, self._one, self._log = episode, one, episode.log
        self._random = Random(one.random.getrandbits(64))

    async def run(self) -> None:
        """Ask for so many things as the episode has steps."""
        for _ in range(self._episode.steps):
            await asyncio.sleep(self._random.choice((0.1, 1.0, 20.0)))
            sync = self._one.sync
            if sync is None:
                continue
            ask = self._random.choice((self._sync_now, self._connect, self._refresh, self._fetch, self._follow))
            seconds = self._random.choice((0.0, 0.01, 1.0, 30.0))
            try:
                async with asyncio.timeout(_HANG_SECONDS):
                    with contextlib.suppress(AgentLayersError):
                        await ask(sync, seconds)
            except TimeoutError:
                self._log.violate(self._one.name, f"{ask.__name__} of a bystander hangs")

    async def _sync_now(self, sync: SyncService, seconds: float) -> None:
        await sync.sync_now(seconds)

    async def _connect(self, sync: SyncService, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await sync.connect()

    async def _refresh(self, sync: SyncService, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await sync.refresh()

    async def _fetch(self, sync: SyncService, seconds: float) -> None:
        ids = self._episode.servers[0].ids(KEYS[CONTENT])[:5]
        await sync.fetch(CONTENT, ids, seconds)

    async def _follow(self, sync: SyncService, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), contextlib.aclosing(sync.status_stream()) as stream:
                async for _ in stream:
                    await asyncio.sleep(0)


class Operator:
    """Does what applications do with a replica and its service, one thing after the other."""

    def __init__(self, episode: Episode, one: SimulatedReplica) -> None:
        self._episode, self._one, self._random, self._log = episode, one, one.random, episode.log
        episode.watch_commits(one)
        self._kept = None if not episode.can_restore else one.journal.copied_data()

    async def run(self) -> None:
        """Do so many things as the episode has steps."""
        actions: list[Callable[[], Awaitable[None]]] = [
            *[self._rest] * 8,
            *[self._sync_now] * 6,
            *[self._disconnect] * 3,
            *[self._reopen_store] * 5,
            *[self._reopen] * 2,
            *[self._die] * 2,
            *[self._fetch] * 2,
            self._refresh,
            self._leave_server,
            self._turn_clock,
            self._ail,
            self._copy,
            self._keep,
            self._restore,
        ]
        for _ in range(self._episode.steps):
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.5, 5.0, 30.0)))
            await self._do(self._random.choice(actions))

    async def _do(self, action: Callable[[], Awaitable[None]]) -> None:
        name = action.__name__.strip("_")
        try:
            async with asyncio.timeout(_HANG_SECONDS):
                await action()
        except AgentLayersError as error:
            self._log.note(self._one.name, f"{name}: {type(error).__name__}: {error}")
        except TimeoutError:
            self._log.violate(self._one.name, f"{name} hangs")

    async def settle_down(self) -> None:
        """Be open and connected, with all stores and all servers."""
        one = self._one
        if one.sync is None:
            await one.open()
            self._episode.watch_commits(one)
        assert one.sync is not None
        for server in one.servers:
            if one.remote(server) is None:
                await self._do(lambda server=server: self._come_back(server))  # type: ignore[misc]
        await self._do(self._connect)

    # -- things to do -----------------------------------------------------------------------------------------
    async def _rest(self) -> None:
        await asyncio.sleep(self._random.uniform(0, 60))

    async def _connect(self) -> None:
        assert self._one.sync is not None
        await self._one.sync.connect()

    async def _refresh(self) -> None:
        assert self._one.sync is not None
        await self._one.sync.refresh()

    async def _disconnect(self) -> None:
        assert self._one.sync is not None
        self._log.note(self._one.name, "disconnects")
        await self._one.sync.disconnect()
        await asyncio.sleep(self._random.choice((0.0, 0.0, 1.0, 60.0)))
        await self._connect()

    async def _reopen_store(self) -> None:
        one = self._one
        schema = self._random.choice(schemas())
        if schema.name not in one.registered:
            self._log.violate(one.name, f"{schema.name} could not be opened")
            return
        writer = Writer(self._episode, self._random.choice(self._episode.replicas))
        burst = asyncio.create_task(writer.write_burst(schema.name), name=f"{writer.name} writes a burst")
        await asyncio.sleep(self._random.choice((0.0, 0.1)))
        self._log.note(one.name, f"closes {schema.name}")
        await one.close_store(schema.name)
        await asyncio.sleep(self._random.choice((0.0, 0.005, 0.1, 20.0)))
        self._log.note(one.name, f"opens {schema.name}")
        await one.open_store(schema)
        await burst

    async def _reopen(self) -> None:
        await self._one.close()
        await self._open_again()

    async def _die(self) -> None:
        await self._one.die()
        await self._open_again()

    async def _open_again(self) -> None:
        await asyncio.sleep(self._random.choice((0.0, 0.1, 10.0, 100.0)))
        await self._one.open()
        self._episode.watch_commits(self._one)

    async def _leave_server(self) -> None:
        one, server = self._one, self._random.choice(self._one.servers)
        if one.sync is None or one.remote(server) is None:
            return
        self._log.note(one.name, f"leaves {server.name}")
        await one.sync.disconnect(f"memory://{server.name}")
        await asyncio.sleep(self._random.choice((0.0, 1.0, 30.0)))
        await self._come_back(server)

    async def _come_back(self, server: SimulatedServer) -> None:
        assert self._one.sync is not None
        self._log.note(self._one.name, f"comes back to {server.name}")
        await self._one.sync.connect_transport(self._one.transport(server))

    async def _turn_clock(self) -> None:
        self._one.offset += self._random.choice((-7200.0, -1.0, 0.5, 3000.0, 7200.0))
        self._log.note(self._one.name, f"clock is {self._one.offset:+.1f} s off")

    async def _ail(self) -> None:
        self._log.note(self._one.name, "the journal is ailing")
        self._one.journal.ailing = self._random.choice((0.1, 0.5, 1.0))
        try:
            await asyncio.sleep(self._random.choice((1.0, 20.0, 100.0)))
        finally:
            self._one.journal.ailing = 0.0
        self._log.note(self._one.name, "the journal is well again")

    # -- copies -----------------------------------------------------------------------------------------------
    async def _copy(self) -> None:
        if self._episode.has_room:
            made = self._one.copied(f"{self._one.name}'")
            made.offset = self._one.offset
            self._episode.replicas.append(made)
            await made.open()
            self._episode.join(made)

    async def _keep(self) -> None:
        if self._episode.can_restore:
            self._kept = self._one.journal.copied_data()

    async def _restore(self) -> None:
        """Go back to an older copy of the journal: what was written since and came nowhere is lost for good."""
        if self._kept is None:
            return
        one, kept = self._one, self._kept
        self._kept = None
        await one.die()
        forgotten = {store: one.ids(store, own=True) for store in STORES}
        one.restore(kept)
        for store, ids in forgotten.items():
            elsewhere = {entry_id for server in one.servers for entry_id in server.ids(KEYS[store])}
            self._episode.acknowledged[store] -= ids - one.ids(store) - elsewhere
        await self._open_again()

    # -- exchanging -------------------------------------------------------------------------------------------
    async def _sync_now(self) -> None:
        one = self._one
        sync = one.sync
        assert sync is not None
        seconds = self._random.choice((0.5, 5.0, 60.0))
        stores = one.registered
        known = [server for server in one.servers if one.remote(server) is not None]
        written = {store: one.ids(store, own=True, up_to=one.journal.published) for store in stores}
        there = {server.name: {store: server.said(KEYS[store]) for store in stores} for server in known}
        rewinds = {server.name: server.rewinds for server in known}
        gives_up = self._random.random() < 0.2
        self._log.note(one.name, f"sync_now({seconds})")
        try:
            async with asyncio.timeout(self._random.random() * 3 if gives_up else None):
                report = await sync.sync_now(seconds)
        except TimeoutError:
            if not gives_up:
                raise
            self._log.note(one.name, "sync_now: given up")
            return
        self._log.note(one.name, f"sync_now: sent {report.sent} received {report.received}")
        for server in known:
            if server.rewinds != rewinds[server.name]:
                continue
            for store in stores:
                unsent = written[store].difference(server.holds(KEYS[store]))
                what = f"sync_now is done, and {server.name} lacks {len(unsent)} entries of {store}"
                self._log.require(one.name, what, holds=not unsent or bool(server.rewinds))
                if store in FOLLOWED:
                    unread = there[server.name][store] - one.ids(store)
                    what = f"sync_now is done, and {len(unread)} entries of {store} at {server.name} are not here"
                    self._log.require(one.name, what, holds=not unread)

    async def _fetch(self) -> None:
        one, key = self._one, KEYS[CONTENT]
        known = [server for server in one.servers if one.remote(server) is not None]
        there = sorted({entry_id for server in known for entry_id in server.ids(key)})
        if one.sync is None or CONTENT not in one.registered:
            return
        wanted = self._random.sample(there, min(len(there), self._random.choice((1, 5, 100))))
        nowhere = bytes(range(16))
        rewinds = [server.rewinds for server in known]
        missing = set(await one.sync.fetch(CONTENT, [*wanted, nowhere], 60.0))
        self._log.note(one.name, f"fetched {len(wanted)}, {len(missing)} are missing")
        held = one.ids(CONTENT)
        lost = [entry_id for entry_id in wanted if entry_id not in missing and entry_id not in held]
        self._log.require(one.name, f"fetch: {len(lost)} are neither here nor missing", holds=not lost)
        if rewinds == [server.rewinds for server in known]:
            self._log.require(one.name, "fetch: says missing what there is", holds=missing == {nowhere})
