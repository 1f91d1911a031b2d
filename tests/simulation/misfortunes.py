"""What befalls servers and the network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

from simulation.network import WEATHERS

if TYPE_CHECKING:
    from simulation.episode import Episode

__all__ = ["Misfortunes"]


class Misfortunes:
    """One after the other, until it is cancelled."""

    def __init__(self, episode: Episode, random: Random) -> None:
        self._episode, self._random = episode, random

    async def run(self) -> None:
        """Let things happen for ever."""
        happenings: list[Callable[[], Awaitable[None]]] = [
            *[self._change_weather] * 4,
            *[self._reset] * 4,
            *[self._silence] * 2,
            *[self._kill] * 3,
            *[self._stop] * 2,
            *[self._ail] * 1,
            *[self._back_up] * 2,
        ]
        if self._episode.can_rewind:
            happenings += [*[self._restore] * 3, *[self._lose] * 2]
        while True:
            await asyncio.sleep(self._random.choice((0.0, 0.1, 2.0, 10.0, 60.0)))
            await self._random.choice(happenings)()

    async def _change_weather(self) -> None:
        network = self._episode.network
        network.weather = self._random.choice(WEATHERS)
        network.log.note("network", f"{network.weather}")

    async def _reset(self) -> None:
        wires = list(self._episode.network.wires.values())
        if wires:
            await self._random.choice(wires).reset()

    async def _silence(self) -> None:
        wires = list(self._episode.network.wires.values())
        if wires:
            self._random.choice(wires).fall_silent()

    async def _kill(self) -> None:
        server = self._random.choice(self._episode.servers)
        await server.die()
        await self._come_back()

    async def _stop(self) -> None:
        await self._random.choice(self._episode.servers).stop()
        await self._come_back()

    async def _restore(self) -> None:
        await self._random.choice(self._episode.servers).restore()
        await self._come_back()

    async def _lose(self) -> None:
        await self._random.choice(self._episode.servers).lose_everything()
        await self._come_back()

    async def _come_back(self) -> None:
        await asyncio.sleep(self._random.choice((0.0, 0.0, 1.0, 5.0, 60.0)))
        for server in self._episode.servers:
            await server.start()

    async def _back_up(self) -> None:
        self._random.choice(self._episode.servers).back_up()

    async def _ail(self) -> None:
        server = self._random.choice(self._episode.servers)
        server.storage.ailing = self._random.choice((0.05, 0.3))
        self._episode.log.note(server.name, "the storage is ailing")
        try:
            await asyncio.sleep(self._random.choice((5.0, 60.0)))
        finally:
            server.storage.ailing = 0.0
        self._episode.log.note(server.name, "the storage is well again")
