"""A command of this machine that leaves nothing behind: no process, no pipe, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

from agentlayers.layer.uninterrupted import uninterrupted

__all__ = ["Command"]

_READ_BYTES: Final = 65_536

_DRAIN_SECONDS: Final = 1.0
"""For what is left in the pipes of a killed command."""


@final
class Command:
    """
    One process in a group of its own, whose output is kept up to a bound.

    Args:
        arguments: The program and its arguments.
        directory: Where it runs.
        environment: All that it sees of ours.
        output_bytes_max: Kept of each of its outputs, and one byte more if there is more; the rest is read and dropped.
    """

    def __init__(
        self, arguments: Sequence[str], *, directory: Path, environment: Mapping[str, str], output_bytes_max: int
    ) -> None:
        self._arguments, self._directory, self._environment = arguments, directory, environment
        self._output_bytes_max = output_bytes_max
        self._stdout, self._stderr = bytearray(), bytearray()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def exit_code(self) -> int:
        """Its exit status, negative for the signal that ended it."""
        return 0 if self._process is None else self._process.returncode or 0

    @property
    def stdout(self) -> bytes:
        """What is kept of what it wrote."""
        return bytes(self._stdout)

    @property
    def stderr(self) -> bytes:
        """As :attr:`stdout`."""
        return bytes(self._stderr)

    async def run(self, timeout_seconds: float) -> bool:
        """
        Run it to its end; with it ends its whole group.

        Returns:
            Whether it ended by itself, in time.

        Raises:
            OSError: It cannot be started.
        """
        try:
            # A start that is cancelled half-way would leave pipes open, and can keep its loop from ever closing.
            await uninterrupted(self._start(), name="start command")
            async with asyncio.timeout(timeout_seconds):
                await self._until_ended()
        except TimeoutError:
            return False
        finally:
            await uninterrupted(self._end(), name="end command")
        return True

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            cwd=self._directory,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # A group of its own, so that what the command starts ends with it.
            start_new_session=True,
        )

    async def _until_ended(self) -> None:
        assert self._process is not None
        await asyncio.gather(
            self._collect(self._process.stdout, self._stdout), self._collect(self._process.stderr, self._stderr)
        )
        await self._process.wait()

    async def _collect(self, stream: asyncio.StreamReader | None, into: bytearray) -> None:
        assert stream is not None
        while data := await stream.read(_READ_BYTES):
            # Read on past the bound, so that the command does not block on a full pipe.
            room = self._output_bytes_max + 1 - len(into)
            into += data[: max(room, 0)]

    async def _end(self) -> None:
        """End the whole group, also what outlived its leader, and reap the leader."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await asyncio.gather(*(_discard(stream) for stream in streams), process.wait())
        except TimeoutError:
            # Something left the group and still holds the pipes; it must not hold us.
            _close(process)
            await process.wait()
        finally:
            # The loop can be about to close, with this task cancelled: nobody would close the transport after it.
            _close(process)


async def _discard(stream: asyncio.StreamReader) -> None:
    while await stream.read(_READ_BYTES):
        pass


def _close(process: asyncio.subprocess.Process) -> None:
    # asyncio has no public way to the transport of a process.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
