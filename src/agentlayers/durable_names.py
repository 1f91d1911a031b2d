"""Make a new, renamed or removed name survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_directory"]


def sync_directory(directory: Path) -> None:
    """
    Wait until the names in a directory are on the disk; syncing a file alone does not do that for its name.

    Does nothing where directories cannot be opened (Windows).

    Raises:
        OSError: The directory is gone, or the disk failed.
    """
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
