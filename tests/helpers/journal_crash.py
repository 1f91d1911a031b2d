"""
Kill a replica at random moments while it does everything a journal has to survive, and look at what is left.

Run as a program: ``python journal_crash.py <scratch directory> <kills> [fault]``; prints JSON. A child appends to all
stores, receives from a remote, acknowledges, compacts, imports an export and repairs read models that it spoilt, all at
once; what it is told is durable it notes through a pipe. It is killed with SIGKILL, and the next child goes on with
the same files. A program of its own, because it forks, which a test run with threads must not: so a kill costs no new
start of the interpreter.

With ``fault`` something is broken on purpose, and the program has to fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentlayers.journal.compaction import ByAge, ByCount, ByKey, Composite
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.sqlite.transaction import SQLiteTransaction
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.event_groups import UNSYNCED_EVENTS
from agentlayers.storage.export import export_lines
from agentlayers.storage.import_ import ImportedEntry, import_export, read_export
from agentlayers.storage.rebuild import rebuild
from agentlayers.storage.snapshot import open_snapshot
from agentlayers.storage.verify import verify
from helpers.store_replica import STORES, Replica, open_replica

__all__ = ["FAULTS"]

REMOTE = b"remote-of-crash-"
SOURCE_ENTRIES = 40
FAULTS = ("early", "torn", "forgetful")
"""Acknowledged before it is durable; entries without their read model; a cursor ahead of its entries."""


@dataclass
class World:
    """What all children of a run share; made before the first fork."""

    directory: Path
    exports: list[Path] = field(default_factory=list)
    exported: dict[Path, list[bytes]] = field(default_factory=dict)
    remote_log: list[tuple[str, Entry]] = field(default_factory=list)

    @classmethod
    def make(cls, scratch: Path) -> World:
        """Write exports to import, and the log of a remote to receive from."""
        world = cls(scratch / "replica")
        for name in ("first", "second", "remote"):
            source = scratch / name
            asyncio.run(_fill(source, name))
            path = scratch / f"{name}.jsonl"
            path.write_text("".join(f"{line}\n" for line in export_lines(source)), encoding="utf-8")
            items = [item for item in read_export(path) if isinstance(item, ImportedEntry)]
            if name == "remote":
                synced = [item for item in items if item.entry.event not in UNSYNCED_EVENTS]
                world.remote_log = [(item.store, item.entry) for item in synced]
            else:
                world.exports.append(path)
                world.exported[path] = [item.entry.id for item in items]
        return world

    def remote_entries(self, store: str) -> list[RemoteEntry]:
        """Return what the remote has of a store, with its sequences."""
        entries = [entry for name, entry in self.remote_log if name == store]
        return [RemoteEntry(sequence, entry) for sequence, entry in enumerate(entries)]


async def _fill(directory: Path, name: str) -> None:
    async with open_replica(SQLiteJournal(directory, durability="normal")) as replica:
        for number in range(SOURCE_ENTRIES * (20 if name == "remote" else 4)):
            await append_one(replica, number, f"{name} {number}")


async def append_one(replica: Replica, number: int, text: str) -> bytes:
    """Append one entry of some store; return its id."""
    session = f"s{number % 3}"
    if number % 4 == 0:
        record = ArtifactRecord(id=f"a{number % 5}", session_id=session, kind="file", content=text)
        return (await replica.artifacts.put(record)).entry_id
    if number % 4 == 1:
        noted = await replica.audit.hook_event(hook="Stop", outcome="success", session_id=session)
        assert noted is not None
        return noted.entry_id
    return (await replica.chat.append(session, {"text": text})).entry_id


# -- the child that is killed -------------------------------------------------------------------------------
class Work:
    """Everything at once, until the end of the process."""

    def __init__(self, world: World, seed: int, pipe: int) -> None:
        self.world, self.chance, self.pipe = world, random.Random(seed), pipe

    def note(self, *words: str) -> None:
        """Tell the parent; a line this short is written whole or not at all."""
        os.write(self.pipe, (" ".join(words) + "\n").encode())

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Tell the parent what is under way."""
        self.note("begin", what)
        yield
        self.note("end", what)

    async def run(self) -> None:
        """Open the replica and work on it."""
        self.note("begin", "open")
        async with open_replica(SQLiteJournal(self.world.directory)) as replica:
            for store in STORES:
                await replica.meet_remote(store, REMOTE)
            self.note("end", "open")
            await asyncio.gather(
                *(self.forever(self.append, replica, at) for at in range(2)),
                self.forever(self.append_many, replica),
                self.forever(self.receive, replica),
                self.forever(self.acknowledge, replica),
                self.forever(self.compact, replica),
                self.forever(self.import_or_rebuild),
            )

    async def forever(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do it again and again, at random distances."""
        while True:
            await work(*arguments)
            await asyncio.sleep(self.chance.random() * 0.004)

    async def append(self, replica: Replica, at: int) -> None:
        """Append one and tell when it is durable."""
        with self.doing(f"append{at}"):
            entry_id = await append_one(replica, self.chance.randrange(1000), "x" * self.chance.randrange(1, 2000))
        self.note("durable", entry_id.hex())

    async def append_many(self, replica: Replica) -> None:
        """Append a batch."""
        with self.doing("batch"):
            events = await replica.chat.append_all(
                "batch", [{"text": str(n)} for n in range(self.chance.randint(2, 40))]
            )
        for event in events:
            self.note("durable", event.entry_id.hex())

    async def receive(self, replica: Replica) -> None:
        """Go on reading the remote where its cursor is; over and over, some of it twice."""
        store = self.chance.choice(STORES)
        log = self.world.remote_entries(store)
        cursor = await replica.journal.next_remote_sequence(store, REMOTE)
        batch = log[max(0, cursor - 2) : cursor + self.chance.randint(1, 9)]
        with self.doing("receive"):
            await replica.journal.write_from_remote(store, REMOTE, batch)
        for remote_entry in batch:
            self.note("durable", remote_entry.entry.id.hex())

    async def acknowledge(self, replica: Replica) -> None:
        """Let the remote acknowledge some of what is pending, in any order."""
        store = self.chance.choice(STORES)
        pending = await replica.journal.uncommitted(store, REMOTE, entries_max=50, bytes_max=1 << 20)
        some = self.chance.sample(pending, self.chance.randint(0, len(pending)))
        with self.doing("acknowledge"):
            await replica.journal.acknowledge(store, REMOTE, Acknowledgement([one.position for one in some]))
        for one in some:
            self.note("sent", one.store, one.entry.id.hex())

    async def compact(self, replica: Replica) -> None:
        """Compact one store."""
        strategy = self.chance.choice((ByCount(20), ByKey(), ByAge(5), Composite(ByKey(), ByCount(30))))
        with self.doing("compact"):
            await replica.journal.compact(self.chance.choice(STORES), strategy)

    async def import_or_rebuild(self) -> None:
        """Do what tools do beside a running replica, with a journal of their own."""
        if self.chance.random() < 0.5:
            path = self.chance.choice(self.world.exports)
            with self.doing("import"):
                await import_export(self.world.directory, path)
            for entry_id in self.world.exported[path]:
                self.note("durable", entry_id.hex())
        else:
            self.note("begin", "rebuild")
            async with SQLiteJournal(self.world.directory) as journal:
                await journal.transact(self.spoil)
            await rebuild(self.world.directory)
            self.note("end", "rebuild")

    def spoil(self, tx: Any) -> None:
        """Take some rows out of a read model, and change some."""
        rows = list(tx.scan(b"audit_log\x00", b"audit_log\x01"))
        for key, value in self.chance.sample(rows, len(rows) // 3):
            if self.chance.random() < 0.5:
                tx.delete(key)
            else:
                tx.put(key, value + b"\x00")


# -- faults the checks have to find -------------------------------------------------------------------------
def plant(fault: str) -> None:
    """Break something on purpose."""
    {"early": _plant_early, "torn": _plant_torn, "forgetful": _plant_forgetful}[fault]()


def _plant_early() -> None:
    real = SQLiteJournal.transact

    async def transact(self: Any, work: Callable[[Any], Any]) -> Any:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Any] = loop.create_future()

        def settle(outcome: Any, *, error: BaseException | None = None) -> None:
            if not told.done():
                told.set_result(outcome) if error is None else told.set_exception(error)

        def tell_early(tx: Any) -> Any:
            outcome = work(tx)
            loop.call_soon_threadsafe(settle, outcome)
            return outcome

        committing = asyncio.ensure_future(real(self, tell_early))
        committing.add_done_callback(lambda done: settle(None, error=done.exception()))
        return await told

    SQLiteJournal.transact = transact  # type: ignore[method-assign]


def _plant_torn() -> None:
    real = SQLiteTransaction.flush

    def flush(self: Any) -> None:
        values, self._values = self._values, {}
        real(self)
        self.sql.run("COMMIT")
        self.sql.run("BEGIN IMMEDIATE")
        self._values, self._texts = values, {}
        real(self)

    SQLiteTransaction.flush = flush  # type: ignore[method-assign]


def _plant_forgetful() -> None:
    real = SQLiteJournal.write_from_remote

    async def write_from_remote(self: Any, store: str, remote: bytes, entries: Any, **named: Any) -> Any:
        await real(self, store, remote, [], through=max((entry.sequence for entry in entries), default=-1) + 1)
        return await real(self, store, remote, entries, **named)

    SQLiteJournal.write_from_remote = write_from_remote  # type: ignore[method-assign, assignment]


# -- the parent ---------------------------------------------------------------------------------------------
@dataclass
class Told:
    """What the children were told so far."""

    durable: set[bytes] = field(default_factory=set)
    sent: set[tuple[str, bytes]] = field(default_factory=set)
    under_way: Counter[str] = field(default_factory=Counter)
    is_spoilt: bool = False

    def hear(self, data: bytes) -> None:
        """Take over what one child noted; a line that was cut off says nothing."""
        doing: Counter[str] = Counter()
        for line in data.decode().split("\n")[:-1]:
            match line.split():
                case ["durable", entry_id]:
                    self.durable.add(bytes.fromhex(entry_id))
                case ["sent", store, entry_id]:
                    self.sent.add((store, bytes.fromhex(entry_id)))
                case ["begin", what]:
                    doing[what] += 1
                case ["end", what]:
                    doing[what] -= 1
        self.is_spoilt = doing["rebuild"] > 0
        self.under_way.update(what for what, count in doing.items() if count)
        self.under_way["kills"] += 1


def kill_one(world: World, chance: random.Random) -> bytes:
    """Start a child and kill it at a random moment; return what it noted."""
    seed, lines = (
        chance.getrandbits(32),
        chance.choice((chance.randrange(5), *(chance.randrange(400) for _ in range(4)))),
    )
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_and_exit(lambda: asyncio.run(Work(world, seed, writing).run()))
    os.close(writing)
    data = bytearray()
    deadline = time.monotonic() + 30
    while data.count(b"\n") < lines and time.monotonic() < deadline:
        if select.select([reading], [], [], 1)[0]:
            news = os.read(reading, 65536)
            data += news
            if not news:
                break
    time.sleep(chance.random() ** 3 * 0.02)
    os.kill(child, signal.SIGKILL)
    while news := os.read(reading, 65536):
        data += news
    os.close(reading)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child ended by itself, status {status}"
    return bytes(data)


def in_child(work: Callable[[], object]) -> bool:
    """Run ``work`` in a process of its own, so that this one never opens a database; tell whether it went well."""
    child = os.fork()
    if child == 0:
        _run_and_exit(work)
    return os.waitpid(child, 0)[1] == 0


def _run_and_exit(work: Callable[[], object]) -> None:
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def check(world: World, told: Told) -> None:
    """Compare what is on disk with what the children were told."""
    if not told.durable and not (world.directory / "journal.sqlite").exists():
        return  # killed before there was a file
    if told.is_spoilt:
        # It was killed while it repaired what it had spoilt; the next run does the rest.
        asyncio.run(rebuild(world.directory))
    report = verify(world.directory, now_ms=int(time.time() * 1000))
    assert report.findings == [], report.findings
    with open_snapshot(world.directory / "journal.sqlite") as snapshot:
        rows = snapshot.connection.execute("SELECT id, position, event FROM entry").fetchall()
        compacted = {entry_id for (entry_id,) in snapshot.connection.execute("SELECT id FROM horizon")}
        held = [entry_id for entry_id, _, _ in rows]
        assert len(set(held)) == len(held), "an entry is there twice"
        here = {*held, *compacted}
        lost = told.durable - here
        assert not lost, f"{len(lost)} of {len(told.durable)} acknowledged entries are lost"
        found = snapshot.connection.execute("SELECT rowid FROM text_index UNION ALL SELECT position FROM text_waiting")
        texts = sorted(position for (position,) in found)
        messages = sorted(position for _, position, event in rows if event == "chat_event")
        wrong = set(texts) ^ set(messages)
        assert texts == messages, f"texts of {sorted(wrong)} are not what is there"
        for store in STORES:
            check_remote(world, snapshot.tx, store, told, here)


def check_remote(world: World, tx: Any, store: str, told: Told, here: set[bytes]) -> None:
    """Check that nothing is received or sent again, and nothing left out."""
    cursor = tx.remote_state(store, REMOTE).next_sequence
    skipped = [one for one in world.remote_entries(store)[:cursor] if one.entry.id not in here]
    assert not skipped, f"{len(skipped)} entries of {store} below the cursor {cursor} are not here"
    pending = tx.uncommitted(store, REMOTE, entries_max=1_000_000, bytes_max=1 << 40)
    again = [one for one in pending if (store, one.entry.id) in told.sent]
    assert not again, f"{len(again)} acknowledged entries of {store} are pending again"


def main(scratch: Path, kills: int, fault: str | None) -> int:
    """Kill that often, and check after each kill; print what was under way."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    world, told, chance = World.make(scratch), Told(), random.Random(kills)
    if fault is not None:
        plant(fault)
    for number in range(kills):
        told.hear(kill_one(world, chance))
        if not in_child(lambda: check(world, told)):
            print(json.dumps({"failed_at_kill": number, "under_way": told.under_way}), flush=True)
            return 1
    report = {"durable": len(told.durable), "sent": len(told.sent), "under_way": told.under_way}
    print(json.dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
