"""One transaction does the same on disk as in memory, savepoints and failures included."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.quarantine import UnreadableEntry
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value import SQLiteKeyValueStore
from agentlayers.testing.contracts.event_journal_world import REMOTE, ManualClock, notes
from helpers.key_value_journal import JournalWithStore

OPERATION = st.tuples(
    st.sampled_from(
        [
            "put", "put", "remove", "scan", "write", "write", "keyed", "keyed", "list", "versions", "open", "open",
            "release", "rollback", "find", "bad", "count", "setting", "acknowledge", "forget", "delete", "quarantine",
        ]
    ),
    st.integers(0, 3),
)  # fmt: skip
WORK = st.tuples(st.lists(OPERATION, max_size=14), st.booleans())
WORKS = st.lists(WORK, min_size=1, max_size=4)
Works = list[tuple[list[tuple[str, int]], bool]]


class Player:
    """Takes operations on a transaction and notes what each showed."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.shown: list[Any] = []
        self.ids: list[bytes] = []

    def work(self, tx: JournalTransaction, operations: list[tuple[str, int]], *, fails: bool) -> None:
        """Take all operations; leave no savepoint open; raise at the end if told so."""
        savepoints: list[int] = []
        for kind, number in operations:
            # A fresh millisecond, so that an id does not depend on one that was dropped.
            self.clock.advance(0.001)
            self.shown.append((kind, self.take(tx, kind, number, savepoints)))
        while savepoints:
            tx.release_savepoint(savepoints.pop())
        if fails:
            raise LookupError("on purpose")

    def take(self, tx: JournalTransaction, kind: str, number: int, savepoints: list[int]) -> Any:
        if kind == "open":
            savepoints.append(tx.open_savepoint())
        elif kind in ("release", "rollback"):
            if savepoints:
                token = savepoints.pop()
                (tx.release_savepoint if kind == "release" else tx.rollback_savepoint)(token)
        elif kind in ("put", "remove"):
            key = b"notes\x00x%d" % number
            return tx.put(key, b"%d" % len(self.shown)) if kind == "put" else tx.delete(key)
        elif kind in ("write", "keyed", "bad"):
            event, name = {"write": ("line", "w"), "keyed": ("put", f"k{number}"), "bad": ("bad", "w")}[kind]
            self.ids.append(tx.write("notes", event, name, {"v": number}).id)
        else:
            return self.look(tx, kind, number)
        return None

    def look(self, tx: JournalTransaction, kind: str, number: int) -> Any:
        if kind == "scan":
            return list(tx.scan(b"notes\x00", b"notes\x01", reverse=bool(number % 2), limit=number + 1))
        if kind == "list":
            return tx.entries("notes", after=number)
        if kind == "versions":
            return tx.versions("notes", f"k{number}"), tx.heads("notes", f"k{number}")
        if kind == "find":
            return [tx.stored_entry(entry_id) for entry_id in self.ids[-number:]]
        if kind == "count":
            return tx.count_rows(tx.store_number("notes")), tx.unapplied("notes"), tx.remote_state("notes", REMOTE)
        if kind == "setting":
            before = tx.get_setting("mine")
            tx.put_setting("mine", b"%d" % number)
            return before
        if kind == "quarantine":
            junk = UnreadableEntry(b"%d" % number, 0, b"", "")
            return tx.quarantine("notes", REMOTE, [junk], key_check=b"key")
        rows = tx.rows_after(tx.store_number("notes"), 0, 100)[number : number + 2]
        if kind == "acknowledge":
            tx.note(1, [row.position for row in rows])
        elif kind == "forget":
            tx.forget_noted(1, rows[0].position if rows else None)
        else:
            # As compaction does: never a head alone, and nothing unapplied is left behind.
            rows = [row for row in rows if not row.keyed]
            for row in rows:
                tx.drop_unapplied(row.position)
            tx.delete_rows(rows)
        return rows


async def play(journal: EventJournal, clock: ManualClock, works: Works) -> Any:
    """Run the works, then open the journal again and return everything it shows."""
    player = Player(clock)

    def project(tx: JournalTransaction, entry: Any, heads: Any) -> None:
        inner.project(tx, entry, heads)
        if entry.event == "bad":
            tx.delete(b"notes\x00x1")
            raise ValueError("bad")

    inner = notes()
    schema = type(inner)(name="notes", keyed_events=inner.keyed_events, deletions=inner.deletions, project=project)
    async with journal:
        await journal.register(schema)
        for operations, fails in works:
            try:
                await journal.transact(lambda tx: player.work(tx, operations, fails=fails))  # noqa: B023
            except LookupError:
                player.shown.append("undone")
    async with journal:
        await journal.register(schema)
        after = [
            await journal.read(lambda tx, kind=kind: player.look(tx, kind, 3))  # type: ignore[misc]
            for kind in ("scan", "list", "find", "count")
        ]
    return player.shown, after


def another_journal(kind: str, directory: str, clock: ManualClock) -> EventJournal:
    """Return a journal that keeps its changes in another way than the one in memory."""
    chance = random.Random(1)
    if kind == "sqlite":
        return SQLiteJournal(Path(directory), clock=clock, random=chance, durability="normal")
    return JournalWithStore(
        SQLiteKeyValueStore(directory) if kind == "key_value_sqlite" else None, clock=clock, random=chance
    )


@pytest.mark.parametrize("kind", ["sqlite", "key_value_memory", "key_value_sqlite"])
@given(works=WORKS)
@settings(max_examples=120, deadline=None)
@example(works=[([("write", 0), ("open", 0), ("list", 0), ("write", 1), ("rollback", 0), ("write", 2)], False)])
@example(works=[([("open", 0), ("put", 1), ("open", 0), ("setting", 1), ("rollback", 0), ("scan", 3)], False)])
@example(works=[([("open", 0), ("write", 0), ("open", 0), ("bad", 0), ("rollback", 0), ("list", 0)], True)])
@example(works=[([("put", 0), ("scan", 2), ("open", 0), ("put", 1), ("rollback", 0), ("scan", 2)], False)])
@example(works=[([("scan", 3), ("open", 0), ("put", 1), ("rollback", 0), ("scan", 3), ("scan", 2)], False)])
def test_disk_and_memory_agree(kind: str, works: Works) -> None:
    with tempfile.TemporaryDirectory() as directory:
        here, there = ManualClock(), ManualClock()
        memory = MemoryJournal(clock=here, random=random.Random(1))
        disk = another_journal(kind, directory, there)

        assert asyncio.run(play(memory, here, works)) == asyncio.run(play(disk, there, works))
