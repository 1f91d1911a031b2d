"""
The journal and what it is compared with, each doing the same work on a file of its own (see ``bench_journal.py``).

    python journal_contenders.py NAME ACTION DIRECTORY [ARGUMENTS AS JSON]

One entry is 298 bytes of payload and, where there is a read model, a row of that. Everything measured is durable
(SQLite in WAL mode with ``synchronous=FULL``); filling up beforehand need not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.entry import RemoteEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.testing.contracts.event_journal_world import REMOTE, notes, their_put

PAYLOAD = {"text": "x" * 280, "n": 1}  # 298 bytes as MessagePack
RAW = b"x" * 298
STORE = "notes"
BATCH = 64
FILL_BATCH = 1000

Figures = dict[str, float]


def memory_mb(kind: str = "VmHWM") -> float:
    """Return the peak (``VmHWM``) or present (``VmRSS``) memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1024
    return 0.0


def rates(single: Sequence[float], batched: Sequence[float]) -> Figures:
    """Return figures from the seconds each call took."""
    cuts = statistics.quantiles(single, n=100)
    return {
        "single_per_second": len(single) / sum(single),
        "single_p50_us": cuts[49] * 1e6,
        "single_p99_us": cuts[98] * 1e6,
        "batched_per_second": len(batched) * BATCH / sum(batched),
    }


def timed(calls: int, work: Callable[[], object]) -> list[float]:
    """Return the seconds of each call."""
    times = []
    for _ in range(calls):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times


