"""Three replicas and two servers, linked in any way: all end with the same, and nothing is sent in vain."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentlayers.journal import held_entries
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement, EventJournal, RelayMode
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.testing.contracts.event_journal_world import ManualClock, notes

KINDS = ["write", "write", "exchange", "exchange", "exchange", "lose_ack", "restart", "compact", "lose_data"]
STEP = st.tuples(st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 1))
STEPS = st.lists(STEP, max_size=20)
LINKS = st.sampled_from([
    [{0}, {0, 1}, {1}],
    [{0, 1}, {0, 1}, {0, 1}],
    [{0}, {0}, {0, 1}],
    [{0, 1}, {1}, {0, 1}],
])  # fmt: skip
Steps = Sequence[tuple[str, int, int]]
Links = Sequence[set[int]]

TWO_BRIDGES: Links = [{0, 1}, {0, 1}, {0}]
DROPPED_AND_LOST: Steps = [
    ("write", 1, 0),
    ("exchange", 1, 0),
    ("exchange", 1, 1),
    ("compact", 1, 0),
    ("lose_data", 0, 0),
]
CROSSING: Steps = [("write", 2, 0), ("exchange", 2, 0), ("exchange", 0, 0), ("exchange", 1, 0), ("exchange", 0, 1)]


@dataclass
class Server:
    """Keeps entries in order, each once; may lose everything."""

    remote_id: bytes
    entries: list[Entry] = field(default_factory=list)
    incarnation: int = 1

    def take(self, entry: Entry) -> int:
        """Store an entry unless it is there, and return its number."""
        if entry not in self.entries:
            self.entries.append(entry)
        return self.entries.index(entry)


class World:
    """Replays steps and watches every message."""

    def __init__(self, journals: Sequence[EventJournal], links: Links, clock: ManualClock) -> None:
        self.journals, self.links, self.clock = journals, links, clock
        self.servers = [Server(b"remote-%d--------" % number) for number in range(2)]
        self.written: set[Entry] = set()
        self.told: Counter[tuple[int, int, bytes]] = Counter()
        self.sent = 0
        self.has_lost_data = False

    async def run(self, steps: Steps) -> None:
        """Take the steps; then let everybody exchange, and compare."""
        async with AsyncExitStack() as stack:
            for journal in self.journals:
                await stack.enter_async_context(journal)
                await journal.register(notes())
            await self.exchange_all()
            for kind, replica, server in steps:
                self.clock.advance(1)
                await getattr(self, kind)(replica, server)
            # Twice there and back: from any replica over any bridge to any other.
            for _ in range(4):
                await self.exchange_all()
            sent = self.sent
            await self.exchange_all()

            assert sent == self.sent
            await self.compare()

    async def compare(self) -> None:
        held = [set(server.entries) for server in self.servers]

        # Only what a server lost may be at one alone, if compaction dropped it wherever both are known.
        apart = [entry.id for entry in held[0] ^ held[1]]
        assert self.has_lost_data or not apart
        for journal, linked in zip(self.journals, self.links, strict=True):
            if len(linked) > 1:
                assert await self.compacted(journal, apart) == set(apart)
        assert [server.entries for server in self.servers if len(server.entries) != len(set(server.entries))] == []
        # What a server lost can be restored only as far as somebody still has it.
        if not self.has_lost_data:
            assert held[0] == self.written
        for journal, linked in zip(self.journals, self.links, strict=True):
            at_servers = {entry.id for server in linked for entry in held[server]}
            here = {stored.entry.id for stored in await journal.entries("notes", entries_max=10_000)}

            assert here <= at_servers
            assert at_servers - here == await self.compacted(journal, sorted(at_servers - here))

    @staticmethod
    async def compacted(journal: EventJournal, ids: Sequence[bytes]) -> set[bytes]:
        """Return those of some entries that a replica dropped."""
        return await journal.read(lambda tx: tx.compacted(tx.store_number("notes"), ids))

    async def exchange_all(self) -> None:
        for replica, linked in enumerate(self.links):
            for server in linked:
                await self.exchange(replica, server)

    async def write(self, replica: int, server: int) -> None:
        self.written.add(await self.journals[replica].write("notes", "line", "k", {}))

    async def compact(self, replica: int, server: int) -> None:
        await self.journals[replica].compact("notes", ByCount(server))

    async def restart(self, replica: int, server: int) -> None:
        await self.journals[replica].__aexit__(None, None, None)
        await self.journals[replica].__aenter__()
        await self.journals[replica].register(notes())

    async def lose_data(self, replica: int, server: int) -> None:
        self.has_lost_data = True
        self.servers[server].entries.clear()
        self.servers[server].incarnation += 1
        for key in [key for key in self.told if key[1] == server]:
            del self.told[key]

    async def lose_ack(self, replica: int, server: int) -> None:
        await self.exchange(replica, server, is_acknowledged=False)

    async def exchange(self, replica: int, server: int, *, is_acknowledged: bool = True) -> None:
        """First take what the server has, then send what it lacks, as the sync service does."""
        if server not in self.links[replica]:
            return
        journal, remote = self.journals[replica], self.servers[server]
        await self.meet(journal, remote)
        start = await journal.next_remote_sequence("notes", remote.remote_id)
        batch = [RemoteEntry(at, entry) for at, entry in enumerate(remote.entries) if at >= start]
        await journal.write_from_remote("notes", remote.remote_id, batch, through=len(remote.entries))
        self.told.update((replica, server, one.entry.id) for one in batch)
        after = 0
        while pending := await journal.uncommitted(
            "notes", remote.remote_id, after=after, entries_max=2, bytes_max=1 << 20
        ):
            after = pending[-1].position
            self.sent += len(pending)
            # Whatever it is sent it never said it has.
            assert not [one for one in pending if self.told[replica, server, one.entry.id]]
            numbers = [remote.take(one.entry) for one in pending]
            if is_acknowledged:
                self.told.update((replica, server, one.entry.id) for one in pending)
                acknowledgement = Acknowledgement([one.position for one in pending], numbers)
                await journal.acknowledge("notes", remote.remote_id, acknowledgement, through=len(remote.entries))

    async def meet(self, journal: EventJournal, remote: Server) -> None:
        incarnation = bytes([remote.incarnation])
        state = await journal.remote_state("notes", remote.remote_id)
        if state.incarnation != incarnation:
            await journal.reset_remote("notes", remote.remote_id, incarnation=incarnation)
        url = remote.remote_id.decode()
        await journal.transact(
            lambda tx: tx.remember_remote("notes", remote.remote_id, url=url, relay=RelayMode.WHEN_SEVERAL)
        )


def play(steps: Steps, links: Links) -> None:
    """Run the steps on journals in memory."""
    clock = ManualClock()
    journals = [MemoryJournal(clock=clock, random=random.Random(number)) for number in range(3)]
    asyncio.run(World(journals, links, clock).run(steps))


@given(steps=STEPS, links=LINKS)
@example(steps=CROSSING, links=TWO_BRIDGES)
@example(steps=DROPPED_AND_LOST, links=[{0}, {0, 1}, {1}])
@settings(max_examples=300, deadline=None)
def test_replicas_in_memory_converge_and_stop(steps: Steps, links: Links) -> None:
    play(steps, links)


@given(steps=STEPS, links=LINKS)
@example(steps=CROSSING, links=TWO_BRIDGES)
@settings(max_examples=20, deadline=None)
def test_replicas_on_disk_converge_and_stop(steps: Steps, links: Links) -> None:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as directory:
        journals = [
            SQLiteJournal(Path(directory) / str(number), clock=clock, durability="normal") for number in range(3)
        ]
        asyncio.run(World(journals, links, clock).run(steps))


def _unmarked(tx: object, remote: object, positions: object) -> object:
    """What a remote sent again is not noted, so it is sent back."""
    return remote


def _never(tx: object, remote: object) -> bool:
    """Nothing is relayed."""
    return False


def _to_the_last(tx: object, remote: object) -> object:
    """The relay watermark passes over what the remote lacks."""
    last = tx.next_position() - 1  # type: ignore[attr-defined]
    return remote._replace(relay_watermark=last)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "fault"), [("mark_received", _unmarked), ("relays", _never), ("pass_over_held", _to_the_last)]
)
def test_a_faulty_relay_is_found(name: str, fault: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_entries, name, fault)
    chance = random.Random(1)

    def play_all() -> None:
        play(CROSSING, TWO_BRIDGES)
        for _ in range(100):
            play([(chance.choice(KINDS), chance.randrange(3), chance.randrange(2)) for _ in range(20)], TWO_BRIDGES)

    with pytest.raises(AssertionError):
        play_all()
