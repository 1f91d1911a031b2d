"""
Where the time of a synced entry goes, stage by stage, and what a delivery costs.

    python tests/bench/bench_stages.py [--short] [--json]

Each stage runs the real code alone, on batches as sync sends them, in this process: CPU microseconds an entry, the
best of several rounds, so that a busy machine changes little. A commit also waits for the disk; that wait is given
apart, and goes on beside the other stages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_main_job import PAYLOAD, STORE
from raw_wire import random_entries

from agentlayers import limits
from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.entry_codec import decode_entry, encode_entry
from agentlayers.protocol.messages import Changes, EncryptedEntry, RemoteEncryptedEntry, WriteEntries
from agentlayers.protocol.sequence_digest import EMPTY_DIGEST, extend_digest
from agentlayers.protocol.server_session import encode_changes_frames
from agentlayers.server import SQLiteServerStorage
from agentlayers.server.broadcast import Broadcast

BATCH = limits.PUSH_BATCH_ENTRIES_MAX
REMOTE = bytes(15) + b"\x01"


@dataclass
class Stage:
    """One row of the table: CPU microseconds an entry, and microseconds of waiting beside them."""

    place: str
    name: str
    cpu: float
    wait: float = 0.0


def best(rounds: int, entries: int, run: Callable[[], object]) -> float:
    """Return CPU microseconds an entry."""
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found) * 1e6 / entries


async def best_of(rounds: int, entries: int, run: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the same of all threads for something that also waits, and the wait."""
    found = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        await run()
        spent = time.process_time() - cpu
        found.append((spent, max(time.perf_counter() - wall - spent, 0.0)))
    cpu, wait = min(found)
    return cpu * 1e6 / entries, wait * 1e6 / entries


def note_schema(*, projects: bool) -> StoreSchema:
    if projects:
        return StoreSchema(name=STORE, project=lambda tx, entry, heads: tx.put(b"notes\x00" + entry.id, b""))
    return StoreSchema(name=STORE)


async def sender(root: Path, rounds: int) -> tuple[list[Stage], list[EncryptedEntry]]:
    """Measure A, which reads what is pending, seals it and puts it in frames."""
    identity, encryption = Identity.generate(), AesGcmEncryption()
    async with SQLiteJournal(root) as journal:
        log = EventLog(journal, identity, note_schema(projects=True))
        await log.open()
        await journal.transact(lambda tx: tx.remember_remote(STORE, REMOTE, url="ws://bench"))
        cpu, wait = await best_of(
            rounds,
            BATCH,
            lambda: journal.transact(lambda tx: [tx.write(STORE, "note", "k", PAYLOAD) for _ in range(BATCH)]),
        )
        stages = [Stage("A", "write, projected and committed", cpu, wait)]

        async def read() -> Sequence[Any]:
            return await journal.uncommitted(STORE, REMOTE, after=0, entries_max=BATCH, bytes_max=1 << 30)

        pending = await read()
        stages.append(Stage("A", "read what is pending", *await best_of(rounds, BATCH, read)))
    entries = [stored.entry for stored in pending]
    plain = [encode_entry(*entry) for entry in entries]
    key = identity.for_store(STORE).private_key
    sealed = [EncryptedEntry(entry.id, *encryption.seal(key, data)) for entry, data in zip(entries, plain, strict=True)]
    message = WriteEntries("key", 1, sealed)
    stages += [
        Stage("A", "encode", best(rounds, BATCH, lambda: [encode_entry(*entry) for entry in entries])),
        Stage("A", "seal", best(rounds, BATCH, lambda: [encryption.seal(key, data) for data in plain])),
        Stage("A", "frame", best(rounds, BATCH, lambda: encode_message(message, entry_nonces=True))),
    ]
    return stages, sealed


async def server(root: Path, rounds: int, sealed: Sequence[EncryptedEntry]) -> list[Stage]:
    """Measure the server, which reads a frame, stores it and tells the others."""
    frame = encode_message(WriteEntries("key", 1, sealed), entry_nonces=True)
    size = len(sealed[0].ciphertext)
    batches = iter([random_entries(BATCH, size) for _ in range(rounds)])
    async with SQLiteServerStorage(root) as storage:
        await storage.append("default", "key", random_entries(1, size))
        commit = await best_of(rounds, BATCH, lambda: storage.append("default", "key", next(batches)))
        read = await best_of(
            rounds, BATCH, lambda: storage.read("default", "key", 0, entries_max=BATCH, bytes_max=1 << 30)
        )
    new = numbered(sealed)
    ids = [entry.entry_id for entry in sealed]
    return [
        Stage("server", "parse", best(rounds, BATCH, lambda: decode_message(frame))),
        Stage("server", "commit, with digest and index", *commit),
        Stage("server", "of which digest", best(rounds, BATCH, lambda: extend_digest(EMPTY_DIGEST, 0, ids))),
        Stage("server", "encode Changes, once for all", best(rounds, BATCH, lambda: changes(new))),
        Stage("server", "read a backlog (late join)", *read),
    ]


