"""
A stock peer in a Node process of its own, driven by JSON lines.

Every wait has an end, and the process is gone when its ``async with`` is left, however that happens: it ends by itself
when its stdin does, and is killed if it does not. Its stderr goes to a file, so nobody waits for a pipe.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["RUNNING", "PeerError", "StockProcess", "from_json", "to_json"]

CALL_SECONDS_MAX = 30.0
"""For one command; the longest of them take a few seconds."""

_LINE_BYTES_MAX = 256 * 1024 * 1024

RUNNING: set[int] = set()
"""Process groups that were started and have not ended; empty after each test."""


class PeerError(AssertionError):
    """A stock peer failed, ended, or did not answer."""


class StockProcess:
    """
    A running peer; make one with :meth:`start`.

    Attributes:
        facts: What it said when it was ready.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.facts: dict[str, Any] = {}
        self._process, self._log = process, log
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(), name="stock peer")

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, node: str, program: Path, options: Mapping[str, Any], log: Path
    ) -> AsyncIterator[StockProcess]:
        """Run a program until the block is left."""
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                node,
                str(program),
                json.dumps(options),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=_LINE_BYTES_MAX,
                start_new_session=True,
            )
        RUNNING.add(process.pid)
        peer = cls(process, log)
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await peer._ready
            yield peer
        finally:
            await peer._end()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    async def call(self, do: str, **arguments: Any) -> Any:
        """
        Have a command carried out and return its answer.

        Raises:
            PeerError: It failed or the process ended; the text holds what it said.
        """
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "do": do, **to_json(arguments)})
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(line.encode() + b"\n")
            async with asyncio.timeout(CALL_SECONDS_MAX):
                return await answer
        except TimeoutError:
            raise PeerError(f"no answer to {line[:200]}; {self._said()}") from None
        finally:
            self._answers.pop(number, None)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process, as a debugger or a machine without time for it would, until the block is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """End the process at once, as a crash would."""
        self._signal()
        await self._process.wait()

    async def ended(self) -> int:
        """Wait until the process ends by itself and return its exit code."""
        async with asyncio.timeout(CALL_SECONDS_MAX):
            return await self._process.wait()

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        while line := await stdout.readline():
            message = json.loads(line)
            if message.get("event") == "ready":
                self.facts = message
                self._ready.set_result(None)
                continue
            answer = self._answers.get(message["id"])
            if answer is None or answer.done():
                continue
            if "error" in message:
                answer.set_exception(PeerError(message["error"]))
            else:
                answer.set_result(from_json(message["ok"]))
        for waiting in [*self._answers.values(), self._ready]:
            if not waiting.done():
                waiting.set_exception(PeerError(f"the process ended; {self._said()}"))

    def _said(self) -> str:
        return f"it wrote: {self._log.read_text(errors='replace')[-2000:]}"

    def _signal(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    async def _end(self) -> None:
        """Close its stdin, on which it ends, and kill it if it does not."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        try:
            async with asyncio.timeout(2):
                await self._process.wait()
        except BaseException as error:
            self._signal()
            if not isinstance(error, TimeoutError):
                raise
            await self._process.wait()
        finally:
            RUNNING.discard(self._process.pid)
            self._reader.cancel()
            await asyncio.wait([self._reader])
            if self._ready.done():
                self._ready.exception()


def to_json(value: Any) -> Any:
    """Write what JSON cannot hold as ``peers/lines.mjs`` reads it."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """Undo :func:`to_json`; an explicit ``undefined`` is an absent field."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$bigint" in value:
        return int(value["$bigint"])
    return {key: from_json(item) for key, item in value.items() if item != {"$undefined": True}}
