"""The journal in one SQLite file in a replica's directory."""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from agentlayers.errors import StateError, StorageUnavailableError
from agentlayers.file_mark import file_mark
from agentlayers.journal.sqlite.reader import ReaderPool
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.journal.sqlite.writer import WriterThread
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.journal.transactional import TransactionalJournal
from agentlayers.logs import get_logger
from agentlayers.sqlite_file import check_durability

__all__ = ["JOURNAL_FILE", "SQLiteJournal"]

T = TypeVar("T")

logger = get_logger(__name__)

JOURNAL_FILE: Final = "journal.sqlite"
_VACUUM_PAGES: Final = 256


class SQLiteJournal(TransactionalJournal):
    """
    Keeps everything in ``journal.sqlite``; what ``write`` returned survives any crash.

    One thread writes, and what arrives while it commits shares the next commit. Several processes may have
    one file open: they take turns, and followers see the commits of all.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        random: random_module.Random | None = None,
        durability: str = "full",
    ) -> None:
        """
        Name the file; nothing is opened yet.

        Args:
            directory: The replica's directory, made when it is missing; or a path that ends in ``.sqlite``.
            clock: Seconds since the epoch.
            random: Entropy of entry ids.
            durability: ``full``: an acknowledged write survives a power failure. ``normal``: it survives a
                crash of the process, but the last ones may be lost with the power.

        Raises:
            SettingsError: An unknown durability.
        """
        super().__init__(clock=clock, random=random)
        given = Path(directory)
        self.path = given if given.suffix == ".sqlite" else given / JOURNAL_FILE
        self._durability = check_durability(durability)
        self._writer: WriterThread | None = None
        self._readers: ReaderPool | None = None

    def __repr__(self) -> str:
        return f"SQLiteJournal({str(self.path)!r})"

    def __del__(self) -> None:
        if getattr(self, "_is_open", False):
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise StateError(f"{self!r} is open already")
        writer = WriterThread(
            self.path,
            self._registry,
            self._hub.publish,
            is_followed=lambda: self._hub.is_followed,
            durability=self._durability,
        )
        await writer.start()
        readers = ReaderPool(self.path, self._registry, durability=self._durability)
        self._writer, self._readers, self._is_open = writer, readers, True
        self._hub.on_followed = writer.nudge
        try:
            self._hub.last_position = await self.transact(self._load)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    def _load(self, tx: JournalTransaction) -> int:
        self._registry.load_replica_id(tx, home=file_mark(self.path))
        return tx.next_position() - 1

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        self._hub.close()
        writer, readers = self._writer, self._readers
        self._writer = self._readers = None
        if writer is not None:
            await asyncio.shield(writer.stop())
        if readers is not None:
            await asyncio.shield(readers.close())
        self._registry.clear()

    async def transact(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` in a transaction; see :meth:`EventJournal.transact`."""
        if self._writer is None:
            self._require_open()
            raise StateError("the journal is closing")
        return await self._writer.submit(work)

    async def read(self, work: Callable[[JournalTransaction], T]) -> T:
        """Run ``work`` on a snapshot; see :meth:`EventJournal.read`."""
        if self._readers is None:
            self._require_open()
            raise StateError("the journal is closing")
        return await self._readers.run(work)

    async def destroy(self) -> None:
        """Close the journal and delete its files, for good."""
        await self.__aexit__(None, None, None)
        with JOURNAL_FORMAT.translated("destroy", self.path):
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    async def _reclaim(self) -> None:
        try:
            # In steps, so that appends get their turn between them.
            while self._writer is not None and await self._writer.maintain(_vacuum_step):
                pass
        except StorageUnavailableError as error:
            # What was dropped is dropped, and its space is used again in any case; on a full disk that is what counts.
            logger.warning("space_not_given_back", reason=error.reason)
            if self._writer is not None:
                with contextlib.suppress(StorageUnavailableError):
                    await self._writer.maintain(_checkpoint)


def _vacuum_step(connection: sqlite3.Connection) -> bool:
    connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    (left,) = connection.execute("PRAGMA freelist_count").fetchone()
    if left == 0:
        _checkpoint(connection)
    return bool(left)


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
