"""Steps on files that a power failure cannot undo behind our back, and the one place that translates their errors."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentlayers.durable_names import sync_directory
from agentlayers.errors import StorageUnavailableError

__all__ = ["BACKEND", "make_directory", "translated", "write_file"]

BACKEND: Final = "filesystem key-value store"
_ADVICE: Final = {
    errno.ENOSPC: "make room and try again, nothing acknowledged is lost",
    errno.EDQUOT: "raise the quota or make room and try again, nothing acknowledged is lost",
    errno.EROFS: "make the directory writable for this user",
    errno.EACCES: "make the directory accessible for this user",
    errno.EPERM: "make the directory accessible for this user",
    errno.ENOTDIR: "give a directory, or a name that is free",
    errno.EMFILE: "allow this process more open files",
}


@contextlib.contextmanager
def translated(operation: str, path: Path) -> Iterator[None]:
    """
    Turn what the system raises into ours.

    Raises:
        StorageUnavailableError: Full, read-only, not accessible, or an input/output error.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "check the disk")
        reason = f"{error.strerror or type(error).__name__}; {advice}"
        where = error.filename or path
        raise StorageUnavailableError(backend=BACKEND, operation=operation, reason=reason, path=where) from error


def write_file(path: Path, data: bytes) -> None:
    """
    Write a new file and wait until its content is on the disk; a failed attempt leaves no file.

    Its name is durable only once its directory is synced as well.
    """
    try:
        descriptor = _create(path)
    except FileExistsError:
        # Left over from a crash. Not written over: on some file systems it may share its content with a live file.
        path.unlink()
        descriptor = _create(path)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def make_directory(path: Path) -> None:
    """Make a directory for this user alone, if it is missing, and wait until its name is on the disk."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        sync_directory(path.parent)
