"""
Make sure that nothing of an agent outlives it.

The command ends its own children when it is asked to end. When it is killed it cannot; so every query marks the
environment of its processes, and what still carries the mark afterwards is killed too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Final, final

from agentlayers.logs import get_logger

__all__ = ["MARK_VARIABLE", "ClaudeProcess", "marked_processes"]

logger = get_logger(__name__)

MARK_VARIABLE: Final = "AGENTLAYERS_QUERY"
"""Names the query in the environment of everything it starts."""

_PROC: Final = Path("/proc")
_PASSES: Final = 5
_KILLED_SECONDS: Final = 1.0


def marked_processes(mark: str) -> list[int]:
    """
    Find the processes that carry a query's mark; none on systems without ``/proc``.

    Zombies carry none, because their environment is gone.
    """
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    found = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if wanted in (entry / "environ").read_bytes().split(b"\x00"):
                found.append(int(entry.name))
    return found


@final
class ClaudeProcess:
    """
    The command's process, as far as it has to be hurried or cleaned up after.

    Args:
        mark: Of the query.
        grace_seconds: For each step from asking to killing.

    Attributes:
        mark: As given.
    """

    def __init__(self, mark: str, *, grace_seconds: float) -> None:
        self.mark = mark
        self._grace = grace_seconds
        self._process: Any = None

    def attach(self, process: Any) -> None:
        """Take the process, an object with ``pid``, ``returncode`` and ``wait()``; :obj:`None` is ignored."""
        if process is not None:
            self._process = process

    @property
    def is_alive(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def hurry(self, *, at_once: bool = False) -> None:
        """Ask it to end when the grace is over, and kill it after another."""
        for step, number in enumerate((signal.SIGTERM, signal.SIGKILL)):
            if not (at_once and step == 0):
                await asyncio.sleep(self._grace)
            self._send(number)

    async def ensure_gone(self) -> None:
        """Kill what is left of it and of everything it started."""
        if self.is_alive:
            self._send(signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILLED_SECONDS):
                    await self._process.wait()
        for _ in range(_PASSES):
            left = await asyncio.to_thread(marked_processes, self.mark)
            if not left:
                return
            logger.info("agent_processes_killed", count=len(left))
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)

    def _send(self, number: signal.Signals) -> None:
        if self.is_alive:
            logger.debug("agent_process_signalled", signal=number.name)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._process.pid, number)
