"""
One run: servers and replicas, a while of misfortunes that a seed decides about, and peace.

What has to hold, all the time and in the end, is in :mod:`simulation.checks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Mapping
from random import Random
from typing import Any, Final

from simulation.actions import Bystander, Operator, Writer
from simulation.checks import check_cursors, check_end, check_queues, check_status
from simulation.cramped import cramped, untimed
from simulation.misfortunes import Misfortunes
from simulation.network import Network
from simulation.replica import STORES, SimulatedReplica
from simulation.run_log import RunLog
from simulation.server import SimulatedServer
from simulation.virtual_time import run_in_virtual_time

__all__ = ["Episode", "run_episode"]

_PEACE_SECONDS: Final = 600.0
_CLOSE_SECONDS_MAX: Final = 60.0
_REPLICAS_MAX: Final = 5


class Episode:
    """
    Everything of one run.

    Attributes:
        seed: Decides about all of it.
        steps: How much each replica does.
        can_rewind: Servers may lose what they said they have.
        can_restore: Replicas may be restored from older copies; never together with the other.
        acknowledged: Ids of what was written and said to be durable, by store.
    """

    def __init__(self, seed: int, *, steps: int = 40) -> None:
        self.seed, self.steps = seed, steps
        self.random = Random(f"episode {seed}")
        self.log = RunLog()
        self.network = Network(self._stream("network"), self.log)
        self.acknowledged: dict[str, set[bytes]] = {store: set() for store in STORES}
        kind = self.random.choice(("plain", "rewind", "restore"))
        self.can_rewind, self.can_restore = kind == "rewind", kind == "restore"
        count = self.random.choice((1, 1, 2))
        self.servers = [
            SimulatedServer(f"server{n}", self.network, self._stream(f"server{n}"), self.log) for n in range(count)
        ]
        self.replicas = [self._new_replica(number) for number in range(self.random.choice((2, 2, 3, 3, 4)))]
        self._work: list[asyncio.Task[None]] = []
        self._is_peaceful = False

    def _stream(self, name: str) -> Random:
        return Random(f"{name} {self.seed}")

    def _new_replica(self, number: int) -> SimulatedReplica:
        servers = self.servers
        if number and len(servers) > 1:
            # The first one is connected to all of them, so that what is written anywhere comes everywhere.
            servers = self.random.choice((servers, servers[::-1], servers[:1], servers[1:]))
        name = f"replica{number}"
        relay = self.random.choice((None, True))
        made = SimulatedReplica(name, servers, self.network, self._stream(name), self.log, relay=relay)
        made.offset = self.random.choice((0.0, 0.0, -5.0, 300.0, -18_000.0, 18_000.0, 172_800.0))
        return made

    @property
    def has_room(self) -> bool:
        """Whether another replica may join."""
        return len(self.replicas) < _REPLICAS_MAX

    # -- the run ----------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Do all of it, and check."""
        for server in self.servers:
            await server.start()
        for one in list(self.replicas):
            await one.open()
            self.join(one)
        misfortunes = asyncio.get_running_loop().create_task(Misfortunes(self, self._stream("misfortunes")).run())
        watch = asyncio.get_running_loop().create_task(self._watch())
        done = 0
        while done < len(self._work):  # a replica that is copied adds some
            await self._work[done]
            done += 1
        misfortunes.cancel()
        await asyncio.wait({misfortunes})
        await self._make_peace()
        # With nothing that could wake what was put to sleep: no connection breaks any more.
        await asyncio.gather(*(Writer(self, one).write_in_peace() for one in self.replicas))
        await asyncio.sleep(_PEACE_SECONDS)
        watch.cancel()
        await asyncio.wait({watch})
        for task in (misfortunes, watch):
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or AssertionError
        await check_end(self.replicas, self.servers, self.acknowledged, self.log)
        await self._close()

    def join(self, one: SimulatedReplica) -> None:
        """Let an open replica write and do what applications do."""
        loop = asyncio.get_running_loop()
        self._work.append(loop.create_task(Writer(self, one).run(), name=f"{one.name} writes"))
        self._work.append(loop.create_task(Bystander(self, one).run(), name=f"{one.name} looks on"))
        self._work.append(loop.create_task(Operator(self, one).run(), name=f"{one.name} operates"))

    async def _make_peace(self) -> None:
        self.log.note("episode", "peace")
        self._is_peaceful = True
        self.network.calm_down()
        for server in self.servers:
            server.storage.ailing = 0.0
            await server.start()
        for one in self.replicas:
            one.journal.ailing = 0.0
            await Operator(self, one).settle_down()

    async def _watch(self) -> None:
        random = self._stream("watch")
        while True:
            await asyncio.sleep(random.choice((0.0, 0.01, 0.2, 2.0)) if not self._is_peaceful else 5.0)
            for one in self.replicas:
                if one.sync is not None:
                    check_status(one, self.log)
                    check_queues(one, self.log)
            for server in self.servers:
                server.check_bounds()

    def watch_commits(self, one: SimulatedReplica) -> None:
        """Have a replica's journal checked after each of its commits."""
        one.journal.after_commit = lambda: check_cursors(one, self.log)

    # -- the end ----------------------------------------------------------------------------------------------
    async def _close(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for one in self.replicas:
            await one.close()
        took = loop.time() - began
        self.log.require("end", f"closing took {took:.0f} s", holds=took <= _CLOSE_SECONDS_MAX)
        await asyncio.sleep(1000)  # until the last half-open connection is given up
        for server in self.servers:
            left = server.leftovers()
            self.log.require(server.name, f"{left} connections are left", holds=not left)
            await server.stop()
        await asyncio.sleep(1)
        self.log.require("end", f"{len(self.network.wires)} connections are left", holds=not self.network.wires)
        left_tasks = sorted(task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()})
        self.log.require("end", f"tasks are left: {left_tasks}", holds=not left_tasks)

    def on_exception(self, context: Mapping[str, Any]) -> None:
        """Take note of an error that nobody took."""
        self.log.violate("loop", f"{context.get('message')}: {context.get('exception')!r}")


def run_episode(seed: int, *, steps: int = 40) -> RunLog:
    """Run one episode to its end and return its log, with what was wrong in its violations."""
    episode = Episode(seed, steps=steps)
    logger = logging.getLogger("agentlayers")
    before = logger.level, logger.propagate
    logger.addHandler(episode.log)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    is_cramped = episode.random.random() < 0.5
    try:
        with untimed(episode.random), cramped(episode.random) if is_cramped else contextlib.nullcontext() as bounds:
            episode.log.note("episode", f"{bounds}")
            run_in_virtual_time(episode.run(), on_exception=episode.on_exception)
    except (Exception, asyncio.CancelledError) as error:
        episode.log.violate("episode", f"{type(error).__name__}: {error}")
        episode.log.note("episode", "".join(traceback.format_exception(error)))
    finally:
        logger.removeHandler(episode.log)
        logger.setLevel(before[0])
        logger.propagate = before[1]
    return episode.log
