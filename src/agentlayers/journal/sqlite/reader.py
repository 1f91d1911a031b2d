"""Threads that read committed snapshots of a journal file while its writer goes on."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.journal.sqlite.transaction import SQLiteTransaction
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.sqlite_file import Durability

__all__ = ["ReaderPool"]

T = TypeVar("T")

_THREADS: Final = 2


class ReaderPool:
    """A few threads with a connection each, opened at first use."""

    def __init__(self, path: Path, registry: JournalRegistry, *, durability: Durability) -> None:
        self._path, self._registry, self._durability = path, registry, durability
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="journal reader")
        self._idle: list[sqlite3.Connection] = []

    async def run(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` on one snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, work)

    async def close(self) -> None:
        """Wait for running reads and close the connections."""
        await asyncio.to_thread(self._threads.shutdown)
        while self._idle:
            self._idle.pop().close()

    def _read(self, work: Callable[[JournalTransaction], T]) -> T:
        # Only the journal's own statements are translated: an OSError of `work` is the caller's.
        with JOURNAL_FORMAT.translated("read", self._path):
            connection = self._borrow()
        try:
            with JOURNAL_FORMAT.translated("read", self._path):
                connection.execute("BEGIN")
            tx = SQLiteTransaction(self._registry, connection, path=self._path, read_only=True, stores={})
            return work(tx)
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("COMMIT")
            self._idle.append(connection)

    def _borrow(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return JOURNAL_FORMAT.connect(self._path, writable=False, durability=self._durability)
