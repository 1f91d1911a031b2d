"""
A network that a seed decides about: delay, cuts anywhere, resets, connections that go silent, slow readers.

Each connection is two real pairs of memory connections with a wire between them that carries bytes from one to the
other, or does not.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from agentlayers.errors import AgentLayersError, ConnectError, ConnectionLostError
from agentlayers.transport.memory import MemoryConnection
from agentlayers.transport.transport import Connection, Transport
from simulation.run_log import RunLog

__all__ = ["Network", "Reachable", "SimulatedTransport", "Weather", "Wire"]

UP, DOWN = 0, 1
"""From a replica to a server, and back."""

_SILENT_SECONDS: Final = (30.0, 900.0)
"""So long until the operating systems at both ends give a silent connection up."""


@dataclass(frozen=True)
class Weather:
    """
    What a new connection has to expect.

    Attributes:
        latency: Seconds a message takes, from and to.
        resets: Chance, for each message, that the connection breaks instead.
        silences: Chance, for each message, that nothing arrives any more, in one direction or both.
        refusals: Chance that nobody answers.
        mutes: Chance that a connection opens and stays silent from the start.
        crawls: Chance that a direction takes seconds for each message.
    """

    latency: tuple[float, float] = (0.0, 0.01)
    resets: float = 0.0
    silences: float = 0.0
    refusals: float = 0.0
    mutes: float = 0.0
    crawls: float = 0.0


CALM: Final = Weather()
WEATHERS: Final = (
    CALM,
    Weather(latency=(0.0, 0.3)),
    Weather(latency=(0.0, 0.05), resets=0.02),
    Weather(latency=(0.0, 0.02), resets=0.2, refusals=0.2),
    Weather(latency=(0.01, 0.1), silences=0.02, mutes=0.1),
    Weather(latency=(0.0, 2.0), resets=0.01, crawls=0.3),
    Weather(latency=(0.0, 0.02), resets=0.01, silences=0.01, refusals=0.3, mutes=0.05, crawls=0.1),
)


class Reachable(Protocol):
    """A server as the network sees it."""

    name: str

    @property
    def is_up(self) -> bool:
        """Whether anybody listens there."""

    async def serve(self, connection: MemoryConnection) -> None:
        """Serve one connection until it ends."""


class Network:
    """
    All connections there are.

    Attributes:
        weather: For connections that are opened from now on.
        wires: The open ones, by number.
    """

    def __init__(self, random: Random, log: RunLog) -> None:
        self.random, self.log = random, log
        self.weather = CALM
        self.wires: dict[int, Wire] = {}
        self.opened = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def connect(self, client: str, server: Reachable) -> MemoryConnection:
        """Open a connection, after a while, or refuse it."""
        weather = self.weather
        await asyncio.sleep(self.random.uniform(*weather.latency))
        if not server.is_up or self.random.random() < weather.refusals:
            raise ConnectError(url=f"memory://{server.name}", reason="connection refused")
        self.opened += 1
        wire = self.wires[self.opened] = Wire(self, self.opened, client, server, weather)
        wire.begin()
        return wire.client

    def of(self, *, client: str | None = None, server: Reachable | None = None) -> list[Wire]:
        """Return the open connections of a replica or a server."""
        return [
            wire
            for wire in self.wires.values()
            if client in (None, wire.client_name) and server in (None, wire.served_by)
        ]

    def calm_down(self) -> None:
        """Let no fault happen any more; what is silent stays so, until its ends give it up."""
        self.weather = CALM
        for wire in self.wires.values():
            wire.weather = CALM
            wire.pauses = [CALM.latency, CALM.latency]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Wire:
    """One connection, from a replica to a server."""

    def __init__(self, network: Network, number: int, client_name: str, server: Reachable, weather: Weather) -> None:
        self.network, self.number, self.client_name, self.served_by = network, number, client_name, server
        self.weather = weather
        self.random = Random(network.random.getrandbits(64))
        self.client, self._client_far = MemoryConnection.pair()
        self._server_near, self._server = MemoryConnection.pair()
        self.client.is_stream = self._server.is_stream = True
        self.silent = [False, False]
        self.is_stuck = self.is_over = False
        self._is_reset = asyncio.Event()
        self.pauses = [self._pause(), self._pause()]
        self.carried = [0, 0]

    def _pause(self) -> tuple[float, float]:
        return (1.0, 15.0) if self.random.random() < self.weather.crawls else self.weather.latency

    def begin(self) -> None:
        """Begin to carry messages, and to serve."""
        self._note(f"open to {self.served_by.name}")
        if self.random.random() < self.weather.mutes:
            self.fall_silent()
        self.network.spawn(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(self._carry(self._client_far, self._server_near, UP)),
            loop.create_task(self._carry(self._server_near, self._client_far, DOWN)),
            loop.create_task(self._serve()),
        ]
        try:
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            del self.network.wires[self.number]
            self._note("gone")

    async def _serve(self) -> None:
        try:
            await self.served_by.serve(self._server)
        except AgentLayersError as error:
            self._note(f"not served: {error}")
        finally:
            await self._server.close(1006, "the server ended")

    async def _carry(self, source: MemoryConnection, sink: MemoryConnection, way: int) -> None:
        try:
            while True:
                data = await source.receive()
                self.carried[way] += 1
                if not await self._is_lucky(way):
                    return
                await asyncio.sleep(self.random.uniform(*self.pauses[way]))
                if self.is_stuck and self.silent[way]:
                    await self._is_reset.wait()
                    return
                for piece in self._pieces(data):
                    if not self.silent[way]:
                        await sink.send(piece)
        except ConnectionLostError as lost:
            await asyncio.sleep(self.random.uniform(*self.pauses[way]))
            if self.is_over or not self.silent[way]:
                self._note(f"{'up' if way == UP else 'down'} ends: {lost}")
                await sink.close(lost.close_code or 1006, lost.reason)

    async def _is_lucky(self, way: int) -> bool:
        chance = self.random.random()
        if chance < self.weather.resets:
            await self.reset()
            return False
        if chance < self.weather.resets + self.weather.silences:
            self.fall_silent()
        return True

    def _pieces(self, data: bytes) -> list[bytes]:
        """Cut a message into pieces, as a stream may."""
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(self.random.choice((0, 0, 0, 1, 2))))
        self._note(f"{len(data)} bytes {zlib.crc32(data):08x}")
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [piece for piece in pieces if piece]

    def fall_silent(self) -> None:
        """Let nothing arrive any more, one way or both; after a long while both ends learn of it."""
        if True in self.silent:
            return  # A stream that lost something never goes on.
        self.silent = self.random.choice(([True, True], [True, False], [False, True]))
        self.is_stuck = self.random.random() < 0.5  # then senders feel it; otherwise they send into the void
        self._note(f"falls silent {self.silent} {'stuck' if self.is_stuck else 'void'}")
        asyncio.get_running_loop().call_later(
            self.random.uniform(*_SILENT_SECONDS), lambda: self.network.spawn(self.reset())
        )

    async def reset(self) -> None:
        """Break the connection for both ends; some of what is under way may still arrive."""
        if self.number not in self.network.wires:
            return
        self._note("reset")
        self.is_over = True
        self._is_reset.set()
        for end in (self._client_far, self._server_near):
            await end.close(1006, "connection reset by peer")

    def _note(self, what: str) -> None:
        self.network.log.note(f"#{self.number}", f"{self.client_name}: {what}" if what[:1].isalpha() else what)


class SimulatedTransport(Transport):
    """A replica's way to a server."""

    def __init__(self, network: Network, client: str, server: Reachable) -> None:
        self._network, self._client, self._server = network, client, server

    @property
    def url(self) -> str:
        """The server's name; it stays when the server is replaced by another."""
        return f"memory://{self._server.name}"

    async def connect(self) -> Connection:
        """Open a connection through the network."""
        return await self._network.connect(self._client, self._server)

    def __repr__(self) -> str:
        return f"SimulatedTransport({self.url})"