def numbered(sealed: Sequence[EncryptedEntry]) -> list[RemoteEncryptedEntry]:
    return [RemoteEncryptedEntry(number, one.iv, one.entry_id, one.ciphertext) for number, one in enumerate(sealed)]


def changes(new: Sequence[RemoteEncryptedEntry]) -> bytes:
    return Broadcast(encode_changes_frames("key", new, len(new), iter(range(10)).__next__)).websocket


async def receiver(root: Path, rounds: int) -> list[Stage]:
    """Measure B, which opens what comes and brings it into its journal and read models."""
    identity, encryption = Identity.generate(), AesGcmEncryption()
    key = identity.for_store(STORE).private_key
    async with SQLiteJournal(root / "source") as journal:
        log = EventLog(journal, identity, note_schema(projects=True))
        await log.open()
        for _ in range(rounds):
            await journal.transact(lambda tx: [tx.write(STORE, "note", "k", PAYLOAD) for _ in range(BATCH)])
        entries = [stored.entry for stored in await journal.entries(STORE, entries_max=BATCH * rounds)]
    first = entries[:BATCH]
    sealed = [EncryptedEntry(entry.id, *encryption.seal(key, encode_entry(*entry))) for entry in first]
    frame = encode_message(Changes("key", numbered(sealed), BATCH))
    plain = [encode_entry(*entry) for entry in first]
    stages = [
        Stage("B", "parse", best(rounds, BATCH, lambda: decode_message(frame))),
        Stage(
            "B",
            "open",
            best(rounds, BATCH, lambda: [encryption.open_sealed(key, one.iv, one.ciphertext) for one in sealed]),
        ),
        Stage("B", "decode", best(rounds, BATCH, lambda: [Entry(*decode_entry(data)) for data in plain])),
    ]
    commits = {}
    for projects in (False, True):
        async with SQLiteJournal(root / f"b-{projects}") as journal:
            log = EventLog(journal, identity, note_schema(projects=projects))
            await log.open()
            commits[projects] = await _take_over(journal, entries, rounds)
    (bare, bare_wait), (whole, wait) = commits[False], commits[True]
    stages.append(Stage("B", "journal commit, with cursor", bare, bare_wait))
    stages.append(Stage("B", "projection of one row", max(whole - bare, 0.0), max(wait - bare_wait, 0.0)))
    return stages


async def _take_over(journal: SQLiteJournal, entries: Sequence[Entry], rounds: int) -> tuple[float, float]:
    starts = iter(range(0, BATCH * rounds, BATCH))

    async def take_over() -> None:
        start = next(starts)
        some = [RemoteEntry(start + number, entry) for number, entry in enumerate(entries[start : start + BATCH])]
        await journal.transact(lambda tx: tx.write_from_remote(STORE, REMOTE, some, through=start + BATCH))

    return await best_of(rounds, BATCH, take_over)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds = 3 if arguments.short else 30

    async def measure(root: Path) -> list[Stage]:
        stages, sealed = await sender(root / "a", rounds)
        return [*stages, *await server(root / "server", rounds, sealed), *await receiver(root / "b", rounds)]

    with tempfile.TemporaryDirectory() as directory:
        stages = asyncio.run(measure(Path(directory)))
    if arguments.json:
        rows = [{"place": one.place, "stage": one.name, "cpu_us": one.cpu, "wait_us": one.wait} for one in stages]
        print(json.dumps({"cpus": os.cpu_count(), "batch": BATCH, "stages": rows}, indent=2))
        return
    print(f"microseconds an entry, in batches of {BATCH}\n\n{'':42}{'CPU':>8}{'wait':>8}")
    for one in stages:
        print(f"{one.place:8}{one.name:34}{one.cpu:8.2f}{one.wait:8.2f}")


if __name__ == "__main__":
    main()
