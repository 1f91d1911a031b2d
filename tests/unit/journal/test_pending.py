"""What is pending is what was written minus what was acknowledged, whatever happens in between."""

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
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement, EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.testing.contracts.event_journal_world import OTHER_REMOTE, REMOTE, ManualClock, entry_at, notes

STEP = st.tuples(
    st.sampled_from(["write", "ack", "ack_prefix", "echo", "receive", "restart", "reset", "observe"]),
    st.sampled_from([REMOTE, OTHER_REMOTE]),
    st.integers(0, 7),
)
STEPS = st.lists(STEP, min_size=3, max_size=16)


class Model:
    """Replays steps on a journal and on sets."""

    def __init__(self, journal: EventJournal) -> None:
        self.journal = journal
        self.written: dict[int, Entry] = {}
        self.acknowledged: dict[bytes, set[int]] = {REMOTE: set(), OTHER_REMOTE: set()}
        self.received = 0

    async def run(self, steps: list[tuple[str, bytes, int]]) -> None:
        """Take the steps, opening the journal anew at each restart, and compare after each."""
        for part in _parts(steps):
            async with self.journal as journal:
                await journal.register(notes())
                for kind, remote_id, number in part:
                    await getattr(self, kind)(remote_id, number)
                    await self.compare()

    async def write(self, remote_id: bytes, number: int) -> None:
        for _ in range(number % 3 + 1):
            entry = await self.journal.write("notes", "line", "k", {})
            self.written[(await self.journal.entries(entries_max=10_000))[-1].position] = entry

    async def observe(self, remote_id: bytes, number: int) -> None:
        await self.journal.write("notes", "observed", "k", {})

    async def ack(self, remote_id: bytes, number: int) -> None:
        chosen = [position for at, position in enumerate(self.written) if at % 4 == number % 4]
        random.Random(number).shuffle(chosen)
        await self.journal.acknowledge("notes", remote_id, Acknowledgement(chosen))
        self.acknowledged[remote_id].update(chosen)

    async def ack_prefix(self, remote_id: bytes, number: int) -> None:
        pending = await self.journal.uncommitted("notes", remote_id, entries_max=number + 1, bytes_max=1 << 20)
        positions = [stored.position for stored in pending]
        await self.journal.acknowledge("notes", remote_id, Acknowledgement(positions))
        self.acknowledged[remote_id].update(positions)

    async def echo(self, remote_id: bytes, number: int) -> None:
        back = [(position, entry) for at, (position, entry) in enumerate(self.written.items()) if at % 3 == number % 3]
        batch = [RemoteEntry(at, entry) for at, (_, entry) in enumerate(back)]
        await self.journal.write_from_remote("notes", remote_id, batch, through=0)
        self.acknowledged[remote_id].update(position for position, _ in back)

    async def receive(self, remote_id: bytes, number: int) -> None:
        self.received += 1
        entry = entry_at(self.received, salt=number)
        await self.journal.write_from_remote("notes", remote_id, [RemoteEntry(0, entry)], through=0)

    async def reset(self, remote_id: bytes, number: int) -> None:
        await self.journal.reset_remote("notes", remote_id, incarnation=bytes([number]))
        self.acknowledged[remote_id].clear()

    async def compare(self) -> None:
        """Compare both remotes' lists and counts with the sets."""
        for remote_id, acknowledged in self.acknowledged.items():
            pending = await self.journal.uncommitted("notes", remote_id, entries_max=1000, bytes_max=1 << 30)
            state = await self.journal.remote_state("notes", remote_id)

            assert sorted(set(self.written) - acknowledged) == [stored.position for stored in pending]
            assert state.pending == len(pending)


def _parts(steps: list[tuple[str, bytes, int]]) -> list[list[tuple[str, bytes, int]]]:
    parts: list[list[tuple[str, bytes, int]]] = [[]]
    for step in steps:
        if step[0] == "restart":
            parts.append([])
        else:
            parts[-1].append(step)
    return parts


@given(steps=STEPS)
@settings(max_examples=120, deadline=None)
def test_pending_in_memory_is_written_minus_acknowledged(steps: list[tuple[str, bytes, int]]) -> None:
    asyncio.run(Model(MemoryJournal(clock=ManualClock())).run(steps))


@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_pending_on_disk_is_written_minus_acknowledged(steps: list[tuple[str, bytes, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        journal = SQLiteJournal(Path(directory), clock=ManualClock(), durability="normal")
        asyncio.run(Model(journal).run(steps))


def _watermark_to_the_last(tx: object, remote: object, positions: list[int]) -> object:
    """Fault W18: the upload cursor is the highest acknowledged, whatever lies below."""
    top = max([*positions, remote.watermark])  # type: ignore[attr-defined]
    return remote._replace(watermark=top)  # type: ignore[attr-defined]


def _forgetful(tx: object, remote: object, positions: list[int]) -> object:
    """Fault R2: what was acknowledged is not kept."""
    return remote


@pytest.mark.parametrize("fault", [_watermark_to_the_last, _forgetful])
def test_faulty_bookkeeping_is_found(fault: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_entries, "mark_own", fault)
    monkeypatch.setattr(held_entries, "mark_acknowledged", fault)
    chance = random.Random(1)
    kinds = ["write", "ack", "ack_prefix", "echo", "receive", "restart", "reset", "observe"]

    def history() -> list[tuple[str, bytes, int]]:
        return [
            (chance.choice(kinds), chance.choice([REMOTE, OTHER_REMOTE]), chance.randrange(8))
            for _ in range(chance.randint(3, 16))
        ]

    def play() -> None:
        for _ in range(50):
            asyncio.run(Model(MemoryJournal(clock=ManualClock())).run(history()))

    with pytest.raises(AssertionError):
        play()
