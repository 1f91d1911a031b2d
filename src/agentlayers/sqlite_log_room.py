"""
Make the write-ahead log of an SQLite file longer before it has to be.

A commit that makes a file longer costs the file system a second write to the disk, and takes about twice as long as one
that overwrites. SQLite never shortens a log while it is open, so whoever commits often is spared that once and for all.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path
from typing import Final

__all__ = ["LogRoom"]

_LOOK_COMMITS: Final = 8
_FIRST_LOOK: Final = 32
"""Whoever commits so often is going to commit more often."""
_STEPS: Final = 4
"""A step of a quarter keeps the write lock for some milliseconds only."""
_SHARE: Final = 16
"""Room is only made where it takes at most one part in so many of what is free on the disk."""
_CACHE_PAGES: Final = 16
_YIELD_SECONDS: Final = 0.0003
"""For whoever was just told of a commit: the kernel tends to wake a thread where its waker runs, which is soon busy."""


class LogRoom:
    """The room in the log of one connection that writes."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, pages: int) -> None:
        """
        Look at nothing yet.

        Args:
            connection: The one that writes.
            path: The database file.
            pages: Length at which the log is copied to the file, so that it grows no further.
        """
        self._connection, self._path, self._pages = connection, path, pages
        self._log = path.with_name(f"{path.name}-wal")
        self._commits = 0
        self._bytes = 0
        self._is_needed = True

    def after_commit(self) -> None:
        """Make room now and then, between transactions; where that is not possible, nothing happens."""
        if not self._is_needed:
            return
        self._commits += 1
        if self._commits < _FIRST_LOOK or self._commits % _LOOK_COMMITS:
            return
        try:
            self._look()
        except (sqlite3.Error, OSError):
            self._is_needed = False

    def _look(self) -> None:
        used = self._log.stat().st_size
        if used <= self._bytes:
            return  # there is room yet
        (page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
        full = page_bytes * self._pages
        if used >= full or shutil.disk_usage(self._path.parent).free < _SHARE * full:
            self._is_needed = False
            return
        time.sleep(_YIELD_SECONDS)
        self._extend(full // _STEPS)
        self._bytes = self._log.stat().st_size

    def _extend(self, count: int) -> None:
        # Pages that do not fit into the cache go to the log before they are committed; these never are.
        (cache,) = self._connection.execute("PRAGMA cache_size").fetchone()
        self._connection.execute(f"PRAGMA cache_size = {_CACHE_PAGES}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("CREATE TABLE room (bytes BLOB)")
            self._connection.execute("INSERT INTO room VALUES (zeroblob(?))", (count,))
        finally:
            self._connection.execute(f"PRAGMA cache_size = {cache}")
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
