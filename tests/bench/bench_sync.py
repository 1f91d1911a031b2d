"""
Sync in figures, beside a pipeline without features as the limit and stock Effect peers on Node.

    python tests/bench/bench_sync.py [--quick] [--runs 3] [--only PART ...] [--json]

Throughput A -> server -> B, late join, latency, fan-out, bytes, and memory with peers that misbehave. Replicas and
servers are processes of their own. Absolute figures belong to the machine and its load at that moment; compare the
ratios of one run. What needs Node is left out, with the reason, where that is absent. Nothing here is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import bare_pipeline
import raw_wire
from bench_main_job import PAYLOAD
from contenders import (
    HERE,
    STOCK_NAMES,
    BareServer,
    Contender,
    Server,
    WatchedServer,
    bare,
    ours,
    port_of,
    stock_contenders,
    time_limit,
)
from raw_wire import UnfinishedError

from agentlayers.eventlog.identity import Identity

Figures = dict[str, float]
PARTS = ("throughput", "latency", "fan-out", "bytes", "memory")
SUBSCRIBED_SECONDS = 0.5
"""What a replica gets to subscribe before what is timed begins."""


@contextlib.contextmanager
def served(contender: Contender, place: Path) -> Iterator[Server]:
    server = contender.server(place)
    try:
        yield server
    finally:
        server.end()


# -- throughput ---------------------------------------------------------------------------------------------


def throughput(contender: Contender, root: Path, entries: int) -> Figures:
    """Measure from A's connecting to B's last entry, and the same for a replica that joins when all is there."""
    if contender.replica is None:
        return bare_throughput(root, entries)
    if contender.entries_max is not None and entries > contender.entries_max:
        raise UnfinishedError(f"its replicas lose what exceeds {contender.entries_max:,} entries at once")
    entries += contender.one_more
    identity = Identity.generate()
    with served(contender, root / "server") as server:
        a, b = (contender.replica(root / name, server.url, identity) for name in "ab")
        a.ask("write", count=entries)
        b.ask("connect")
        time.sleep(SUBSCRIBED_SECONDS)
        b.tell("await_entries", count=entries)
        begun = a.ask("connect")["connecting"]
        complete = b.answer()
        late = contender.replica(root / "late", server.url, identity)
        late.tell("connect")
        late_begun = late.answer()["connecting"]
        late_complete = late.ask("await_entries", count=entries)
        figures = {
            "end to end/s": entries / (complete["complete"] - begun),
            "late join/s": entries / (late_complete["complete"] - late_begun),
            "peak MB server": server.rss_mb(),
            "peak MB A": a.rss_mb(),
            "peak MB B": b.rss_mb(),
        }
        for replica in (a, b, late):
            replica.end()
    return figures


class BarePart:
    """A process of the bare pipeline, read line by line."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, HERE / "bare_pipeline.py", *arguments]
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise UnfinishedError("a process of the bare pipeline ended early")
        return line

    def end(self) -> None:
        assert self.process.stdout is not None
        self.process.terminate()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def bare_throughput(root: Path, entries: int) -> Figures:
    bare_pipeline.fill(root / "a", PAYLOAD, entries)
    server = BareServer(root / "server")
    receiver = BarePart("receiver", root / "b", server.port, entries, 0)
    receiver.line(), receiver.line()
    time.sleep(SUBSCRIBED_SECONDS)
    sender = BarePart("sender", root / "a", server.port)
    begun = float(sender.line())
    complete = float(receiver.line())
    late = BarePart("receiver", root / "c", server.port, entries, 1)
    late_begun = float(late.line())
    late.line()
    late_complete = float(late.line())
    figures = {
        "end to end/s": entries / (complete - begun),
        "late join/s": entries / (late_complete - late_begun),
        "peak MB server": server.rss_mb(),
    }
    for part in (receiver, sender, late, server):
        part.end()
    return figures


# -- latency ------------------------------------------------------------------------------------------------


def latency(contender: Contender, root: Path, entries: int) -> Figures:
    """Measure from A's write call to B's handler, one entry at a time with a pause between."""
    if contender.replica is None:
        return {}
    is_slow = "v3" in contender.name  # half a second each, by design
    count, pause = (min(entries, 20), 0.02) if is_slow else (entries, 0.003)
    identity = Identity.generate()
    with served(contender, root / "server") as server:
        a, b = (contender.replica(root / name, server.url, identity) for name in "ab")
        for replica in (a, b):
            replica.ask("connect")
        time.sleep(2 * SUBSCRIBED_SECONDS)
        b.tell("follow", count=count)
        a.tell("trickle", count=count, pause=pause)
        written, seen = a.answer()["times"], b.answer()["times"]
        for replica in (a, b):
            replica.end()
    milliseconds = sorted((seen[entry] - at) * 1000 for entry, at in written.items())
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"p50 ms": cuts[49], "p99 ms": cuts[98], "max ms": milliseconds[-1]}


