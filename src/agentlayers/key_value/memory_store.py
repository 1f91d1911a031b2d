"""
Pairs in an ordered map: the fake of the tests, proven by the same contract as the rest.

A lock lets threads that wait use it beside the event loop; nobody holds it for longer than one operation.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from sortedcontainers import SortedDict

from agentlayers.errors import StateError
from agentlayers.key_value.blocking_store import BlockingKeyValueStore
from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.expectation import NOTHING_EXPECTED, Expectation, check_expected
from agentlayers.key_value.key_range import KeyRange
from agentlayers.key_value.key_value_store import Changes, KeyValueStore, Pair
from agentlayers.limits import KEY_VALUE_PAGE_BYTES_MAX, KEY_VALUE_PAGE_ENTRIES_MAX

__all__ = ["MemoryKeyValueStore"]

_BACKEND: Final = "memory key-value store"


class MemoryKeyValueStore(KeyValueStore):
    """Keep everything in memory; what was stored is gone when the store is closed."""

    capabilities: ClassVar = KeyValueCapabilities(
        ordered_scans=True,
        atomic_batches=True,
        conditional_batches=True,
        durable=False,
        shared_between_processes=False,
    )

    def __init__(self) -> None:
        self._pairs: Any = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        if self._pairs is not None:
            raise StateError("the key-value store is open already")
        self._pairs = SortedDict()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pairs = None

    def _opened(self) -> Any:
        if self._pairs is None:
            raise StateError("the key-value store is not open; use it inside `async with MemoryKeyValueStore()`")
        return self._pairs

    def blocking(self) -> BlockingKeyValueStore:
        """Return this store for threads that may wait."""
        self._opened()
        return _BlockingMemory(self)

    async def _read(self, key: bytes) -> bytes | None:
        return self.read_now(key)

    def read_now(self, key: bytes) -> bytes | None:
        """Return one value; from any thread."""
        value: bytes | None = self._opened().get(key)
        return value

    async def _write(self, changes: Changes, expected: Expectation) -> None:
        self.write_now(changes, expected)

    def write_now(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        """Make all changes if the store holds what is expected; from any thread."""
        pairs = self._opened()
        with self._lock:
            check_expected(expected, pairs.get, backend=_BACKEND, path=None)
            for key, value in changes.items():
                if value is None:
                    pairs.pop(key, None)
                else:
                    pairs[key] = value

    async def _pages(self, key_range: KeyRange, limit: int | None) -> AsyncIterator[list[Pair]]:
        for page in self.pages_now(key_range, limit):
            yield page

    def pages_now(self, key_range: KeyRange, limit: int | None) -> Iterator[list[Pair]]:
        """Yield pages; from any thread."""
        self._opened()
        is_last = key_range.is_empty
        while not is_last and (limit is None or limit > 0):
            with self._lock:
                page, is_last = self._page(key_range, limit)
            if not page:
                return
            if limit is not None:
                limit -= len(page)
            key_range = key_range.beyond(page[-1][0])
            yield page

    def _page(self, key_range: KeyRange, limit: int | None) -> tuple[list[Pair], bool]:
        """Return a page, and whether nothing is left behind it."""
        pairs = self._opened()
        count = KEY_VALUE_PAGE_ENTRIES_MAX if limit is None else min(limit, KEY_VALUE_PAGE_ENTRIES_MAX)
        page: list[Pair] = []
        size = 0
        keys = pairs.irange(key_range.start, key_range.end, inclusive=(True, False), reverse=key_range.reverse)
        for key in keys:
            value = pairs[key]
            size += len(key) + len(value)
            if page and (len(page) == count or size > KEY_VALUE_PAGE_BYTES_MAX):
                return page, False
            page.append((key, value))
        return page, True

    def __repr__(self) -> str:
        return "MemoryKeyValueStore()"


class _BlockingMemory(BlockingKeyValueStore):
    def __init__(self, store: MemoryKeyValueStore) -> None:
        self._store = store

    def read(self, key: bytes) -> bytes | None:
        return self._store.read_now(key)

    def pages(self, key_range: KeyRange, limit: int | None = None) -> Iterator[Sequence[Pair]]:
        return self._store.pages_now(key_range, limit)

    def write(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        self._store.write_now(changes, expected)
