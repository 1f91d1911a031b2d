"""
A key-value store for a thread that may wait: the same promises, without a coroutine.

What runs inside one synchronous function, such as a transaction of a journal, reads through this. Media that
block anyway offer a direct way; for the others every call is handed to the event loop and waited for.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentlayers.errors import StateError
from agentlayers.key_value.expectation import NOTHING_EXPECTED, Expectation
from agentlayers.key_value.key_range import KeyRange

if TYPE_CHECKING:
    from agentlayers.key_value.key_value_store import Changes, KeyValueStore, Pair

__all__ = ["BlockingKeyValueStore", "BridgedKeyValueStore"]

T = TypeVar("T")


class BlockingKeyValueStore(abc.ABC):
    """One open store, from any thread but that of the event loop; errors are those of the store."""

    @abc.abstractmethod
    def read(self, key: bytes) -> bytes | None:
        """Return the value of a key, :obj:`None` if it has none."""

    def read_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of several keys in their order; not one look at the store."""
        return [self.read(key) for key in keys]

    @abc.abstractmethod
    def pages(self, key_range: KeyRange, limit: int | None = None) -> Iterator[Sequence[Pair]]:
        """Iterate over pages of pairs as a scan does."""

    @abc.abstractmethod
    def write(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        """
        Make all changes at once if the store holds what is expected; durable when it returns.

        Raises:
            StorageConflictError: A key does not hold what is expected; nothing was done.
        """


class BridgedKeyValueStore(BlockingKeyValueStore):
    """
    A store behind the event loop it was opened on.

    Args:
        store: Open.
        loop: Its loop, which must go on running.
    """

    def __init__(self, store: KeyValueStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop

    def read(self, key: bytes) -> bytes | None:
        """Return one value."""
        return self._wait(self._store.get(key))

    def read_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return several values for the price of one visit to the loop."""
        return self._wait(self._store.get_many(keys))

    def pages(self, key_range: KeyRange, limit: int | None = None) -> Iterator[Sequence[Pair]]:
        """Yield pages; each is fetched when it is asked for."""
        is_last = False
        while not is_last and (limit is None or limit > 0):
            # One page at a time, so that nothing is left open when the caller stops early.
            page, is_last = self._wait(self._store.first_page(key_range, limit))
            if not page:
                return
            yield page
            limit = None if limit is None else limit - len(page)
            key_range = key_range.beyond(page[-1][0])

    def write(self, changes: Changes, expected: Expectation = NOTHING_EXPECTED) -> None:
        """Write as a batch."""
        self._wait(self._store.write_changes(changes, expected))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        # Waiting on the loop for the loop would be for ever.
        if self._loop.is_closed() or asyncio._get_running_loop() is self._loop:
            work.close()
            raise StateError(f"{self._store!r} blocks only other threads than that of its event loop, while that runs")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
