"""Crashes and neighbours: what was acknowledged survives SIGKILL, and two processes share one file."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.key_value.keys import pack_key
from agentlayers.testing.contracts.event_journal_world import notes

WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from agentlayers.journal.compaction import ByCount
    from agentlayers.journal.entry import RemoteEntry
    from agentlayers.journal.sqlite import SQLiteJournal
    from agentlayers.testing.contracts.event_journal_world import REMOTE, entry_at, notes

    async def main(directory, name, count, keep):
        async with SQLiteJournal(directory) as journal:
            await journal.register(notes())

            async def write(number):
                entry = await journal.write("notes", "line", f"{name}:{number}", {"text": "x" * 300})
                print(entry.id.hex(), flush=True)

            async def take(number):
                batch = [entry_at(1_700_000_000_000 + number, salt=hash((name, number, n))) for n in range(5)]
                await journal.write_from_remote("notes", REMOTE, [RemoteEntry(n, e) for n, e in enumerate(batch)])
                for entry in batch:
                    print(entry.id.hex(), flush=True)

            async def compact():
                while True:
                    await journal.compact("notes", ByCount(keep))

            cleanup = asyncio.ensure_future(compact()) if keep else None
            number = 0
            while count < 0 or number < count:
                await asyncio.gather(*(write(number + at) for at in range(5)))
                if keep:
                    await take(number)
                    await journal.transact(lambda tx: tx.retire_remote("notes", REMOTE))
                number += 5

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    """
)


def start(directory: Path, name: str, count: int, keep: int = 0) -> subprocess.Popen[str]:
    """Start a process that appends and prints what was acknowledged; with ``keep`` it imports and compacts too."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), name, str(count), str(keep)],
        stdout=subprocess.PIPE,
        text=True,
    )


async def check(directory: Path, acknowledged: Collection[str] = ()) -> set[str]:
    """
    Open the journal; check that nothing is there twice and that the read model is complete.

    Returns the ids that are there, and those of ``acknowledged`` that were compacted.
    """
    async with SQLiteJournal(directory) as journal:
        await journal.register(notes())
        stored = await journal.entries(entries_max=1_000_000)
        lines = await journal.read(
            lambda tx: [key for key, _ in tx.scan(pack_key("notes", "line"), pack_key("notes", "linf"))]
        )
        told = [bytes.fromhex(entry_id) for entry_id in acknowledged]
        compacted = await journal.read(lambda tx: tx.compacted(tx.store_number("notes"), told))
    ids = [item.entry.id for item in stored]

    assert max(Counter(ids).values(), default=1) == 1
    assert sorted(pack_key("notes", "line", entry_id) for entry_id in ids) == sorted(lines)
    assert compacted.isdisjoint(ids)
    return {entry_id.hex() for entry_id in [*ids, *compacted]}


@pytest.mark.parametrize(
    ("kills", "keep"), [(5, 0), (5, 40), pytest.param(200, 40, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, kills: int, keep: int) -> None:
    acknowledged: set[str] = set()
    chance = random.Random(3)
    for attempt in range(kills):
        process = start(tmp_path, str(attempt), -1, keep)
        assert process.stdout is not None
        for _ in range(chance.randint(20, 200)):
            acknowledged.add(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().splitlines()
        acknowledged.update(line for line in rest if len(line) == 32)
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL

        assert acknowledged <= asyncio.run(check(tmp_path, acknowledged))


async def test_two_processes_write_one_file_and_see_each_other(tmp_path: Path) -> None:
    async with SQLiteJournal(tmp_path) as journal:
        await journal.register(notes())
        changes = journal.changes("notes")
        process = start(tmp_path, "other", 100)
        mine = [await journal.write("notes", "line", f"mine:{number}", {}) for number in range(100)]
        followed = []
        async with asyncio.timeout(20):
            async for stored in changes:
                followed.append(stored)
                if len(followed) == 200:
                    break
        out, _ = await asyncio.to_thread(process.communicate)
        positions = [stored.position for stored in followed]

    theirs = set(out.split())
    assert process.returncode == 0
    assert {stored.entry.id.hex() for stored in followed} == {entry.id.hex() for entry in mine} | theirs
    assert sorted(set(positions)) == positions
    assert len(await asyncio.to_thread(lambda: asyncio.run(check(tmp_path)))) == 200


async def test_many_processes_may_start_at_once(tmp_path: Path) -> None:
    """None fails, and all use the one file that was linked into place."""
    processes = [start(tmp_path / "new", str(number), 10) for number in range(4)]
    outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in processes))

    assert [process.returncode for process in processes] == [0] * 4
    written = {line for out, _ in outputs for line in out.split()}
    assert written == await asyncio.to_thread(lambda: asyncio.run(check(tmp_path / "new")))


async def test_a_follower_hears_of_another_process_after_own_silence(tmp_path: Path) -> None:
    """Even when the last own commit, which added nothing, was the first to notice the other's."""
    async with SQLiteJournal(tmp_path) as mine, SQLiteJournal(tmp_path) as other:
        await mine.register(notes())
        await other.register(notes())
        heard = asyncio.Event()
        mine.on_commit(lambda _commit: heard.set())
        await other.write("notes", "line", "a", {})
        await mine.transact(lambda tx: tx.put(b"notes\x00x", b"1"))

        await asyncio.wait_for(heard.wait(), 5)
