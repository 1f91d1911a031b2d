"""The demo's operating-system processes: start, talk to, kill and account for them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentlayers.errors import AgentLayersError

__all__ = ["ProcessLostError", "ProcessRecord", "ReplicaProcess", "ServerProcess"]

START_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 15.0
ANSWER_SECONDS_MAX: Final = 60.0
LINE_BYTES_MAX: Final = 4 * 1024 * 1024


class ProcessLostError(AgentLayersError):
    """A process of the demo ended while an answer from it was due."""


@dataclass(slots=True)
class ProcessRecord:
    """One process as the report shows it; ``ended`` is empty while it runs."""

    name: str
    pid: int
    ended: str = ""


def _how_it_ended(return_code: int) -> str:
    if return_code < 0:
        return signal.Signals(-return_code).name
    return f"exit {return_code}"


class _Process:
    """What server and replicas have in common."""

    def __init__(self, name: str, log_path: Path) -> None:
        self.name = name
        self.records: list[ProcessRecord] = []
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None

    async def _spawn(self, arguments: list[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                limit=LINE_BYTES_MAX,
            )
        self.records.append(ProcessRecord(self.name, self._process.pid))
        return self._process

    async def _read_line(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            await self._ended(process)
            reason = f"the {self.name} process ended early ({self.records[-1].ended}): {self._last_words()}"
            raise ProcessLostError(reason)
        return line.decode().rstrip("\n")

    def _last_words(self) -> str:
        """Return the last line the process wrote to its log, which is where it says why it ended."""
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        self.records[-1].ended = _how_it_ended(await process.wait())

    async def kill(self) -> None:
        """End the process with SIGKILL: no handler, no clean-up, no last words."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._ended(self._process)

    async def stop(self) -> None:
        """Ask with SIGTERM and wait; a process that does not stop in time is killed, which the report shows."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self._ended(process)
                return
        await self.kill()


class ServerProcess(_Process):
    """``agentlayers serve`` in a process of its own; keeps its ports over restarts."""

    def __init__(self, *, data: Path, log_path: Path, transport: str, token_file: Path) -> None:
        super().__init__("server", log_path)
        self._data, self._transport, self._token_file = data, transport, token_file
        self._port = self._tcp_port = 0
        self._drain: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where replicas reach it."""
        if self._transport == "tcp":
            return f"tcp://127.0.0.1:{self._tcp_port}"
        return f"ws://127.0.0.1:{self._port}/event-log"

    async def start(self) -> None:
        """
        Start the server and wait until it says where it listens.

        Raises:
            ProcessLostError: It ended instead.
        """
        arguments = ["-m", "agentlayers", "serve", "--data", str(self._data), "--host", "127.0.0.1"]
        arguments += ["--port", str(self._port), "--tcp-port", str(self._tcp_port)]
        arguments += ["--token-file", str(self._token_file)]
        process = await self._spawn(arguments, {})
        async with asyncio.timeout(START_SECONDS_MAX):
            while not (self._port and self._tcp_port and self._drain is not None):
                line = await self._read_line(process)
                if line.startswith("listening on ws://"):
                    self._port = int(line.rsplit(":", 1)[1].split("/")[0])
                elif line.startswith("listening on tcp://"):
                    self._tcp_port = int(line.rsplit(":", 1)[1])
                    self._drain = asyncio.create_task(self._discard_output(process))

    @staticmethod
    async def _discard_output(process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while await process.stdout.readline():
            pass

    async def kill(self) -> None:
        """End the server with SIGKILL."""
        await super().kill()
        self._drain = None


class ReplicaProcess(_Process):
    """A replica in a process of its own, driven by JSON lines."""

    def __init__(
        self, name: str, *, directory: Path, log_path: Path, on_notice: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        super().__init__(name, log_path)
        self.directory = directory
        self._on_notice = on_notice
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._reader: asyncio.Task[None] | None = None

    async def start(self, *, preset: str, url: str, token: str) -> None:
        """
        Start the replica and wait until its stores are open; it connects by itself.

        Raises:
            ProcessLostError: It ended instead.
        """
        process = await self._spawn(
            ["-m", "agentlayers.cli.demo.replica", "--preset", preset],
            {
                "SYNC_URL": url,
                "SYNC_TOKEN": token,
                "AGENTLAYERS_STORAGE_DIRECTORY": str(self.directory),
            },
        )
        async with asyncio.timeout(START_SECONDS_MAX):
            await self._read_line(process)
        self._reader = asyncio.create_task(self._read_notices(process), name=f"demo-{self.name}")

    async def _read_notices(self, process: asyncio.subprocess.Process) -> None:
        try:
            while True:
                message = json.loads(await self._read_line(process))
                if "reply" in message:
                    future = self._replies.pop(message["reply"], None)
                    if future is not None and not future.done():
                        future.set_result(message)
                else:
                    self._on_notice(self.name, message)
        except ProcessLostError as error:
            for future in self._replies.values():
                if not future.done():
                    future.set_exception(error)
            self._replies.clear()

    async def ask(self, action: str, **arguments: object) -> dict[str, Any]:
        """
        Send a command and wait for its answer.

        Raises:
            ProcessLostError: The process ended before it answered.
            AgentLayersError: The replica answered with an error.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        identifier = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[identifier] = future
        line = json.dumps({"id": identifier, "do": action, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise ProcessLostError(f"the {self.name} process is gone") from error
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                answer = await future
        except TimeoutError as error:
            raise ProcessLostError(f"replica {self.name} did not {action} within {ANSWER_SECONDS_MAX:g} s") from error
        if "error" in answer:
            raise AgentLayersError(f"replica {self.name}: {answer['error']}")
        return answer

    async def kill(self) -> None:
        """End the replica with SIGKILL and read what it had said before."""
        await super().kill()
        await self._finish_reading()

    async def stop(self) -> None:
        """Stop the replica with SIGTERM."""
        await super().stop()
        await self._finish_reading()

    async def _finish_reading(self) -> None:
        if self._reader is not None:
            await self._reader
            self._reader = None
