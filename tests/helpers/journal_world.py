"""Histories of several replicas of one journal, driven by a list of steps."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentlayers.journal.causality import heads_of, version_of
from agentlayers.journal.compaction import ByKey
from agentlayers.journal.conflict_policy import ConflictPolicy
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement, EventJournal
from agentlayers.protocol.payload import decode_payload
from agentlayers.testing.contracts.event_journal_world import REMOTE, ManualClock, notes, shown, stock_put

KEYS = ("k", "l")
TICKS = (-0.002, 0.0, 0.001, 0.003, -7_200.0, 7_300.0, 1.0, -86_400.0)
"""Seconds a clock moves: within a millisecond, and further than ids of others may pull ours."""


@dataclass(frozen=True)
class Step:
    """One step: what, at which replica, and numbers to choose with."""

    kind: str
    replica: int
    number: int


@dataclass
class World:
    """Replicas with everything that was ever written, in the order a server would have it."""

    journals: Sequence[EventJournal]
    policy: Callable[[], ConflictPolicy]
    clock: ManualClock
    log: list[Entry] = field(default_factory=list)

    async def run(self, steps: Sequence[Step]) -> list[Any]:
        """
        Open the replicas, take the steps, deliver everything to everyone; return what each shows.

        The last view is the definition's: what the set of all entries means, computed at once.
        """
        async with contextlib.AsyncExitStack() as stack:
            for journal in self.journals:
                await stack.enter_async_context(journal)
                await journal.register(notes(policy=self.policy()))
            for step in steps:
                await self.take(step)
            for at, journal in enumerate(self.journals):
                await self.push(journal)
                await self.deliver(journal, random.Random(at), len(self.log))
            for journal in self.journals:
                await self.deliver(journal, random.Random(0), len(self.log))
            return [*[await self.view(journal) for journal in self.journals], self.meaning()]

    async def take(self, step: Step) -> None:
        """Take one step."""
        journal = self.journals[step.replica % len(self.journals)]
        key = KEYS[step.number % len(KEYS)]
        if step.kind in ("put", "delete"):
            await journal.write("notes", step.kind, key, {"v": step.number})
        elif step.kind == "stock":
            # A stock peer's clock stands anywhere near ours, so its ids come in any order.
            at = self.clock.now_ms() + step.number - 4
            event = "delete" if step.number % 3 == 0 else "put"
            self.log.append(stock_put(at, len(self.log), event=event, primary_key=key))
        elif step.kind == "sync":
            await self.push(journal)
            await self.deliver(journal, random.Random(step.number), step.number)
        elif step.kind == "compact":
            await journal.compact("notes", ByKey())
        elif step.kind == "tick":
            self.clock.advance(TICKS[step.number % len(TICKS)])

    async def push(self, journal: EventJournal) -> None:
        """Append what is pending to the log."""
        pending = await journal.uncommitted("notes", REMOTE, entries_max=1000, bytes_max=1 << 30)
        self.log.extend(stored.entry for stored in pending)
        await journal.acknowledge("notes", REMOTE, Acknowledgement([stored.position for stored in pending]))

    async def deliver(self, journal: EventJournal, chance: random.Random, count: int) -> None:
        """Hand over some of the log, in any order, some of it twice, cut into batches."""
        entries = [RemoteEntry(at, entry) for at, entry in enumerate(self.log)]
        chance.shuffle(entries)
        entries = entries[:count] + entries[: count // 3]
        while entries:
            size = chance.randint(1, 3)
            await journal.write_from_remote("notes", REMOTE, entries[:size], through=0)
            entries = entries[size:]

    async def view(self, journal: EventJournal) -> Any:
        """Return what a replica shows: values and open conflicts."""

        def look(tx: Any) -> Any:
            values = {key: shown(tx, key) for key in KEYS}
            conflicts = [(c.primary_key, [head.id for head in c.heads], c.resolution) for c in tx.conflicts("notes")]
            return values, conflicts

        return await journal.read(look)

    def meaning(self) -> Any:
        """Return what all entries together mean, by the definition of heads."""
        values: dict[str, Any] = {}
        conflicts = []
        for key in KEYS:
            versions = [
                version_of(entry.id, entry.event, decode_payload(entry.payload), is_deletion=entry.event == "delete")
                for entry in self.log
                if entry.primary_key == key
            ]
            heads = heads_of(versions)
            resolution = self.policy().resolve(heads) if heads else None
            values[key] = None if resolution is None else resolution.value
            if len({(head.event, repr(sorted(head.value.items()))) for head in heads}) > 1:
                conflicts.append((key, [head.id for head in heads], resolution))
        return values, conflicts
