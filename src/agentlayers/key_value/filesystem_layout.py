"""Where a filesystem key-value store keeps what, and whether a directory is one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentlayers.durable_names import sync_directory
from agentlayers.errors import MigrationError
from agentlayers.key_value.file_lock import create_lock
from agentlayers.key_value.file_name import file_name, shard_of
from agentlayers.key_value.file_operation import BACKEND, make_directory, write_file

__all__ = ["FORMAT", "Layout"]

FORMAT: Final = b"agentlayers key-value store 1\n"
"""Content of ``FORMAT``: what the directory is, and its version."""

_STRANGERS_WELCOME: Final = frozenset({"lost+found"})


class Layout:
    """
    The paths of a store.

    Attributes:
        root: The store's directory.
        values: ``values/<shard>/<name>``, one file for each key.
        temporary: Complete files on their way into ``values``, and what crashes left of others.
        intents: At most one file, named after how far its batch is: ``ready``, ``applying``, ``applied``.
        writer_lock: Held by whoever writes.
        reader_lock: Shared by readers, held alone while a batch is applied.
        turn_lock: Held by whoever waits for the reader lock, so that readers never starve a batch.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.values = root / "values"
        self.temporary = root / "temporary"
        self.intents = root / "intents"
        self.ready = self.intents / "ready"
        self.applying = self.intents / "applying"
        self.applied = self.intents / "applied"
        self.writer_lock = root / "writer.lock"
        self.reader_lock = root / "reader.lock"
        self.turn_lock = root / "turn.lock"
        self._format = root / "FORMAT"

    def target(self, key: bytes) -> str:
        """Return the path of a key's file below ``values``."""
        return f"{shard_of(key)}/{file_name(key)}"

    def create(self) -> None:
        """
        Make what is missing, up to the locks.

        Raises:
            MigrationError: The directory is another program's.
        """
        if not self.root.is_dir():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self.root.parent)
        directories = (self.values, self.temporary, self.intents)
        locks = (self.writer_lock, self.reader_lock, self.turn_lock)
        ours = {path.name for path in (*directories, *locks, self._format, self._fresh_format)}
        found = {path.name for path in self.root.iterdir() if not path.name.startswith(".")}
        if self._format.name not in found and found - ours - _STRANGERS_WELCOME:
            self._refuse("it holds something else already; give the store a directory of its own")
        for path in directories:
            make_directory(path)
        for path in locks:
            create_lock(path)

    def claim(self) -> None:
        """
        Say what the directory is, or check what it says; the writer lock is held.

        Raises:
            MigrationError: It is of another version.
        """
        try:
            found = self._format.read_bytes()
        except FileNotFoundError:
            write_file(self._fresh_format, FORMAT)
            self._fresh_format.rename(self._format)
            sync_directory(self.root)
            return
        if found != FORMAT:
            self._refuse(f"its FORMAT is {found[:60]!r}, this release knows {FORMAT!r}; use a newer agentlayers")

    @property
    def _fresh_format(self) -> Path:
        return self.root / "FORMAT.new"

    def _refuse(self, reason: str) -> None:
        raise MigrationError(backend=BACKEND, operation="open", reason=reason, path=self.root)
