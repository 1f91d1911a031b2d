"""Pairs in an ordered map: the fake of the tests, proven by the same contract as the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, ClassVar, Self

from sortedcontainers import SortedDict

from agentlayers.errors import StateError
from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.key_range import KeyRange
from agentlayers.key_value.key_value_store import Changes, KeyValueStore, Pair
from agentlayers.limits import KEY_VALUE_PAGE_BYTES_MAX, KEY_VALUE_PAGE_ENTRIES_MAX

__all__ = ["MemoryKeyValueStore"]


class MemoryKeyValueStore(KeyValueStore):
    """Keep everything in memory; what was stored is gone when the store is closed."""

    capabilities: ClassVar = KeyValueCapabilities(
        ordered_scans=True, atomic_batches=True, durable=False, shared_between_processes=False
    )

    def __init__(self) -> None:
        self._pairs: Any = None

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

    async def _read(self, key: bytes) -> bytes | None:
        value: bytes | None = self._opened().get(key)
        return value

    async def _write(self, changes: Changes) -> None:
        pairs = self._opened()
        # No await in here, so nobody sees half of it.
        for key, value in changes.items():
            if value is None:
                pairs.pop(key, None)
            else:
                pairs[key] = value

    async def _pages(self, key_range: KeyRange, limit: int | None) -> AsyncIterator[list[Pair]]:
        self._opened()
        is_last = key_range.is_empty
        while not is_last and (limit is None or limit > 0):
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
