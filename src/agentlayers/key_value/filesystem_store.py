"""Pairs in files that any tool can copy: one for each key."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.file_lock import check_locks
from agentlayers.key_value.filesystem_medium import FileSystemMedium
from agentlayers.key_value.threaded_store import ThreadedKeyValueStore

__all__ = ["FileSystemKeyValueStore"]


class FileSystemKeyValueStore(ThreadedKeyValueStore):
    """
    Keep one file for each key; what was acknowledged survives a power failure.

    A scan lists every name of the store, whatever its range: good for thousands of keys, slow for millions.

    Args:
        directory: Of the store's own, on a local file system; made if missing.

    Raises:
        ConfigurationError: This system has no POSIX file locks.
    """

    capabilities: ClassVar = KeyValueCapabilities(
        ordered_scans=True,
        atomic_batches=True,
        conditional_batches=True,
        durable=True,
        shared_between_processes=True,
    )

    def __init__(self, directory: str | Path) -> None:
        check_locks()
        self.directory = Path(directory)
        super().__init__(FileSystemMedium(self.directory))

    def __repr__(self) -> str:
        return f"FileSystemKeyValueStore({str(self.directory)!r})"
