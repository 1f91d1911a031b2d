"""
Sync in figures, beside a pipeline without features as the limit: throughput, late join, latency, fan-out, bytes.

    python tests/bench/bench_sync.py [--short] [--json]

Replicas and servers are processes of their own and durable in SQLite. Absolute figures belong to the machine and
its load at that moment; compare the ratios of one run. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bare_pipeline
from bench_main_job import PAYLOAD, STORE, bench_end_to_end, bench_latency, schema
from bench_server import measure_fan_out, serve

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.sync.service import SyncService
from agentlayers.transport.websocket import WebSocketTransport

Figures = dict[str, float]


class Part:
    """A process of the bare pipeline, read line by line."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, "--bare", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit("a process of the bare pipeline ended early")
        return line

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def bench_bare(root: Path, entries: int) -> Figures:
    """Measure the pipeline without features, as :func:`bench_end_to_end` measures ours."""
    bare_pipeline.fill(root / "a", PAYLOAD, entries)
    server = Part("server", root / "server")
    port = server.line()
    receiver = Part("receiver", root / "b", port, entries, 0)
    receiver.line(), receiver.line()
    sender = Part("sender", root / "a", port)
    begun = float(sender.line())
    complete = float(receiver.line())
    late = Part("receiver", root / "c", port, entries, 1)
    late_begun = float(late.line())
    late.line()
    late_complete = float(late.line())
    for part in (receiver, sender, late, server):
        part.end()
    return {
        "entries_per_second": entries / (complete - begun),
        "late_join_entries_per_second": entries / (late_complete - late_begun),
    }


def bench_throughput(root: Path, entries: int) -> Figures:
    ours, bare = bench_end_to_end(root / "ours", entries), bench_bare(root / "bare", entries)
    end_to_end, late = "entries_per_second", "late_join_entries_per_second"
    return {
        "ours_end_to_end_per_second": ours[end_to_end],
        "bare_end_to_end_per_second": bare[end_to_end],
        "ours_to_bare_end_to_end": ours[end_to_end] / bare[end_to_end],
        "ours_late_join_per_second": ours[late],
        "bare_late_join_per_second": bare[late],
        "ours_to_bare_late_join": ours[late] / bare[late],
        "peak_mb_server": ours["server_peak_mb"],
        "peak_mb_receiver": ours["b_peak_mb"],
    }


def bench_fan_out(root: Path, *, subscribers: int, writes: int, window: int) -> Figures:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(root), theirs), daemon=True)
    server.start()
    try:
        return {
            "deliveries_per_second": measure_fan_out(ours.recv(), subscribers=subscribers, writes=writes, window=window)
        }
    finally:
        server.terminate()
        server.join()


class CountingProxy:
    """Passes a TCP connection on and counts what goes through."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.bytes = 0

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.bytes += len(data)
            writer.write(data)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass_on(reader, upstream_writer), self._pass_on(upstream_reader, writer))

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


async def bench_bytes(root: Path, entries: int) -> Figures:
    """Count the bytes, handshake and all, of an up-to-date replica that connects again."""
    identity = Identity.generate()
    figures: Figures = {}
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0) as server:
        proxy = CountingProxy(server.port)
        async with proxy as port:
            url = f"ws://127.0.0.1:{port}/event-log"
            for step in ("first_sync_bytes", "restart_bytes"):
                proxy.bytes = 0
                async with SQLiteJournal(root) as journal:
                    log = EventLog(journal, identity, schema())
                    await log.open()
                    async with SyncService(WebSocketTransport(url), AesGcmEncryption(), stores={STORE: True}) as sync:
                        sync.register(log)
                        if step == "first_sync_bytes":
                            await log.transact(lambda tx: [tx.write(STORE, "n", "k", PAYLOAD) for _ in range(entries)])
                        await sync.sync_now()
                        figures[step] = proxy.bytes
                        await sync.disconnect()
                        proxy.bytes = 0
                        await sync.sync_now()
                        figures["reconnect_bytes"] = proxy.bytes
    figures["first_sync_bytes_per_entry"] = figures.pop("first_sync_bytes") / entries
    return figures


async def run_bare(role: str, directory: str, *numbers: str) -> None:
    port, count, backlog = (*map(int, numbers), 0, 0, 0)[:3]
    if role == "server":
        await bare_pipeline.run_server(Path(directory))
    elif role == "sender":
        await bare_pipeline.run_sender(Path(directory), port)
    else:
        await bare_pipeline.run_receiver(Path(directory), port, count, bool(backlog))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the work, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bare", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        asyncio.run(run_bare(*arguments.bare))
        return
    scale = 10 if arguments.short else 1
    root = Path(tempfile.mkdtemp(prefix="agentlayers-bench-"))
    figures: dict[str, Figures] = {}
    try:
        for entries in (1_000, 10_000, 50_000):
            count = entries // scale
            figures[f"A -> server -> B, {count:,} entries"] = bench_throughput(root / str(entries), count)
        figures["single appends, A to B"] = bench_latency(root / "latency", 1000 // scale)
        for subscribers, writes in ((100, 500), (500, 100)):
            for window in (1, 8):
                name = f"fan-out to {subscribers}, {window} in flight"
                place = root / f"fan-out-{subscribers}-{window}"
                some = max(writes // scale, window)
                figures[name] = bench_fan_out(place, subscribers=subscribers, writes=some, window=window)
        figures["bytes on the wire"] = asyncio.run(bench_bytes(root / "bytes", 2_000 // scale))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    figures = {name: {key: round(value, 2) for key, value in part.items()} for name, part in figures.items()}
    if arguments.json:
        print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg()[0], **figures}, indent=2))
        return
    for name, part in figures.items():
        print(name)
        for key, value in part.items():
            print(f"  {key:34} {value:>12,.2f}")


if __name__ == "__main__":
    main()
