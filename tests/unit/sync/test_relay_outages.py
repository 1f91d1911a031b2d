"""Two servers and three replicas, whatever happens to their connections: all end with every entry."""

import asyncio
import contextlib
from random import Random

import pytest

from agentlayers import limits
from agentlayers.journal.compaction import ByCount
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, Replica, SmallServer, replica

CHAT = IDENTITY.for_store("chat_history").public_key
LINKS: list[list[tuple[int, ...]]] = [[(0,), (0, 1), (1,)], [(0, 1), (1, 0), (0, 1)], [(0,), (1, 0), (0, 1)]]


class World:
    """The servers, and how each replica reaches them."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.servers = [SmallServer(remote_id=b"%d" % number * 16) for number in range(2)]
        self.transports: list[tuple[SmallServer, MemoryTransport]] = []

    def reach(self, number: int) -> MemoryTransport:
        """Return a way to a server that can be cut."""
        transport = MemoryTransport(self.servers[number].serve, name=str(number))
        self.transports.append((self.servers[number], transport))
        return transport

    async def act(self, one: Replica) -> None:
        """Let something happen."""
        server = self.random.choice(self.servers)
        action = self.random.choice(("write", "write", "burst", "drop", "lose", "leave", "outage", "wait", "compact"))
        if action == "write":
            await one.write("x")
        elif action == "burst":
            await one.write_many(self.random.randint(2, 20))
        elif action == "drop":
            await server.drop(self.random.choice((1000, 1006, 1012)))
        elif action == "lose":
            server.acks_answered = not server.acks_answered
        elif action == "leave":
            await one.sync.disconnect()
            await one.write("offline")
            with contextlib.suppress(Exception):
                await one.sync.connect()
        elif action == "outage":
            _, transport = self.random.choice(self.transports)
            transport.server = None if transport.server else server.serve
        elif action == "compact":
            await one.journal.compact("chat_history", ByCount(10))
        await asyncio.sleep(self.random.choice((0, 0.001, 0.01)))

    async def heal(self) -> None:
        """Let everything be reached again."""
        for server, transport in self.transports:
            server.acks_answered = True
            transport.server = server.serve
        for server in self.servers:
            await server.drop()


@pytest.mark.parametrize("seed", range(9))
async def test_replicas_of_two_servers_converge_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes, bursts, drops, lost Acks, outages of one way, compaction, in a random order."""
    monkeypatch.setattr(limits, "RELAY_DELAY_SECONDS", 0.005)
    monkeypatch.setattr(limits, "FLUSH_ON_CLOSE_SECONDS", 0.3)
    random = Random(seed)
    world = World(random)
    async with contextlib.AsyncExitStack() as stack:
        replicas = []
        for first, *others in LINKS[seed % len(LINKS)]:
            opened = replica(world.reach(first), remotes=[world.reach(other) for other in others])
            replicas.append(await stack.enter_async_context(opened))
        for one in replicas:
            # A server is known from the first contact on, so that nothing it lacks is dropped before.
            await one.sync.sync_now(timeout_seconds=15)
        for _ in range(40):
            await world.act(random.choice(replicas))
        await world.heal()
        for one in [*replicas, *replicas, *replicas]:
            await one.sync.sync_now(timeout_seconds=15)
        stored = [[entry.entry_id for entry in server.journals.get(CHAT, [])] for server in world.servers]
        held = [await one.ids() for one in replicas]
        gone = []
        for one, ids in zip(replicas, held, strict=True):
            missing = sorted(set(stored[0]) - ids)
            gone.append(await one.journal.read(lambda tx: tx.compacted(tx.store_number("chat_history"), missing)))  # noqa: B023

        assert set(stored[0]) == set(stored[1])
        assert [len(ids) for ids in stored] == [len(set(ids)) for ids in stored]
        assert all(ids | compacted == set(stored[0]) for ids, compacted in zip(held, gone, strict=True))
        assert [(await one.sync.refresh()).pending for one in replicas] == [0, 0, 0]
        assert not any(server.failures for server in world.servers)
        before = [len(server.sent_ids) for server in world.servers]
        await asyncio.sleep(0.05)
        assert before == [len(server.sent_ids) for server in world.servers]