# -- fan-out ------------------------------------------------------------------------------------------------


def fan_out(contender: Contender, root: Path, subscribers: int, writes: int, window: int) -> Figures:
    with served(contender, root / "server") as server:
        rate = contender.fan_out(server, subscribers, writes, window)
        return {"deliveries/s": rate, "peak MB server": server.rss_mb()}


# -- bytes --------------------------------------------------------------------------------------------------


class CountingProxy:
    """Passes TCP connections on, in a thread of its own, and counts what goes through."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.bytes = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.bytes += len(data)
                writer.write(data)
        except OSError:  # cut by one side, which the other is told of
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        with contextlib.suppress(asyncio.CancelledError):  # closed with the measurement
            await asyncio.gather(self._pass_on(reader, upstream_writer), self._pass_on(upstream_reader, writer))


def bytes_on_the_wire(contender: Contender, root: Path, entries: int) -> Figures:
    """
    Count the bytes, handshake and all, of a first sync and of the same replica's next start, when nothing is new.

    A peer whose journal is in memory has to be sent everything again, and sends it.
    """
    if contender.replica is None:
        return {}
    entries += contender.one_more
    identity = Identity.generate()
    with served(contender, root / "server") as server:
        proxy = CountingProxy(port_of(server))
        url = server.url.replace(str(port_of(server)), str(proxy.port))
        counted = []
        for step in range(2):
            replica = contender.replica(root / "a", url, identity)
            if step == 0:
                replica.ask("write", count=entries)
            proxy.bytes = 0
            replica.ask("connect")
            _until_quiet(proxy)
            counted.append(proxy.bytes)
            replica.end()
        proxy.close()
    return {"first sync, bytes an entry": counted[0] / entries, "next start, bytes": counted[1]}


def _until_quiet(proxy: CountingProxy) -> None:
    before = -1
    while proxy.bytes != before:
        before = proxy.bytes
        time.sleep(2 * SUBSCRIBED_SECONDS)


# -- memory -------------------------------------------------------------------------------------------------


def memory(contender: Contender, root: Path, writes: int) -> Figures:
    """Show the server's peak, and for ours what it queues, when a writer floods it and 20 subscribers never read."""
    if contender.wire is None:
        return {}
    figures: Figures = {}
    for name, never_reading in (("floods", 0), ("floods, 20 never read", 20)):
        with served(contender, root / name) as server:
            before = server.rss_mb()
            rate = raw_wire.flood(port_of(server), writes, never_reading=never_reading, wire=contender.wire)
            figures |= {f"{name}: entries/s": rate, f"{name}: more MB": server.rss_mb() - before}
        if contender.name == "agentlayers":
            watched = WatchedServer(root / f"{name}, watched")
            raw_wire.flood(port_of(watched), writes, never_reading=never_reading, wire=contender.wire)
            figures |= {f"{name}: KB {what}": peak / 1e3 for what, peak in watched.peaks().items()}
    figures["MB offered to those"] = 20 * writes * raw_wire.CIPHERTEXT_BYTES / 1e6
    return figures


# -- the report ---------------------------------------------------------------------------------------------