# -- ours ---------------------------------------------------------------------------------------------------
class Ours:
    """``SQLiteJournal``, one awaited call after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def schema(self) -> StoreSchema:
        return StoreSchema(
            name=STORE,
            project=lambda tx, entry, heads: tx.put(b"notes\x00" + entry.id, b""),
            retract=lambda tx, entry: tx.delete(b"notes\x00" + entry.id),
        )

    async def fill(self, entries: int) -> Figures:
        """Bring a journal to a size."""
        async with SQLiteJournal(self.directory, durability="normal") as journal:
            await journal.register(self.schema())
            begun = time.perf_counter()
            for start in range(0, entries, FILL_BATCH):
                await self.write(journal, min(FILL_BATCH, entries - start))
            return {"seconds": time.perf_counter() - begun}

    async def write(self, journal: SQLiteJournal, count: int) -> None:
        """Write so many in one transaction."""
        await journal.transact(lambda tx: [tx.write(STORE, "note", "k", PAYLOAD) for _ in range(count)])

    async def measure(self, singles: int, batches: int) -> Figures:
        """Open the file, append one by one and in batches."""
        begun = time.perf_counter()
        async with SQLiteJournal(self.directory) as journal:
            await journal.register(self.schema())
            opened = time.perf_counter() - begun
            single, batched = list[float](), list[float]()
            for count, calls, times in ((1, singles, single), (BATCH, batches, batched)):
                for _ in range(calls):
                    begun = time.perf_counter()
                    await self.write(journal, count)
                    times.append(time.perf_counter() - begun)
        return {"open_ms": opened * 1000, **rates(single, batched), "peak_mb": memory_mb()}

    async def chat(self, messages: int) -> Figures:
        """Append messages through the store, one by one."""
        message = {"type": "user", "message": {"role": "user", "content": "x" * 200}}
        identity = Identity.generate()
        async with SQLiteJournal(self.directory) as journal, ChatHistoryStore(journal, identity) as chat:
            begun = time.perf_counter()
            for _ in range(messages):
                await chat.append("session", message)
            return {"chat_per_second": messages / (time.perf_counter() - begun)}

    async def compact(self, keep: int) -> Figures:
        """Drop all but ``keep`` while single appends go on; the longest of them is what compaction costs the others."""
        async with SQLiteJournal(self.directory) as journal:
            await journal.register(self.schema())
            pauses, is_done = list[float](), False

            async def append() -> None:
                while not is_done:
                    begun = time.perf_counter()
                    await self.write(journal, 1)
                    pauses.append(time.perf_counter() - begun)

            appending = asyncio.ensure_future(append())
            begun = time.perf_counter()
            report = await journal.compact(STORE, ByCount(keep))
            seconds = time.perf_counter() - begun
            is_done = True
            await appending
        return {
            "compacted_per_second": report.dropped / seconds,
            "compaction_seconds": seconds,
            "append_longest_ms": max(pauses) * 1000,
            "append_p50_us": statistics.median(pauses) * 1e6,
            "file_mb_after": sum(file.stat().st_size for file in self.directory.iterdir()) / 1e6,
        }

    async def conflicts(self, versions: int, replicas: int) -> Figures:
        """
        Receive versions of one key from replicas that never met, list what conflicts, then write over it.

        As each replica has seen its own, there are as many heads as replicas.
        """
        arriving = list[RemoteEntry]()
        own: dict[str, bytes] = {}
        for number in range(versions):
            name = f"replica-{number % replicas}"
            seen = {name: own[name]} if name in own else {}
            entry = their_put(1_790_000_000_000 + number, number, replica=name, seen=seen)
            own[name] = entry.id
            arriving.append(RemoteEntry(number, entry))
        async with SQLiteJournal(self.directory) as journal:
            await journal.register(notes())
            spans: dict[str, float] = {}
            begun = time.perf_counter()
            for start in range(0, versions, 500):
                await journal.write_from_remote(STORE, REMOTE, arriving[start : start + 500])
            spans["arrival_us_per_version"] = (time.perf_counter() - begun) / versions * 1e6
            begun = time.perf_counter()
            (conflict,) = await journal.read(lambda tx: tx.conflicts(STORE))
            spans["list_conflict_ms"] = (time.perf_counter() - begun) * 1000
            assert len(conflict.heads) == min(replicas, versions)
            begun = time.perf_counter()
            await journal.write(STORE, "put", "k", {"v": 0})
            spans["write_over_all_ms"] = (time.perf_counter() - begun) * 1000
            begun = time.perf_counter()
            for number in range(20):
                await journal.write(STORE, "put", "k", {"v": number})
            spans["next_write_us"] = (time.perf_counter() - begun) / 20 * 1e6
            assert len(await journal.read(lambda tx: tx.heads(STORE, "k"))) == 1
        return spans


# -- the limit ----------------------------------------------------------------------------------------------
class Bare:
    """``sqlite3`` with the same rows and the same durability, and nothing else."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.database = sqlite3.connect(directory / "bare.sqlite", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("CREATE TABLE IF NOT EXISTS entry (position INTEGER PRIMARY KEY, id BLOB, payload BLOB)")
        self.database.execute("CREATE UNIQUE INDEX IF NOT EXISTS entry_id ON entry (id)")
        self.database.execute("CREATE TABLE IF NOT EXISTS value (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    async def fill(self, entries: int) -> Figures:
        """Bring the file to a size."""
        self.database.execute("PRAGMA synchronous = NORMAL")
        begun = time.perf_counter()
        for start in range(0, entries, FILL_BATCH):
            self.write(min(FILL_BATCH, entries - start))
        self.database.close()
        return {"seconds": time.perf_counter() - begun}

    def write(self, count: int) -> None:
        """Write so many in one transaction."""
        now = time.time_ns().to_bytes(8)
        ids = [now + number.to_bytes(2) + os.urandom(6) for number in range(count)]
        self.database.execute("BEGIN IMMEDIATE")
        self.database.executemany("INSERT INTO entry (id, payload) VALUES (?, ?)", [(each, RAW) for each in ids])
        self.database.executemany("INSERT INTO value VALUES (?, x'')", [(each,) for each in ids])
        self.database.execute("COMMIT")

    async def measure(self, singles: int, batches: int) -> Figures:
        """Append one by one and in batches."""
        self.database.execute("PRAGMA synchronous = FULL")
        single = timed(singles, lambda: self.write(1))
        batched = timed(batches, lambda: self.write(BATCH))
        self.database.close()
        return {**rates(single, batched), "peak_mb": memory_mb()}


# -- a library that does the like ---------------------------------------------------------------------------
class EventSourcing:
    """The application recorder of ``eventsourcing``: its own layer above SQLite, without aggregates."""

    def __init__(self, directory: Path) -> None:
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        directory.mkdir(parents=True, exist_ok=True)
        self.path = str(directory / "events.sqlite")
        self.store = SQLiteDatastore(self.path)
        self.recorder = SQLiteApplicationRecorder(self.store)
        self.recorder.create_table()
        self.make = StoredEvent
        self.originator, self.version = uuid.uuid4(), 0

    async def fill(self, entries: int) -> Figures:
        """Bring the file to a size, past the library, whose own way takes minutes."""
        begun = time.perf_counter()
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            database.execute("PRAGMA synchronous = OFF")
            rows = ((self.originator.hex, number, "note", RAW) for number in range(entries))
            database.executemany("INSERT INTO stored_events VALUES (?, ?, ?, ?)", rows)
            database.commit()
        self.store.close()
        return {"seconds": time.perf_counter() - begun}

    def write(self, count: int) -> None:
        """Write so many in one transaction."""
        events = [self.make(self.originator, self.version + number, "note", RAW) for number in range(count)]
        self.version += count
        self.recorder.insert_events(events)

    async def measure(self, singles: int, batches: int) -> Figures:
        """Append one by one and in batches."""
        single = timed(singles, lambda: self.write(1))
        batched = timed(batches, lambda: self.write(BATCH))
        self.store.close()
        return {**rates(single, batched), "peak_mb": memory_mb()}


class EventSourcingApplication:
    """An ``eventsourcing`` application that saves an aggregate after each event, as its users do."""

    def __init__(self, directory: Path) -> None:
        from eventsourcing.application import Application
        from eventsourcing.domain import Aggregate, event

        class Notes(Aggregate):
            @event("Noted")
            def note(self, text: str, n: int) -> None:
                """Keep nothing: only the event is wanted."""

        directory.mkdir(parents=True, exist_ok=True)
        environment = {"PERSISTENCE_MODULE": "eventsourcing.sqlite"}
        environment["SQLITE_DBNAME"] = str(directory / "events.sqlite")
        self.application = Application[uuid.UUID](env=environment)
        self.notes: Any = Notes()
        self.application.save(self.notes)

    def write(self, count: int) -> None:
        """Save so many events at once."""
        for _ in range(count):
            self.notes.note(**PAYLOAD)
        self.application.save(self.notes)

    async def measure(self, singles: int, batches: int) -> Figures:
        """Append one by one and in batches."""
        single = timed(singles, lambda: self.write(1))
        batched = timed(batches, lambda: self.write(BATCH))
        self.application.close()
        return {**rates(single, batched), "peak_mb": memory_mb()}


CONTENDERS: dict[str, Callable[[Path], Any]] = {
    "agentlayers": Ours,
    "sqlite3": Bare,
    "eventsourcing recorder": EventSourcing,
    "eventsourcing application": EventSourcingApplication,
}


def main() -> None:
    name, action, directory = sys.argv[1:4]
    arguments: dict[str, Any] = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    print(json.dumps(asyncio.run(getattr(CONTENDERS[name](Path(directory)), action)(**arguments))))


if __name__ == "__main__":
    main()
