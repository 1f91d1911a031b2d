"""
Kill servers and replicas at random moments while they exchange all they have, and look at what is left.

Run as a program: ``python sync_crash.py <scratch directory> <kills> [seed] [rewind | shared | fault]``; prints JSON.
Two servers and three replicas that share an identity; the first replica is connected to both servers and relays between
them, the others to one each. All write all the time: small entries and some that have to be cut into chunks. What a
replica is told is durable it notes through a pipe. Whoever is killed with SIGKILL comes again a moment later, with the
same files. In the end each replica and each server has to hold everything, once.

With ``rewind`` a server's directory is replaced by an older copy now and then; with ``shared`` the last two replicas
are processes with one directory; otherwise the last replica compacts. With ``fault`` replicas take for acknowledged
what they have sent, and the program has to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from agentlayers import limits
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.schedule import fixed
from agentlayers.server import SQLiteServerStorage, SyncServer
from agentlayers.sync.push import Push
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import IDENTITY, Replica, replica

STORES = ("chat_history", "audit_log")
SIZES = (*[20] * 40, *[3_000] * 8, 600_000, 600_000)
HUGE = 9 * limits.MIB
EVERYTHING = {"entries_max": 100_000, "bytes_max": 1 << 40}


@dataclass
class World:
    """What all processes of a run share; made before the first fork."""

    directory: Path
    ports: list[int]
    mode: str
    huge: bool = True
    pids: dict[str, int] = field(default_factory=dict)

    def transports(self, number: int) -> list[Transport]:
        """Return the ways of a replica: both servers, or WebSocket to the one, or TCP to the other."""
        websocket = WebSocketTransport(f"ws://127.0.0.1:{self.ports[0]}")
        tcp = TCPTransport(f"tcp://127.0.0.1:{self.ports[3]}")
        ways: list[list[Transport]] = [[websocket, tcp], [websocket], [tcp]]
        return ways[number]

    @contextlib.asynccontextmanager
    async def server(self, number: int) -> AsyncIterator[SQLiteServerStorage]:
        """Serve one server's directory."""
        port, tcp_port = self.ports[2 * number : 2 * number + 2]
        async with (
            SQLiteServerStorage(self.directory / f"server{number}") as storage,
            SyncServer(storage, port=port, tcp_port=tcp_port),
        ):
            yield storage

    def replica(self, number: int) -> contextlib.AbstractAsyncContextManager[Replica]:
        """Open one replica's directory."""
        first, *further = self.transports(number)
        home = 1 if self.mode == "shared" and number == 2 else number
        journal = SQLiteJournal(self.directory / f"replica{home}", durability="normal")
        return replica(first, journal=journal, names=STORES, remotes=further, relay=True, schedule=fixed(0.05))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


# -- the children that are killed -------------------------------------------------------------------------------------
async def serve(world: World, number: int) -> None:
    """Serve until the end of the process."""
    async with world.server(number):
        await asyncio.Event().wait()


async def write(world: World, number: int, seed: int, pipe: int) -> None:
    """Write, sync and compact until the end of the process."""
    chance = random.Random(seed)
    async with world.replica(number) as one:

        async def writing(store: str) -> None:
            while True:
                size = HUGE if world.huge and chance.random() < 0.002 else chance.choice(SIZES)
                entry_id = await one.write("x" * size, store)
                os.write(pipe, f"{store} {entry_id.hex()}\n".encode())
                await asyncio.sleep(chance.choice((0, 0.001, 0.02)))

        async def compacting() -> None:
            while world.mode == "" and number == 2:
                await asyncio.sleep(0.05)
                await one.journal.compact(STORES[0], ByCount(chance.choice((5, 100))))
            await asyncio.Event().wait()

        async def looking() -> None:
            """Exchange, ask and disconnect in between, as an application may."""
            while True:
                await asyncio.sleep(chance.random() / 2)
                with contextlib.suppress(Exception):
                    await one.sync.sync_now(0.5)
                if chance.random() < 0.2:
                    await one.sync.disconnect()
                    with contextlib.suppress(Exception):
                        await one.sync.connect()

        await asyncio.gather(*map(writing, STORES), compacting(), looking())


def plant_a_fault() -> None:
    """Take what was sent for acknowledged."""
    real = Push._write

    async def write_and_note(self: Push, batch: list[object]) -> None:
        await real(self, batch)  # type: ignore[arg-type]
        positions = [stored.position for stored in batch]  # type: ignore[attr-defined]
        from agentlayers.journal.event_journal import Acknowledgement

        journal, store, remote = self._log.journal, self._log.store, self._remote_id
        work = journal.transact(lambda tx: tx.acknowledge(store, remote, Acknowledgement(positions), through=None))
        asyncio.get_running_loop().create_task(work)

    Push._write = write_and_note  # type: ignore[method-assign, assignment]


