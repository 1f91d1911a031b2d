"""Locks between threads and processes, held by the operating system and gone with the process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from agentlayers.errors import ConfigurationError

__all__ = ["check_locks", "create_lock", "locked"]


def check_locks() -> None:
    """
    Refuse a system whose locks this module does not know.

    Raises:
        ConfigurationError: There is no ``flock``.
    """
    if fcntl is None:
        raise ConfigurationError("the filesystem key-value store needs POSIX file locks; use the SQLite store here")


def create_lock(path: Path) -> None:
    """Create the file of a lock if it is missing; it is never deleted."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))


@contextlib.contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """
    Wait for a lock and hold it for the block.

    Each call opens the file anew, so two threads exclude each other as two processes do.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        # Said explicitly: a child forked meanwhile has a copy of the descriptor, which would keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
