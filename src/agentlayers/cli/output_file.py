"""Write what a command was asked for to a file."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from agentlayers.errors import StorageUnavailableError

__all__ = ["write_lines"]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """
    Put a file in place whole or not at all, readable by its owner alone; a device or pipe is written to as it is.

    Raises:
        StorageUnavailableError: It cannot be written.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with _translated(path), path.open("w", encoding="utf-8") as file:
            _write(path, file, lines)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with _translated(path):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with _translated(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _write(path, file, lines)
            file.flush()
            os.fsync(file.fileno())
        with _translated(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, file: IO[str], lines: Iterable[str]) -> None:
    for line in lines:
        with _translated(path):
            file.write(line + "\n")


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}; give a file in a directory this user may write to, with room for it"
        raise StorageUnavailableError(backend="export", operation="write", path=path, reason=reason) from error
