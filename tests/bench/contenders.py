"""
The sync peers that are measured beside each other: ours, a pipeline without features, and stock Effect on Node.

Each is a server, replicas in processes of their own that are driven by JSON lines, and a way to fan out. v3 speaks our
wire, so the same raw sockets measure its server; v4 has another wire, and its subscribers are RPC clients in one Node.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import bench_main_job
import raw_wire
from bench_main_job import rss_mb
from raw_wire import UnfinishedError

from agentlayers.eventlog.identity import Identity

# The npm caches are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.npm_packages import NotInstalledError, install_packages
from interop.npm_cache import install_peers

HERE = Path(__file__).parent

STOCK_NAMES = tuple(f"Effect {version}, {storage}" for version in ("v3", "v4") for storage in ("memory", "SQLite"))


_running: set[LineProcess] = set()


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """
    End the processes of a measurement that takes longer than this, and those it leaves behind.

    Raises:
        UnfinishedError: It took longer, or one of its processes ended early.
    """
    is_over = threading.Event()

    def end_all() -> None:
        for each in list(_running):
            each.process.kill()

    def give_up() -> None:
        is_over.set()
        end_all()

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        yield
    except (UnfinishedError, subprocess.TimeoutExpired) as error:
        raise UnfinishedError(f"not finished in {seconds:g} s" if is_over.is_set() else str(error)) from error
    finally:
        timer.cancel()
        end_all()
        for each in list(_running):
            each.end()


class LineProcess:
    """A process that says one JSON object when it is ready and one for each command."""

    def __init__(self, command: Sequence[object], log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        _running.add(self)
        self.facts = self.answer()

    def tell(self, action: str, **arguments: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UnfinishedError(f"a benchmark process ended early: {self._log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, action: str, **arguments: object) -> dict[str, Any]:
        self.tell(action, **arguments)
        return self.answer()

    def rss_mb(self) -> float:
        """Return the peak."""
        return float(rss_mb(self.process.pid))

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        _running.discard(self)
        with contextlib.suppress(BrokenPipeError):  # it was killed with a command on its way
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # a stock v3 client that lost its server spins
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class BareServer:
    """The server of the pipeline without features."""

    def __init__(self, place: Path) -> None:
        command = [sys.executable, HERE / "bare_pipeline.py", "server", place]
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"ws://127.0.0.1:{self.port}/"

    def rss_mb(self) -> float:
        return float(rss_mb(self.process.pid))

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()


class WatchedServer:
    """Our server, and how much it held at most of one connection."""

    def __init__(self, data: Path) -> None:
        self._server = bench_main_job.Server(data, program=[HERE / "watched_server.py"])
        self.url: str = self._server.url

    def peaks(self) -> dict[str, int]:
        """Stop it; returns bytes."""
        process = self._server.process
        process.terminate()
        said, _ = process.communicate(timeout=30)
        found: dict[str, int] = json.loads(said.splitlines()[-1])
        return found


class NodeServer(LineProcess):
    """A stock server."""

    @property
    def url(self) -> str:
        url: str = self.facts["url"]
        return url


class Server(Protocol):
    """A running server."""

    @property
    def url(self) -> str:
        """Where replicas connect to."""

    def rss_mb(self) -> float:
        """Return its peak so far."""

    def end(self) -> None:
        """Stop it."""


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


@dataclass(frozen=True)
class Contender:
    """
    One of those that are measured.

    Attributes:
        name: For the report.
        server: Starts a server that keeps its data in a place.
        replica: Starts a replica in a place, for a server's address; None if there is none of the usual kind.
        fan_out: Measures deliveries/s of a server, from subscribers, writes and the writes in flight.
        wire: How raw sockets speak to its server; None if they cannot.
        one_more: Added to numbers of entries: a stock SQL server dies of one that 200 divides (fault W2).
        entries_max: What a replica takes at once; the rest it loses.
    """

    name: str
    server: Callable[[Path], Server]
    replica: Callable[[Path, str, Identity], LineProcess] | None
    fan_out: Callable[[Server, int, int, int], float]
    wire: raw_wire.Wire | None
    one_more: int = 0
    entries_max: int | None = None


def _raw_fan_out(wire: raw_wire.Wire) -> Callable[[Server, int, int, int], float]:
    def measure(server: Server, subscribers: int, writes: int, window: int) -> float:
        counts = {"subscribers": subscribers, "writes": writes, "window": window}
        return float(raw_wire.measure_fan_out(port_of(server), **counts, wire=wire))

    return measure


def ours() -> Contender:
    """Return ours: replicas and server on SQLite, each commit synced to the disk."""

    def replica(place: Path, url: str, identity: Identity) -> LineProcess:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (place / "identity").exists():
            identity.save(place / "identity")
        return LineProcess([sys.executable, bench_main_job.__file__, "--role", place, url], place / "log")

    wire = raw_wire.EVENT_LOG
    return Contender("agentlayers", bench_main_job.Server, replica, _raw_fan_out(wire), wire)


def bare() -> Contender:
    """Return the pipeline without features, as durable as ours; its replicas are special."""
    return Contender("bare pipeline", BareServer, None, _raw_fan_out(raw_wire.BARE), None)


class NodePrograms:
    """The programs of ``peers`` beside the packages they import, which is where Node looks for these."""

    def __init__(self, node: str, modules: Path, sqlite_modules: Path | None) -> None:
        self.node = node
        self.sqlite_modules = sqlite_modules
        self._directory = Path(tempfile.mkdtemp(prefix="agentlayers-bench-node-"))
        for program in (HERE / "peers").glob("*.mjs"):
            shutil.copy(program, self._directory)
        (self._directory / "node_modules").symlink_to(modules, target_is_directory=True)

    def command(self, program: str, **options: object) -> list[object]:
        """Return what runs a program."""
        return [self.node, self._directory / f"{program}.mjs", json.dumps(options, default=str)]

    def remove(self) -> None:
        """Delete the copies."""
        shutil.rmtree(self._directory, ignore_errors=True)


def _stock(version: str, programs: NodePrograms, *, durable: bool) -> Contender:
    def kept(place: Path) -> dict[str, object]:
        place.mkdir(parents=True, exist_ok=True)
        return {"file": place / "data.sqlite", "modules": programs.sqlite_modules} if durable else {}

    def server(place: Path) -> NodeServer:
        return NodeServer(programs.command(f"{version}_server", **kept(place)), place / "log")

    def replica(place: Path, url: str, identity: Identity) -> LineProcess:
        options = {"identity": identity.encode_string(), "url": url, **kept(place)}
        return LineProcess(programs.command(f"{version}_replica", **options), place / "log")

    def rpc_fan_out(server: Server, subscribers: int, writes: int, window: int) -> float:
        options = {"subscribers": subscribers, "writes": writes, "window": window}
        command = programs.command(
            "v4_fan_out", url=server.url, identity=Identity.generate().encode_string(), **options
        )
        found = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=True)
        rate: float = json.loads(found.stdout)["deliveries_per_second"]
        return rate

    wire = raw_wire.EVENT_LOG if version == "v3" else None
    fan_out = _raw_fan_out(wire) if wire else rpc_fan_out
    name = f"Effect {version}, {'SQLite' if durable else 'memory'}"
    # v3's SQL journal inserts what came with one statement of five variables an entry; SQLite takes 32,766 of them.
    entries_max = 6_500 if version == "v3" and durable else None
    return Contender(name, server, replica, fan_out, wire, one_more=int(version == "v3"), entries_max=entries_max)


def stock_contenders() -> tuple[list[Contender], list[NodePrograms], str]:
    """
    Return the stock peers that can be had here, their programs, and why some are missing (empty if none is).

    v4 publishes no SQLite client for this version; ``peers/v4_parts.mjs`` puts better-sqlite3 behind its ``SqlClient``.
    """
    try:
        v3 = install_peers()
        v4 = install_packages("agentlayers-bench", (HERE / "peers" / "package.json").read_bytes())
    except NotInstalledError as error:
        return [], [], str(error)
    sqlite_modules = None if v3.without_sqlite else v3.modules
    old, new = NodePrograms(v3.node, v3.modules, sqlite_modules), NodePrograms(v4.node, v4.modules, sqlite_modules)
    kinds = (False,) if sqlite_modules is None else (False, True)
    peers = (("v3", old), ("v4", new))
    found = [_stock(version, programs, durable=durable) for version, programs in peers for durable in kinds]
    return found, [old, new], v3.without_sqlite