@dataclass
class Report:
    """
    Figures by what was measured, contender and kind.

    Attributes:
        runs: Medians of so many are kept.
        limit: Seconds for one run of one contender.
        root: Where runs keep their files.
        loud: Print each figure as it is found.
        parts: The figures.
        unfinished: Why a contender has none, by what was measured and contender.
    """

    runs: int
    limit: float
    root: Path
    loud: bool
    parts: dict[str, dict[str, Figures]] = field(default_factory=dict)
    unfinished: dict[str, dict[str, str]] = field(default_factory=dict)

    def measure(self, name: str, contender: Contender, run: Callable[[Path], Figures]) -> None:
        """Keep the medians of some runs, or why there are none."""
        found = []
        try:
            for _ in range(self.runs):
                with tempfile.TemporaryDirectory(dir=self.root) as place, time_limit(self.limit):
                    found.append(run(Path(place)))
        except UnfinishedError as error:
            self.unfinished.setdefault(name, {})[contender.name] = str(error)
            self._say(name, contender, f"  {error}")
            return
        medians = {key: statistics.median(each[key] for each in found) for key in found[0]}
        if medians:
            self.parts.setdefault(name, {})[contender.name] = medians
            self._say(name, contender, "".join(f"  {key} {value:,.1f}" for key, value in medians.items()))

    def _say(self, name: str, contender: Contender, text: str) -> None:
        if not self.loud:
            print(f"{name}: {contender.name}{text}", file=sys.stderr, flush=True)
            return
        if len(self.parts.get(name, ())) + len(self.unfinished.get(name, ())) == 1:
            print(f"\n{name}")
        print(f"  {contender.name:20}{text}", flush=True)

    def ratios(self) -> dict[str, Figures]:
        """Divide our rates by the others'."""
        found: dict[str, Figures] = {}
        for name, part in self.parts.items():
            mine = part.get("agentlayers")
            for contender, figures in part.items() if mine else ():
                rates = [key for key in figures if key.endswith("/s") and contender != "agentlayers"]
                for key in rates:
                    assert mine is not None
                    found.setdefault(f"{name}: {key}", {})[contender] = mine[key] / figures[key]
        return found

    def goals(self) -> dict[str, tuple[float, str]]:
        """Return what issue 5 asks for, with what was measured."""
        ratios, found = self.ratios(), {}
        for name, part in self.parts.items():
            mine = part.get("agentlayers", {})
            for key in ("end to end/s", "late join/s"):
                for contender, ratio in ratios.get(f"{name}: {key}", {}).items():
                    wanted = ">= 0.4" if contender == "bare pipeline" else ">= 1" if "v4" in contender else ""
                    if wanted:
                        found[f"{name}: {key}, ours / {contender}"] = (ratio, wanted)
            for key, wanted in (("p50 ms", "<= 5"), ("p99 ms", "<= 30"), ("next start, bytes", "<= 1024")):
                if key in mine:
                    found[f"{name}: {key}"] = (mine[key], wanted)
            if "deliveries/s" in mine:
                found[f"{name}: deliveries/s"] = (mine["deliveries/s"], ">= 80,000" if ", 1 " in name else ">= 250,000")
        return found


Measurement = Callable[[Contender, Path], Figures]


def measurements(parts: Sequence[str], *, quick: bool) -> Iterator[tuple[str, Measurement]]:
    """Name what is measured and how, in the order of the report."""
    if "throughput" in parts:
        for entries in (200,) if quick else (1_000, 10_000, 50_000):
            yield f"A -> server -> B, {entries:,} entries", partial(_with, throughput, entries)
    if "latency" in parts:
        yield "one entry, A's write to B's handler", partial(_with, latency, 100 if quick else 1_000)
    if "fan-out" in parts:
        for subscribers, writes in ((20, 20),) if quick else ((100, 1_000), (500, 200)):
            for window in (1, 8):
                yield (
                    f"fan-out to {subscribers}, {window} in flight",
                    partial(_with, fan_out, subscribers, writes, window),
                )
    if "bytes" in parts:
        yield "bytes on the wire", partial(_with, bytes_on_the_wire, 200 if quick else 2_000)
    if "memory" in parts:
        yield "memory of the server", partial(_with, memory, 500 if quick else 20_000)


def _with(run: Callable[..., Figures], *arguments: Any) -> Figures:
    *numbers, contender, root = arguments
    return run(contender, root, *numbers)


def wants_stock(names: Sequence[str]) -> bool:
    return any(name in known for name in names for known in STOCK_NAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--short", action="store_true", help="little work, to see that it runs")
    parser.add_argument("--runs", type=int, default=1, help="report medians of so many")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit", type=float, default=180, help="seconds for one run of one peer; longer is given up")
    parser.add_argument("--peers", nargs="+", default=[""], help="only those with one of these in their name")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stock, programs, missing = stock_contenders() if wants_stock(arguments.peers) else ([], [], "")
    root = Path(tempfile.mkdtemp(prefix="agentlayers-bench-"))
    report = Report(arguments.runs, arguments.limit, root, loud=not arguments.json)
    load = os.getloadavg()[0]
    try:
        for name, measurement in measurements(arguments.only, quick=arguments.quick):
            for contender in [ours(), bare(), *stock]:
                if any(peer in contender.name for peer in arguments.peers):
                    report.measure(name, contender, partial(measurement, contender))
    finally:
        shutil.rmtree(root, ignore_errors=True)
        for each in programs:
            each.remove()
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "load_before": load, "runs": arguments.runs, "stock_missing": missing}
        found = {"ratios": report.ratios(), "goals": report.goals(), "unfinished": report.unfinished}
        print(json.dumps({**machine, **report.parts, **found}, indent=2))
        return
    print("\nours / theirs")
    for name, row in report.ratios().items():
        print(f"  {name:50}" + "".join(f"  {contender} {ratio:.2f}" for contender, ratio in row.items()))
    print("\ngoals")
    for name, (value, wanted) in report.goals().items():
        print(f"  {name:75} {value:>12,.2f}  wanted {wanted}")
    if missing:
        print(f"\nstock peers: {missing}")
    print(f"\n{os.cpu_count()} cores, 1-minute load before {load:.1f} and after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
