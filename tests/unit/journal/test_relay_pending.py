"""With relaying, pending is what is held minus what a remote sent or acknowledged, whatever happens in between."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlayers.journal import held_entries
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement, EventJournal, RelayMode
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.testing.contracts.event_journal_world import ManualClock, entry_at, notes

REMOTES = [b"remote-%d--------" % number for number in range(3)]
KINDS = [
    *("write", "observe", "send", "send", "send_again", "send_again", "ack", "ack"),
    *("restart", "reset", "reset", "mode", "retire", "compact"),
]
STEP = st.tuples(st.sampled_from(KINDS), st.sampled_from([0, 0, 1, 2]), st.integers(0, 5))
BEGINNING = st.sampled_from([[], [("mode", 0, 2)], [("mode", 0, 1), ("mode", 1, 1)], [("mode", 0, 2), ("mode", 1, 2)]])
STEPS = st.builds(lambda first, rest: [*first, *rest], BEGINNING, st.lists(STEP, min_size=3, max_size=18))
Steps = list[tuple[str, int, int]]


class Model:
    """Replays steps on a journal and on sets of entry ids."""

    def __init__(self, journal: EventJournal, clock: ManualClock) -> None:
        self.journal, self.clock = journal, clock
        self.own: dict[bytes, Entry] = {}
        self.received: dict[bytes, Entry] = {}
        self.gone: set[bytes] = set()
        self.has: list[set[bytes]] = [set(), set(), set()]
        self.modes = [RelayMode.NEVER] * 3
        self.lost = [False] * 3
        self.met: set[int] = set()
        self.retired: set[int] = set()

    async def run(self, steps: Steps) -> None:
        """Take the steps, opening the journal anew at each restart, and compare after each."""
        parts: list[Steps] = [[]]
        for step in steps:
            parts.append([]) if step[0] == "restart" else parts[-1].append(step)
        for part in parts:
            async with self.journal as journal:
                await journal.register(notes())
                for kind, at, number in part:
                    self.clock.advance(1)
                    await getattr(self, kind)(at, number)
                    await self.compare()

    async def write(self, at: int, number: int) -> None:
        for _ in range(number % 3 + 1):
            entry = await self.journal.write("notes", "line", "k", {})
            self.own[entry.id] = entry

    async def observe(self, at: int, number: int) -> None:
        await self.journal.write("notes", "observed", "k", {})

    async def send(self, at: int, number: int) -> None:
        """The remote sends what may be new here and may not: ids are drawn from a small set."""
        entries = [entry_at(1_800_000_000_000 + (number + step) % 7) for step in range(number % 3 + 1)]
        await self.take(at, entries)

    async def send_again(self, at: int, number: int) -> None:
        known = [*self.own.values(), *self.received.values()]
        await self.take(at, known[number % 3 :: 3])

    async def take(self, at: int, entries: list[Entry]) -> None:
        batch = [RemoteEntry(0, entry) for entry in entries]
        self.meet(at)
        result = await self.journal.write_from_remote("notes", REMOTES[at], batch, through=0)
        self.received.update((entry.id, entry) for entry in result.written)
        self.has[at].update(entry.id for entry in entries)

    async def ack(self, at: int, number: int) -> None:
        pending = await self.journal.uncommitted("notes", REMOTES[at], entries_max=number + 2, bytes_max=1 << 20)
        chosen = [pending[number % len(pending)]] if pending and number % 2 else pending
        self.meet(at)
        await self.journal.acknowledge("notes", REMOTES[at], Acknowledgement([one.position for one in chosen]))
        self.has[at].update(one.entry.id for one in chosen)

    async def reset(self, at: int, number: int) -> None:
        self.lost[at] = at in self.met
        self.meet(at)
        await self.journal.reset_remote("notes", REMOTES[at], incarnation=bytes([number]))
        self.has[at].clear()

    async def mode(self, at: int, number: int) -> None:
        self.meet(at)
        self.modes[at] = RelayMode(number % 3)
        await self.journal.transact(
            lambda tx: tx.remember_remote("notes", REMOTES[at], relay=self.modes[at], url=str(at))
        )

    async def retire(self, at: int, number: int) -> None:
        if at in self.met:
            await self.journal.transact(lambda tx: tx.retire_remote("notes", REMOTES[at]))
            self.retired.add(at)

    async def compact(self, at: int, number: int) -> None:
        needed = {one for remote in self.met - self.retired for one in self.lacks(remote)}
        await self.journal.compact("notes", ByCount(number))
        kept = {stored.entry.id for stored in await self.journal.entries("notes", entries_max=10_000)}

        assert needed <= kept
        for held in (self.own, self.received):
            for entry_id in set(held) - kept:
                del held[entry_id]

    def meet(self, at: int) -> None:
        self.met.add(at)
        self.retired.discard(at)

    def relays(self, at: int) -> bool:
        return self.modes[at] is RelayMode.ALWAYS or (
            self.modes[at] is RelayMode.WHEN_SEVERAL and (len(self.met) > 1 or self.lost[at])
        )

    def lacks(self, at: int) -> set[bytes]:
        """Return what a remote is to be sent."""
        return (set(self.own) | (set(self.received) if self.relays(at) else set())) - self.has[at]

    async def compare(self) -> None:
        for at, remote_id in enumerate(REMOTES):
            if self.lost[at] and not set(self.received) - self.has[at] and self.modes[at] is RelayMode.WHEN_SEVERAL:
                # Healed: from here on it is as any other remote.
                self.lost[at] = False
            pending = await self.journal.uncommitted("notes", remote_id, entries_max=1000, bytes_max=1 << 30)
            state = await self.journal.remote_state("notes", remote_id)

            assert self.lacks(at) == {stored.entry.id for stored in pending}
            assert [stored.position for stored in pending] == sorted(stored.position for stored in pending)
            assert state.pending == len(pending)
            assert state.relayed == sum(not stored.is_local for stored in pending)


def play(journal: EventJournal, clock: ManualClock, steps: Steps) -> None:
    """Run the steps on a journal."""
    asyncio.run(Model(journal, clock).run(steps))


@given(steps=STEPS)
@settings(max_examples=300, deadline=None)
def test_in_memory_each_remote_is_sent_exactly_what_it_lacks(steps: Steps) -> None:
    clock = ManualClock()
    play(MemoryJournal(clock=clock), clock, steps)


@given(steps=STEPS)
@settings(max_examples=50, deadline=None)
def test_on_disk_each_remote_is_sent_exactly_what_it_lacks(steps: Steps) -> None:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as directory:
        play(SQLiteJournal(Path(directory), clock=clock, durability="normal"), clock, steps)


def _unmarked(tx: object, remote: object, positions: object) -> object:
    """What a remote sent again is not noted."""
    return remote


def _to_the_last(tx: object, remote: object) -> object:
    """The relay watermark passes over what the remote lacks."""
    last = tx.next_position() - 1  # type: ignore[attr-defined]
    return remote._replace(relay_watermark=last)  # type: ignore[attr-defined]


def _own_origin(remote: object, origin: int, position: int) -> bool:
    """What a remote once sent is never sent to it, though it lost it."""
    return origin not in (0, remote.number)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "fault"),
    [("mark_received", _unmarked), ("pass_over_held", _to_the_last), ("is_relayable", _own_origin)],
)
def test_faulty_bookkeeping_is_found(name: str, fault: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_entries, name, fault)
    chance = random.Random(1)

    def play_all() -> None:
        for _ in range(200):
            steps = [
                (chance.choice(KINDS), chance.randrange(2), chance.randrange(6)) for _ in range(chance.randint(3, 18))
            ]
            steps.insert(0, ("mode", 0, chance.randrange(3)))
            clock = ManualClock()
            play(MemoryJournal(clock=clock), clock, steps)

    with pytest.raises(AssertionError):
        play_all()
