"""
What happens in the demo, phase by phase, and the log the parent keeps of it.

The parent writes an entry down as acknowledged when a replica says so, before anything else happens to
that replica. It judges nothing while processes run: see :mod:`agentlayers.cli.demo.report`.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentlayers.cli.demo.processes import ProcessLostError, ProcessRecord, ReplicaProcess, ServerProcess
from agentlayers.eventlog.identity import Identity

__all__ = ["AcknowledgedLog", "Phase", "Story"]

QUIET_SECONDS_MAX: Final = 30.0
_POLL_SECONDS: Final = 0.05
SESSION: Final = "shared-session"
AGENT_SESSION: Final = "agent-session"
PROMPTS: Final = ["Sort this week's temperatures.", "Which day was the warmest?"]


@dataclass(slots=True)
class Phase:
    """One row of the report: what was done, how long it took, what was acknowledged meanwhile."""

    name: str
    seconds: float = 0.0
    acknowledged: int = 0
    note: str = ""


class AcknowledgedLog:
    """Every entry some replica acknowledged, and when which replica received it."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, str] = {}
        # Kept beside it, because whoever waits for a number asks after every notice.
        self._counts: Counter[str] = Counter()
        self.latencies: list[float] = []
        self._is_timing = True
        self._written_at: dict[str, float] = {}
        self._received_at: dict[str, float] = {}
        self._file = path.open("a", encoding="utf-8")
        self._changed = asyncio.Event()

    def notice(self, replica: str, message: Mapping[str, Any]) -> None:
        """Take a replica's notice: an entry of its own that is durable, or one that reached it."""
        if (identifier := message.get("acknowledged")) is not None:
            self._note(identifier, replica)
            self._file.write(json.dumps({"replica": replica, **message}) + "\n")
            self._file.flush()
            self._changed.set()
            self._pair(identifier, self._written_at, message["at"])
        elif (identifier := message.get("received")) is not None:
            self._pair(identifier, self._received_at, message["at"])

    def stop_timing(self) -> None:
        """Measure no further: what follows is slow on purpose."""
        self._is_timing = False

    def _pair(self, identifier: str, times: dict[str, float], at: float) -> None:
        """Note a time; with both known (the receiver's notice may come first) a latency results."""
        if not self._is_timing:
            return
        times.setdefault(identifier, at)
        if identifier in self._written_at and identifier in self._received_at:
            self.latencies.append(self._received_at.pop(identifier) - self._written_at.pop(identifier))

    async def reached(self, replica: str, count: int) -> None:
        """Wait until ``replica`` acknowledged ``count`` entries in all."""
        while self.count_of(replica) < count:
            self._changed.clear()
            await self._changed.wait()

    def count_of(self, replica: str) -> int:
        """Return how many entries ``replica`` acknowledged."""
        return self._counts[replica]

    def read_back(self, path: Path) -> None:
        """Fill a new log with what an earlier one wrote."""
        for line in path.read_text(encoding="utf-8").splitlines():
            notice = json.loads(line)
            self._note(notice["acknowledged"], notice["replica"])

    def _note(self, identifier: str, replica: str) -> None:
        if identifier not in self.entries:
            self._counts[replica] += 1
        self.entries[identifier] = replica

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclass(slots=True)
class Story:
    """
    The demo's plot.

    Attributes:
        directory: Where everything is kept.
        transport: ``websocket`` or ``tcp``.
        messages: Appends of each replica in each phase.
        seed: Moves the kill points.
        progress: Called with a line when a phase begins.
    """

    directory: Path
    transport: str
    messages: int
    seed: int
    progress: Callable[[str], None]
    phases: list[Phase] = field(default_factory=list)
    processes: list[ProcessRecord] = field(default_factory=list)
    log: AcknowledgedLog = field(init=False)
    _server: ServerProcess = field(init=False)
    _a: ReplicaProcess = field(init=False)
    _b: ReplicaProcess = field(init=False)
    _token: str = field(init=False, repr=False)

    async def play(self) -> None:
        """Run all phases, then stop every process, however it went."""
        self._prepare()
        self._share_an_identity()
        try:
            await self._phases()
        finally:
            for process in (self._a, self._b, self._server):
                await process.stop()
                self.processes.extend(process.records)
            self.log.close()

    def reopen(self) -> None:
        """Take up the files an earlier demo kept, to report on them again."""
        self._prepare()
        self.log.read_back(self.directory / "acknowledged.jsonl")
        self.log.close()

    @property
    def replicas(self) -> dict[str, Path]:
        """Directories of the replicas, by name."""
        return {"A": self._a.directory, "B": self._b.directory}

    @property
    def server_directory(self) -> Path:
        """Where the server keeps its data."""
        return self.directory / "server"

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log = AcknowledgedLog(self.directory / "acknowledged.jsonl")
        token_file = self.directory / "token"
        token_file.touch(mode=0o600)
        self._token = secrets.token_urlsafe(24)
        token_file.write_text(self._token, encoding="utf-8")
        self._server = ServerProcess(
            data=self.server_directory,
            log_path=self.directory / "server.log",
            transport=self.transport,
            token_file=token_file,
        )
        self._a, self._b = (self._replica(name) for name in ("A", "B"))

    def _share_an_identity(self) -> None:
        identity = Identity.generate()
        for replica in (self._a, self._b):
            replica.directory.mkdir(mode=0o700)
            identity.save(replica.directory / "identity")

    def _replica(self, name: str) -> ReplicaProcess:
        return ReplicaProcess(
            name,
            directory=self.directory / f"replica-{name.lower()}",
            log_path=self.directory / f"replica-{name.lower()}.log",
            on_notice=self.log.notice,
        )

    async def _start_replica(self, replica: ReplicaProcess) -> None:
        preset = "synced-tcp" if self.transport == "tcp" else "synced"
        await replica.start(preset=preset, url=self._server.url, token=self._token)

    @asynccontextmanager
    async def _phase(self, name: str) -> AsyncIterator[Phase]:
        self.progress(name)
        phase = Phase(name)
        begun, before = time.monotonic(), len(self.log.entries)
        yield phase
        phase.seconds = time.monotonic() - begun
        phase.acknowledged = len(self.log.entries) - before
        self.phases.append(phase)

    async def _phases(self) -> None:
        dice = random.Random(self.seed)
        async with self._phase("start a server and two replicas"):
            await self._server.start()
            await asyncio.gather(self._start_replica(self._a), self._start_replica(self._b))
        async with self._phase("A holds an agent conversation, B follows live") as phase:
            answer = await self._a.ask("converse", session=AGENT_SESSION, prompts=PROMPTS)
            await self._quiet()
            phase.note = f"{answer['messages']} messages, {answer['tools']} tool calls"
        async with self._phase("A and B append to one session at once"):
            await asyncio.gather(self._append(self._a), self._append(self._b))
            await self._quiet()
        self.log.stop_timing()
        async with self._phase("B goes offline, both append, B comes back"):
            await self._b.ask("offline")
            await asyncio.gather(self._append(self._a), self._append(self._b))
            await self._b.ask("online")
            await self._quiet()
        async with self._phase("the server is killed while both append, and restarted") as phase:
            phase.note = await self._kill_server_in_the_middle(dice.randrange(self.messages))
        async with self._phase("A is killed while it appends, and restarted") as phase:
            phase.note = await self._kill_replica_in_the_middle(dice.randrange(self.messages))

    async def _append(self, replica: ReplicaProcess, count: int | None = None) -> None:
        texts = [f"message {number} of replica {replica.name}" for number in range(count or self.messages)]
        await replica.ask("append", session=SESSION, texts=texts)

    async def _kill_server_in_the_middle(self, after: int) -> str:
        before = self.log.count_of("A")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._append(self._a))
            tasks.create_task(self._append(self._b))
            await self.log.reached("A", before + after)
            await self._server.kill()
            await self._server.start()
        await self._quiet()
        return f"SIGKILL after {after} appends of A"

    async def _kill_replica_in_the_middle(self, after: int) -> str:
        before = self.log.count_of("A")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._append(self._b))
            appending = tasks.create_task(self._append_until_killed(self._a))
            await self.log.reached("A", before + after)
            await self._a.kill()
            await appending
            await self._start_replica(self._a)
            await self._append(self._a, max(1, self.messages - after))
        await self._quiet()
        return f"SIGKILL after {after} appends"

    async def _append_until_killed(self, replica: ReplicaProcess) -> None:
        try:
            await self._append(replica)
        except ProcessLostError:
            return

    async def _quiet(self) -> None:
        """Wait until nothing is pending and both replicas hold the same; a time-out is left to the report."""
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        while time.monotonic() < deadline:
            a, b = await asyncio.gather(self._a.ask("state"), self._b.ask("state"))
            if a["pending"] == b["pending"] == 0 and a["digest"] == b["digest"]:
                return
            await asyncio.sleep(_POLL_SECONDS)