def fork(work: Callable[[], None]) -> int:
    """Run something in a child process until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:  # it says why it ends, whatever it is
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(3)
    return pid


# -- the parent -------------------------------------------------------------------------------------------------------
class Run:
    """One run: who is alive, and what was noted as durable."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.chance = world, random.Random(seed)
        self.reading, self.writing = os.pipe()
        self.noted: dict[str, set[bytes]] = {store: set() for store in STORES}
        self.killed: Counter[str] = Counter()
        self._rest = b""

    def start(self, name: str) -> None:
        """Start a server or a replica."""
        number, seed = int(name[-1]), self.chance.getrandbits(32)
        if name.startswith("server"):
            self.world.pids[name] = fork(lambda: asyncio.run(serve(self.world, number)))
        else:
            self.world.pids[name] = fork(lambda: asyncio.run(write(self.world, number, seed, self.writing)))

    def kill(self, name: str) -> None:
        """Kill it, wherever it is."""
        pid = self.world.pids.pop(name)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"{name} ended by itself"
        self.killed[name.rstrip("0123456789")] += 1

    def listen(self, seconds: float) -> None:
        """Take down what is durable, for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.reading], [], [], left)[0]:
                *lines, self._rest = (self._rest + os.read(self.reading, 1 << 16)).split(b"\n")
                for line in lines:
                    store, entry_id = line.decode().split()
                    self.noted[store].add(bytes.fromhex(entry_id))

    def go(self, kills: int) -> None:
        """Kill one, some or all of them, again and again."""
        names = ["server0", "server1", "replica0", "replica1", "replica2"]
        for name in names:
            self.start(name)
        self.listen(0.5)
        done = 0
        while done < kills:
            self.listen(self.chance.uniform(0.02, 0.5))
            victims = self.chance.sample(names, self.chance.choice((1, 1, 1, 2, 5)))
            for name in victims:
                self.kill(name)
                done += 1
            if self.world.mode == "rewind":
                self.rewind([name for name in victims if name.startswith("server")])
            self.listen(self.chance.choice((0, 0.1)))
            for name in victims:
                self.start(name)
        for name in list(self.world.pids):
            self.kill(name)
        self.listen(0.05)

    def rewind(self, servers: list[str]) -> None:
        """Copy a server that is down, or put an older copy in its place."""
        for name in servers:
            live, copy = self.world.directory / name, self.world.directory / f"copy of {name}"
            if copy.exists() and self.chance.random() < 0.5:
                shutil.rmtree(live)
                shutil.move(copy, live)
                self.killed["rewound"] += 1
            elif not copy.exists():
                shutil.copytree(live, copy)


async def settle(world: World, noted: dict[str, set[bytes]]) -> dict[str, int]:
    """Let everybody meet in peace, and compare what they hold."""
    async with (
        world.server(0) as first,
        world.server(1) as second,
        world.replica(0) as one,
        world.replica(1) as two,
        world.replica(2) as three,
    ):
        # As often as it takes for what only the last one has to come to the first server and from there to the second.
        for _ in range(3):
            for each in (three, two, one):
                await each.sync.sync_now(60)
        counts = {}
        for store in STORES:
            held = [await each.ids(store) for each in (one, two, three)]
            everything = held[0] | held[1] | held[2]
            counts[store] = len(everything)
            _same(f"lost of {store}", noted[store] - everything, set())
            _same(f"{store}: the second replica lacks", everything - held[1], set())
            _same(f"{store}: the first replica lacks", everything - held[0], set())
            if world.mode or store != STORES[0]:
                _same(f"{store}: the third replica lacks", everything - held[2], set())
            key = IDENTITY.for_store(store).public_key
            for name, storage in (("first", first), ("second", second)):
                stored = await storage.read("default", key, 0, **EVERYTHING)
                ids = [entry.entry_id for entry in stored]
                _same(f"{store}: the {name} server lacks", everything - set(ids), set())
                _same(f"{store}: entries the {name} server has twice", len(ids) - len(set(ids)), 0)
            for each in (one, two, three):
                status = (await each.sync.refresh()).stores[store]
                _same(f"{store}: pending", status.pending, 0)
                _same(f"{store}: quarantined", status.quarantined, 0)
                _same(f"{store}: error", status.last_error, None)
        return counts


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        shown = f"{len(found)} entries" if isinstance(found, set) else found
        raise AssertionError(f"{what}: {shown}")


def main(scratch: str, kills: str, seed: str = "1", mode: str = "") -> None:
    """Run, check, and print what was done."""
    directory = Path(scratch)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    world = World(directory, free_ports(4), mode)
    if mode == "fault":
        plant_a_fault()
    run = Run(world, int(seed))
    try:
        run.go(int(kills))
    finally:
        for pid in world.pids.values():
            os.kill(pid, signal.SIGKILL)
    counts = asyncio.run(settle(world, run.noted))
    durable = sum(map(len, run.noted.values()))
    print(json.dumps({"killed": run.killed, "durable": durable, "entries": counts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
