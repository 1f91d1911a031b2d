"""
The main job's figures: durable appends, replica to replica through a server, latency, a peer that never reads.

    python tests/bench/bench_main_job.py [--short] [--json]

Server and replicas are processes of their own, everything is durable in SQLite and encrypted. Figures
vary from run to run; nothing here is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentlayers.cli.interpreter import tune_interpreter
from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.sync.service import SyncService
from agentlayers.transport.websocket import WebSocketTransport

PAYLOAD = {"text": "x" * 280, "n": 1}  # 298 bytes as MessagePack
STORE = "notes"


def schema() -> StoreSchema:
    return StoreSchema(name=STORE, project=lambda tx, entry, heads: tx.put(b"notes\x00" + entry.id, b""))


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def rss_mb(process: str | int = "self") -> float:
    """Return the peak of a process; not ru_maxrss, in which a child inherits the peak of its parent."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


async def write_notes(log: EventLog, count: int, *, batch: int) -> float:
    begun = time.perf_counter()
    for _ in range(count // batch):
        await log.journal.transact(lambda tx: [tx.write(STORE, "note", "k", PAYLOAD) for _ in range(batch)])
    return count / (time.perf_counter() - begun)


async def bench_appends(directory: Path, scale: int) -> dict[str, float]:
    """Return appends per second of one process, one awaited call after the other."""
    async with SQLiteJournal(directory / "appends") as journal:
        log = EventLog(journal, Identity.generate(), schema())
        await log.open()
        single = await write_notes(log, 3000 // scale, batch=1)
        batched = await write_notes(log, 64 * 600 // scale, batch=64)
        begun = time.perf_counter()
        concurrent = 6400 // scale
        await asyncio.gather(*(log.write("note", "k", PAYLOAD) for _ in range(concurrent)))
        together = concurrent / (time.perf_counter() - begun)
    async with SQLiteJournal(directory / "chat") as journal, ChatHistoryStore(journal, Identity.generate()) as chat:
        begun = time.perf_counter()
        for _ in range(2000 // scale):
            await chat.append("session", {"type": "user", "message": {"role": "user", "content": "x" * 200}})
        chatting = (2000 // scale) / (time.perf_counter() - begun)
    return {"single": single, "batches_of_64": batched, "concurrent": together, "chat_append": chatting}


def bench_bare_sqlite(directory: Path, scale: int) -> dict[str, float]:
    """Return what SQLite itself reaches at the same durability, as the limit to compare with."""
    figures = {}
    with contextlib.closing(sqlite3.connect(directory / "bare.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE entry (position INTEGER PRIMARY KEY, id BLOB UNIQUE, payload BLOB)")
        for name, count, batch in (("single", 3000 // scale, 1), ("batches_of_64", 64 * 600 // scale, 64)):
            begun = time.perf_counter()
            for _ in range(count // batch):
                database.execute("BEGIN IMMEDIATE")
                rows = [(os.urandom(16), b"x" * 298) for _ in range(batch)]
                database.executemany("INSERT INTO entry (id, payload) VALUES (?, ?)", rows)
                database.execute("COMMIT")
            figures[name] = count / (time.perf_counter() - begun)
    return figures


class Replica:
    """A replica process of the benchmark, driven by lines on standard input."""

    def __init__(self, directory: Path, url: str) -> None:
        self._directory, self._url = directory, url

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with SQLiteJournal(self._directory) as journal:
            identity = Identity.load_or_create(self._directory / "identity")
            log = EventLog(journal, identity, schema())
            await log.open()
            transport = WebSocketTransport(self._url)
            sync = SyncService(transport, AesGcmEncryption(), stores={STORE: True})
            async with sync:
                await sync.disconnect()
                sync.register(log)
                say(ready=True)
                while line := await reader.readline():
                    command = json.loads(line)
                    await getattr(self, command.pop("do"))(log, sync, **command)

    async def write(self, log: EventLog, sync: SyncService, count: int) -> None:
        await write_notes(log, count, batch=100)
        say(wrote=count)

    async def connect(self, log: EventLog, sync: SyncService) -> None:
        say(connecting=time.monotonic())
        await sync.connect()

    async def await_entries(self, log: EventLog, sync: SyncService, count: int) -> None:
        """Tell when so many entries are durable and in the read model; nothing else is in this journal."""
        complete = asyncio.Event()
        stop = log.journal.on_commit(lambda commit: complete.set() if commit.last_position >= count else None)
        if await log.journal.read(lambda tx: tx.next_position()) <= count:
            await complete.wait()
        stop()
        say(complete=time.monotonic(), rss_mb=rss_mb(), cpu=time.process_time())

    async def follow(self, log: EventLog, sync: SyncService, count: int) -> None:
        """Tell when each received entry is projected."""
        times: dict[str, float] = {}
        changes = log.changes()
        async for stored in changes:
            times[stored.entry.id.hex()] = time.monotonic()
            if len(times) == count:
                break
        say(times=times)

    async def trickle(self, log: EventLog, sync: SyncService, count: int, pause: float) -> None:
        times = {}
        for _ in range(count):
            begun = time.monotonic()
            entry = await log.write("note", "k", PAYLOAD)
            times[entry.id.hex()] = begun
            await asyncio.sleep(pause)
        say(times=times)

    async def report(self, log: EventLog, sync: SyncService) -> None:
        say(rss_mb=rss_mb(), cpu=time.process_time())


class Child:
    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer()

    def tell(self, action: str, **arguments: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a benchmark process ended early")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, action: str, **arguments: object) -> dict[str, Any]:
        self.tell(action, **arguments)
        return self.answer()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


class Server:
    def __init__(self, data: Path, *, program: Sequence[object] = ("-m", "agentlayers", "serve")) -> None:
        command = [sys.executable, *map(str, program), "--data", str(data), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def rss_mb(self) -> float:
        return rss_mb(self.process.pid)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def identity_in(*directories: Path) -> None:
    identity = Identity.generate()
    for directory in directories:
        directory.mkdir(parents=True, mode=0o700)
        identity.save(directory / "identity")


def bench_end_to_end(root: Path, entries: int) -> dict[str, float]:
    a_dir, b_dir, c_dir = root / "a", root / "b", root / "c"
    identity_in(a_dir, b_dir, c_dir)
    server = Server(root / "server")
    a, b = (Child("--role", str(directory), server.url) for directory in (a_dir, b_dir))
    a.ask("write", count=entries)
    b.ask("connect")
    b.tell("await_entries", count=entries)
    begun = a.ask("connect")["connecting"]
    complete = b.answer()
    late = Child("--role", str(c_dir), server.url)
    late.tell("connect")
    late_begun = late.answer()["connecting"]
    late_complete = late.ask("await_entries", count=entries)
    figures = {
        "entries_per_second": entries / (complete["complete"] - begun),
        "late_join_entries_per_second": entries / (late_complete["complete"] - late_begun),
        "server_peak_mb": server.rss_mb(),
        "a_peak_mb": a.ask("report")["rss_mb"],
        "b_peak_mb": complete["rss_mb"],
    }
    for process in (a, b, late, server):
        process.end()
    return figures


def bench_latency(root: Path, entries: int) -> dict[str, float]:
    a_dir, b_dir = root / "a", root / "b"
    identity_in(a_dir, b_dir)
    server = Server(root / "server")
    a, b = (Child("--role", str(directory), server.url) for directory in (a_dir, b_dir))
    for child in (a, b):
        child.ask("connect")
    b.tell("follow", count=entries)
    a.tell("trickle", count=entries, pause=0.003)
    written = a.answer()["times"]
    seen = b.answer()["times"]
    for process in (a, b, server):
        process.end()
    milliseconds = sorted((seen[entry] - at) * 1000 for entry, at in written.items())
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": milliseconds[-1]}


async def bench_never_reads(root: Path, entries: int) -> dict[str, float]:
    """Let subscribers stop reading while a replica pushes; the server's memory is what matters."""
    import aiohttp

    from agentlayers.protocol.codec import encode_message
    from agentlayers.protocol.messages import RequestChanges

    a_dir = root / "a"
    identity_in(a_dir)
    server = Server(root / "server")
    public_key = Identity.load(a_dir / "identity").for_store(STORE).public_key
    before = server.rss_mb()
    async with aiohttp.ClientSession() as session:
        lazy = [await session.ws_connect(server.url, max_msg_size=0, receive_timeout=None) for _ in range(20)]
        for socket in lazy:
            await socket.receive_bytes()
            await socket.send_bytes(encode_message(RequestChanges(public_key, 0)))
            socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
        a = await asyncio.to_thread(Child, "--role", str(a_dir), server.url)
        await asyncio.to_thread(a.ask, "write", count=entries)
        begun = (await asyncio.to_thread(a.ask, "connect"))["connecting"]
        b_dir = root / "b"
        b_dir.mkdir(mode=0o700)
        shutil.copy(a_dir / "identity", b_dir / "identity")
        b = await asyncio.to_thread(Child, "--role", str(b_dir), server.url)
        await asyncio.to_thread(b.ask, "connect")
        complete = await asyncio.to_thread(b.ask, "await_entries", count=entries)
        peak = server.rss_mb()
        for child in (a, b):
            await asyncio.to_thread(child.end)
    server.end()
    return {
        "subscribers_that_never_read": len(lazy),
        "server_mb_before": before,
        "server_mb_peak": peak,
        "megabytes_offered": 20 * entries * 400 / 1e6,
        "entries_per_second_meanwhile": entries / (complete["complete"] - begun),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the work, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", nargs=2, metavar=("DIRECTORY", "URL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        tune_interpreter()
        asyncio.run(Replica(Path(arguments.role[0]), arguments.role[1]).run())
        return
    scale = 10 if arguments.short else 1
    root = Path(tempfile.mkdtemp(prefix="agentlayers-bench-"))
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "bare sqlite3, the same durability": lambda: bench_bare_sqlite(root, scale),
        "durable appends per second": lambda: asyncio.run(bench_appends(root / "1", scale)),
        "A -> server -> B": lambda: bench_end_to_end(root / "2", 10_000 // scale),
        "latency of single appends, A to B": lambda: bench_latency(root / "3", 1000 // scale),
        "subscribers that never read": lambda: asyncio.run(bench_never_reads(root / "4", 20_000 // scale)),
    }
    try:
        figures = {name: {key: round(value, 2) for key, value in part().items()} for name, part in parts.items()}
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if arguments.json:
        print(json.dumps({"cpus": os.cpu_count(), **figures}, indent=2))
        return
    for name, values in figures.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:34} {value:>12,.2f}")


if __name__ == "__main__":
    main()
