"""
The runtime in figures: what recording adds to a message, how many queries a second, a hundred of them at once.

    python tests/bench/bench_runtime.py [--quick] [--json]

Everything is durable in SQLite with ``synchronous=FULL``. The time of one bare commit in the same rhythm is measured
beside it, because that is what a durable message cannot be faster than. Absolute figures belong to the machine and its
load at that moment. Nothing here is asserted, but for the hundred queries: each must be recorded, synced and equal.
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
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.runtime import AgentRuntime, QuerySupervisor, RuntimeSettings, Say, Script, ScriptedBackend, Turn
from agentlayers.runtime.backend import AgentBackend, BackendQuery, Prompt
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.options import QueryOptions
from agentlayers.runtime.settings import SupervisorSettings
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.digest import journal_digest
from agentlayers.sync.service import SyncService
from agentlayers.transport.websocket import WebSocketTransport

Figures = dict[str, float]

TEXT = "x" * 200
CHAT, AUDIT = "chat_history", "audit_log"


class PacedQuery(BackendQuery):
    """Says so many messages in an even rhythm, and notes when each was there."""

    def __init__(self, count: int, pause: float) -> None:
        self._count, self._pause = count, pause
        self.said_at: list[float] = []

    async def __aiter__(self) -> AsyncIterator[AgentMessage]:
        for number in range(self._count):
            await asyncio.sleep(self._pause)
            content = [{"type": "text", "text": TEXT}]
            message = {"role": "assistant", "content": content, "id": f"msg_{number}"}
            frame = {"type": "assistant", "session_id": "s", "uuid": str(number), "message": message}
            self.said_at.append(time.perf_counter())
            yield AgentMessage(frame)

    async def send(self, message: Mapping[str, Any]) -> None:
        raise NotImplementedError

    async def close_input(self) -> None: ...

    async def interrupt(self) -> None: ...

    async def set_model(self, model: str | None) -> None: ...

    async def set_permission_mode(self, mode: str) -> None: ...

    async def aclose(self) -> None: ...


class PacedBackend(AgentBackend):
    def __init__(self, count: int, pause: float) -> None:
        self._count, self._pause = count, pause
        self.query = PacedQuery(0, 0)

    async def start(self, prompt: Prompt, options: QueryOptions) -> PacedQuery:
        self.query = PacedQuery(self._count, self._pause)
        return self.query


def spread(seconds: Iterable[float]) -> Figures:
    """Return percentiles in milliseconds."""
    milliseconds = sorted(second * 1000 for second in seconds)
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"p50_ms": cuts[49], "p90_ms": cuts[89], "p99_ms": cuts[98], "max_ms": milliseconds[-1]}


async def stream_latencies(count: int, pause: float, settings: RuntimeSettings, **stores: Any) -> list[float]:
    """Return for each message the time from when the agent said it to when its reader had it."""
    backend = PacedBackend(count, pause)
    async with (
        QuerySupervisor() as supervisor,
        AgentRuntime(backend, supervisor, settings=settings, **stores) as runtime,
        runtime.query("go") as turn,
    ):
        got = [time.perf_counter() async for _ in turn]
    return [there - said for said, there in zip(backend.query.said_at, got, strict=True)]


def bare_commits(directory: Path, count: int, pause: float) -> list[float]:
    """Return how long commits of one row take in the same rhythm, beside no event loop and no other thread."""
    directory.mkdir()
    seconds = []
    with contextlib.closing(sqlite3.connect(directory / "bare.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE entry (position INTEGER PRIMARY KEY, id BLOB UNIQUE, payload BLOB)")
        for _ in range(count):
            time.sleep(pause)
            begun = time.perf_counter()
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO entry (id, payload) VALUES (?, ?)", (os.urandom(16), TEXT.encode()))
            database.execute("COMMIT")
            seconds.append(time.perf_counter() - begun)
    return seconds


async def appends(chat: ChatHistoryStore, count: int, pause: float) -> list[float]:
    seconds = []
    for number in range(count):
        await asyncio.sleep(pause)
        begun = time.perf_counter()
        await chat.append("other", {"type": "assistant", "n": number, "text": TEXT})
        seconds.append(time.perf_counter() - begun)
    return seconds


async def bench_recording(root: Path, count: int, pause: float) -> dict[str, Figures]:
    """Measure what recording adds to each message of a stream, in default and in strict mode."""
    figures: dict[str, Figures] = {}
    bare = await stream_latencies(count, pause, RuntimeSettings())
    figures["not recorded"] = spread(bare)
    figures["one bare commit"] = spread(bare_commits(root / "bare", count, pause))
    for name, strict in (("recorded", False), ("recorded, strict", True)):
        settings = RuntimeSettings(record_strict=strict)
        async with (
            SQLiteJournal(root / name) as journal,
            ChatHistoryStore(journal, Identity.generate()) as chat,
        ):
            figures["one append to the store"] = spread(await appends(chat, count, pause))
            figures[name] = spread(await stream_latencies(count, pause, settings, chat_history=chat))
        figures[f"{name}: added"] = {
            key: value - figures["not recorded"][key] for key, value in figures[name].items() if key != "max_ms"
        }
    async with (
        SQLiteJournal(root / "all") as journal,
        ChatHistoryStore(journal, Identity.generate()) as chat,
        ArtifactStore(journal, Identity.generate()) as artifacts,
        AuditEventStore(journal, Identity.generate()) as audit,
    ):
        stores = {"chat_history": chat, "artifacts": artifacts, "audit_log": audit}
        figures["recorded, with artifacts and audit"] = spread(
            await stream_latencies(count, pause, RuntimeSettings(), **stores)
        )
    return figures


async def bench_burst(root: Path, count: int) -> Figures:
    """Measure messages that come as fast as they are taken."""
    begun = time.perf_counter()
    await stream_latencies(count, 0, RuntimeSettings())
    plain = count / (time.perf_counter() - begun)
    async with SQLiteJournal(root) as journal, ChatHistoryStore(journal, Identity.generate()) as chat:
        begun = time.perf_counter()
        await stream_latencies(count, 0, RuntimeSettings(), chat_history=chat)
        return {"not_recorded_per_second": plain, "recorded_per_second": count / (time.perf_counter() - begun)}


async def bench_supervisor(count: int) -> Figures:
    """Measure queries through ten slots, of an agent that says one message and of a scripted one."""
    figures = {}
    script = Script([Turn([Say("done")], repeat=True)])
    for name, backend in (("bare", PacedBackend(1, 0)), ("scripted", ScriptedBackend(script, directory="."))):
        settings = SupervisorSettings(concurrency_limit=10, pending_queue_capacity=count)
        async with QuerySupervisor(settings) as supervisor, AgentRuntime(backend, supervisor) as runtime:
            begun = time.perf_counter()
            await asyncio.gather(*(ask(runtime, str(number)) for number in range(count)))
            figures[f"{name}_queries_per_second"] = count / (time.perf_counter() - begun)
    return figures


async def ask(runtime: AgentRuntime, prompt: str) -> int:
    async with runtime.query(prompt, session_id=prompt) as turn:
        return len(await turn.collect())


@contextlib.contextmanager
def server_process(data: Path) -> Any:
    command = [sys.executable, "-m", "agentlayers", "serve", "--data", str(data), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextlib.asynccontextmanager
async def replica(directory: Path, identity: Identity, url: str) -> AsyncIterator[dict[str, Any]]:
    sync = SyncService(WebSocketTransport(url), AesGcmEncryption(), stores={CHAT: True, AUDIT: True})
    async with (
        SQLiteJournal(directory) as journal,
        sync,
        ChatHistoryStore(journal, identity, sync=sync) as chat,
        AuditEventStore(journal, identity, sync=sync) as audit,
    ):
        yield {"journal": journal, "sync": sync, CHAT: chat, AUDIT: audit}


async def bench_concurrent(root: Path, count: int) -> Figures:
    """Run queries at once, recorded and synced; check that nothing is missing and a second replica holds the same."""
    identity = Identity.generate()
    script = Script([Turn([Say("first {prompt}"), Say("then {prompt}")], repeat=True)])
    settings = SupervisorSettings(concurrency_limit=count, pending_queue_capacity=count)
    with server_process(root / "server") as url:
        async with replica(root / "a", identity, url) as a, replica(root / "b", identity, url) as b:
            stores = {name: a[name] for name in (CHAT, AUDIT)}
            begun = time.perf_counter()
            async with (
                QuerySupervisor(settings) as supervisor,
                AgentRuntime(ScriptedBackend(script, directory=root), supervisor, **stores) as runtime,
            ):
                said = await asyncio.gather(*(ask(runtime, f"p{number}") for number in range(count)))
                recorded_at = time.perf_counter()
            await a["sync"].sync_now()
            synced_at = time.perf_counter()
            await b["sync"].sync_now()
            equal_at = time.perf_counter()
            digests = [await journal_digest(part["journal"], stores=(CHAT, AUDIT)) for part in (a, b)]
            kept = sum([len(await b[CHAT].list(f"p{number}")) for number in range(count)])
    if digests[0] != digests[1] or kept != sum(said) + count:
        raise SystemExit(f"replicas differ, or messages are missing: {digests}, {kept} of {sum(said) + count}")
    return {
        "queries": count,
        "messages": sum(said) + count,
        "entries": digests[0].entries,
        "recorded_after_seconds": recorded_at - begun,
        "synced_after_seconds": synced_at - begun,
        "equal_after_seconds": equal_at - begun,
    }


def measure(root: Path, scale: int) -> dict[str, Any]:
    return {
        "a message every 2 ms": asyncio.run(bench_recording(root / "paced", 2000 // scale, 0.002)),
        "messages without a pause": asyncio.run(bench_burst(root / "burst", 20_000 // scale)),
        "ten slots": asyncio.run(bench_supervisor(2000 // scale)),
        "queries at once, recorded and synced": asyncio.run(bench_concurrent(root / "many", 100)),
    }


def rounded(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    return round(figures, 3)


def show(figures: Mapping[str, Any], indent: str = "") -> None:
    for name, value in figures.items():
        if isinstance(value, dict) and not any(isinstance(part, dict) for part in value.values()):
            told = "  ".join(f"{key} {part:,.3f}" for key, part in value.items())
            print(f"{indent}{name:36} {told}")
        else:
            print(f"{indent}{name}")
            show(value, f"{indent}  ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to see that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="agentlayers-bench-"))
    root.joinpath("paced").mkdir()
    try:
        figures = rounded(measure(root, 10 if arguments.quick else 1))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if arguments.json:
        print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg()[0], **figures}, indent=2))
    else:
        show(figures)


if __name__ == "__main__":
    main()
