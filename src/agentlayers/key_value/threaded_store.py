"""A key-value store over a medium that blocks: one thread writes, a few read, the event loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

from agentlayers.errors import StateError
from agentlayers.key_value.blocking_store import BlockingKeyValueStore
from agentlayers.key_value.expectation import NOTHING_EXPECTED, Expectation
from agentlayers.key_value.key_range import KeyRange
from agentlayers.key_value.key_value_store import Changes, KeyValueStore, Pair
from agentlayers.key_value.medium import Medium
from agentlayers.key_value.writer_thread import WriterThread

__all__ = ["ThreadedKeyValueStore"]

T = TypeVar("T")

_READER_THREADS: Final = 2
"""A long scan leaves a thread for single reads; more would only contend for the interpreter."""


class ThreadedKeyValueStore(KeyValueStore):
    """
    What the stores on files have in common.

    Args:
        medium: Opened and closed with the store.
    """

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._writer: WriterThread | None = None
        self._readers: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        if self._writer is not None:
            raise StateError(f"{self!r} is open already")
        readers = ThreadPoolExecutor(_READER_THREADS, thread_name_prefix="key-value-reader")
        # Readers go first when the store closes, so the medium is closed behind the last of them.
        self._writer = WriterThread(self._medium, before_close=readers.shutdown)
        try:
            await self._writer.start()
        except BaseException:
            self._writer = None
            raise
        self._readers = readers
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        writer, self._writer, self._readers = self._writer, None, None
        if writer is not None:
            await writer.stop()

    async def home(self) -> str:
        """Say what a copy of the files does not share with them."""
        return await self._run(self._medium.home)

    def blocking(self) -> BlockingKeyValueStore:
        """Return this store for threads that may wait; they read the medium themselves."""
        if self._writer is None:
            raise self._not_open()
        return _BlockingMedium(self._medium, self._writer)

    async def _read(self, key: bytes) -> bytes | None:
        return await self._run(self._medium.read, key)

    async def _read_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._run(lambda: [self._medium.read(key) for key in keys])

    async def _write(self, changes: Changes, expected: Expectation) -> None:
        if self._writer is None:
            raise self._not_open()
        await self._writer.write(changes, expected)

    async def _pages(self, key_range: KeyRange, limit: int | None) -> AsyncIterator[list[Pair]]:
        if self._readers is None:
            raise self._not_open()
        if key_range.is_empty:
            return
        pages = self._medium.pages(key_range, limit)
        while (page := await self._run(next, pages, None)) is not None:
            yield page

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        if self._readers is None:
            raise self._not_open()
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)

    def _not_open(self) -> StateError:
        return StateError(f"{self!r} is not open; use it inside `async with`")


class _BlockingMedium(BlockingKeyValueStore):
    def __init__(self, medium: Medium, writer: WriterThread) -> None:
        self._medium, self._writer = medium, writer

    def read(self, key: bytes) -> bytes | None:
        self._writer.require_running()
        return self._medium.read(key)

    def pages(self, key_range: KeyRange, limit: int | None = None) -> Iterator[Sequence[Pair]]:
        self._writer.require_running()
        return iter(()) if key_range.is_empty else self._medium.pages(key_range, limit)

    def write(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        self._writer.write_blocking(changes, expected)
