"""
The port of every key-value store.

A store checks arguments and merges batches here, once; a medium implements :meth:`_read`, :meth:`_write` and
:meth:`_pages`, and what it can do better than one by one or over the event loop.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from agentlayers.errors import UsageError
from agentlayers.key_value.blocking_store import BlockingKeyValueStore, BridgedKeyValueStore
from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.expectation import NOTHING_EXPECTED, Expectation
from agentlayers.key_value.key_range import KeyRange

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["Changes", "Delete", "KeyValueStore", "Operation", "Pair", "Put"]

Pair: TypeAlias = tuple[bytes, bytes]
"""A key and its value."""

Changes: TypeAlias = Mapping[bytes, bytes | None]
"""What a write leaves behind: new values by key, :obj:`None` for a deleted key."""


@dataclass(frozen=True, slots=True)
class Put:
    """Store ``value`` under ``key``, in a batch."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ``key``, there or not, in a batch."""

    key: bytes


Operation: TypeAlias = Put | Delete
"""One step of a batch."""


class KeyValueStore(abc.ABC):
    """
    Values under keys, both bytes.

    Open it with ``async with``; leaving the block finishes what was begun and closes the medium. What
    ``capabilities`` promises is fixed by the class and can be asked before anything is opened.

    All methods raise :class:`~agentlayers.errors.StateError` when the store is not open,
    :class:`~agentlayers.errors.StorageUnavailableError` when the medium refuses (full, locked, gone) and
    :class:`~agentlayers.errors.StorageCorruptionError` when it holds something never written.
    """

    capabilities: ClassVar[KeyValueCapabilities]

    @abc.abstractmethod
    async def __aenter__(self) -> Self: ...

    @abc.abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    # -- what callers use ------------------------------------------------------------------------------
    async def get(self, key: bytes) -> bytes | None:
        """
        Return the value of a key, :obj:`None` if it has none.

        Raises:
            UsageError: The key is too long, or not bytes.
        """
        return await self._read(self._checked_key(key))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """
        Return the values of several keys in their order, :obj:`None` for one that has none.

        Cheaper than one after the other where the medium is far away, but not one look at the store.

        Raises:
            UsageError: A key is too long, or not bytes.
        """
        for key in keys:
            self._checked_key(key)
        return await self._read_many(keys)

    async def put(self, key: bytes, value: bytes) -> None:
        """
        Store a value; it replaces an earlier one, and nobody ever reads half of it.

        Raises:
            UsageError: Key or value are too long, or not bytes.
        """
        await self._write({self._checked_key(key): self._checked_value(value)}, NOTHING_EXPECTED)

    async def delete(self, key: bytes) -> None:
        """
        Delete a key; it need not be there.

        Raises:
            UsageError: The key is too long, or not bytes.
        """
        await self._write({self._checked_key(key): None}, NOTHING_EXPECTED)

    async def batch(self, operations: Iterable[Operation], *, expect: Expectation = NOTHING_EXPECTED) -> None:
        """
        Do several operations as if one after the other; all or none of them where the medium is able to.

        Ask ``capabilities.atomic_batches``. A later operation on a key wins. With ``expect`` the batch depends
        on what keys hold at that moment: nobody, in this process or another, gets in between (ask
        ``capabilities.conditional_batches``).

        Args:
            operations: What to do.
            expect: Values by key, :obj:`None` for a key that must not be there.

        Raises:
            UsageError: A key or value is too long, there is too much of it, something is no operation, or the
                medium cannot compare; nothing was done.
            StorageConflictError: A key does not hold what ``expect`` says; nothing was done.
        """
        changes: dict[bytes, bytes | None] = {}
        for operation in operations:
            if isinstance(operation, Put):
                # Checked here, where None is a mistake and not a deletion.
                changes[operation.key] = self._checked_value(operation.value)
            elif isinstance(operation, Delete):
                changes[operation.key] = None
            else:
                raise UsageError(f"a batch holds Put and Delete, not {type(operation).__name__}")
        await self.write_changes(changes, expect)

    async def write_changes(self, changes: Changes, expect: Expectation = NOTHING_EXPECTED) -> None:
        """Do what :meth:`batch` does with operations that are merged already; raises the same."""
        size = 0
        for key, value in changes.items():
            size += len(self._checked_key(key)) + (0 if value is None else len(self._checked_value(value)))
        for key in expect:
            self._checked_key(key)
        self._check_batch(len(changes), size, is_conditional=bool(expect))
        if changes or expect:
            await self._write(changes, expect)

    def scan(
        self,
        prefix: bytes = b"",
        *,
        start: bytes | None = None,
        end: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Sequence[Pair]]:
        """
        Iterate over pages of pairs, ordered by the bytes of their keys.

        No page is empty. The first page is one look at the store: it never shows half of an atomic
        batch. Behind it a scan is no snapshot: what is written meanwhile may be seen or not.

        Args:
            prefix: Only keys that begin with it.
            start: First key, inclusive.
            end: Where to stop, exclusive.
            reverse: Last key first.
            limit: At most that many pairs in all.

        Raises:
            UsageError: A bound that is not bytes, or a negative limit.
        """
        for name, bound in (("prefix", prefix), ("start", start), ("end", end)):
            if bound is not None and not isinstance(bound, bytes):
                raise UsageError(f"scan: {name} is {type(bound).__name__}; expected bytes")
        if limit is not None and limit < 0:
            raise UsageError(f"scan: limit is {limit}; expected 0 or more")
        return self._pages(KeyRange.of(prefix, start=start, end=end, reverse=reverse), limit)

    async def first_page(self, key_range: KeyRange, limit: int | None = None) -> tuple[Sequence[Pair], bool]:
        """Return the first page of a scan, and whether it is known that nothing is left behind it."""
        pages = self._pages(key_range, limit)
        page = await anext(pages, None)
        close = getattr(pages, "aclose", None)
        if close is not None:
            await close()
        return page or [], page is None

    async def home(self) -> str:
        """
        Say what a copy of this store does not share with it; empty where nothing tells the two apart.

        It is the same each time the store is opened; :func:`~agentlayers.file_mark.is_same_mark` compares. What was
        copied, or put back from a copy, has another one, so that whoever keeps a name in the store notices.
        """
        return ""

    def blocking(self) -> BlockingKeyValueStore:
        """
        Return this store for threads that may wait; call it on the event loop, while the store is open.

        It is good until the store is closed.
        """
        return BridgedKeyValueStore(self, asyncio.get_running_loop())

    # -- what a medium implements ----------------------------------------------------------------------
    @abc.abstractmethod
    async def _read(self, key: bytes) -> bytes | None:
        """Return one value."""

    async def _read_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return several values."""
        return [await self._read(key) for key in keys]

    @abc.abstractmethod
    async def _write(self, changes: Changes, expected: Expectation) -> None:
        """
        Make all changes, at once where batches are atomic; durable when it returns.

        With an expectation, which a medium gets only if it promises conditional batches, there may be none to make.
        """

    @abc.abstractmethod
    def _pages(self, key_range: KeyRange, limit: int | None) -> AsyncIterator[list[Pair]]:
        """Yield pages that are not empty; the range may be."""

    # -- checks ----------------------------------------------------------------------------------------
    def _checked_key(self, key: bytes) -> bytes:
        if not isinstance(key, bytes):
            raise UsageError(f"a key is {type(key).__name__}; expected bytes")
        if len(key) > self.capabilities.key_bytes_max:
            raise UsageError(f"a key has {len(key)} bytes; {self!r} takes up to {self.capabilities.key_bytes_max}")
        return key

    def _checked_value(self, value: bytes) -> bytes:
        if not isinstance(value, bytes):
            raise UsageError(f"a value is {type(value).__name__}; expected bytes")
        if len(value) > self.capabilities.value_bytes_max:
            raise UsageError(
                f"a value has {len(value)} bytes; {self!r} takes up to {self.capabilities.value_bytes_max}"
            )
        return value

    def _check_batch(self, operations: int, size: int, *, is_conditional: bool) -> None:
        limits = self.capabilities
        if is_conditional and not limits.conditional_batches:
            raise UsageError(f"{self!r} has no conditional batches; leave out expect, or choose another store")
        if operations > limits.batch_operations_max:
            raise UsageError(f"a batch has {operations} operations; {self!r} takes up to {limits.batch_operations_max}")
        if size > limits.batch_bytes_max:
            raise UsageError(f"a batch has {size} bytes; {self!r} takes up to {limits.batch_bytes_max}")

    # -- layers ----------------------------------------------------------------------------------------
    @staticmethod
    def layer_memory() -> Layer:
        """Keep everything in memory, for tests; it is gone when the store is closed."""
        from agentlayers.key_value.memory_store import MemoryKeyValueStore
        from agentlayers.layer import Layer

        return Layer.scoped(KeyValueStore, MemoryKeyValueStore)

    @staticmethod
    def layer_filesystem(directory: str | Path) -> Layer:
        """Keep one file for each key, below a directory of the store's own; survives any crash."""
        from agentlayers.key_value.filesystem_store import FileSystemKeyValueStore
        from agentlayers.layer import Layer

        return Layer.scoped(KeyValueStore, FileSystemKeyValueStore, directory=directory)

    @staticmethod
    def layer_sqlite(directory: str | Path) -> Layer:
        """Keep everything in ``key_value.sqlite`` in a directory; survives any crash."""
        from agentlayers.key_value.sqlite_store import SQLiteKeyValueStore
        from agentlayers.layer import Layer

        return Layer.scoped(KeyValueStore, SQLiteKeyValueStore, directory=directory)

    @staticmethod
    def layer_redis(
        url: str, *, password: str | None = None, namespace: str = "agentlayers", place: str | None = None
    ) -> Layer:
        """
        Keep everything in a Redis server; needs the extra ``agentlayers[redis]``.

        Args:
            url: ``redis://``, ``rediss://`` (TLS) or ``unix://``; may carry user, password and database number.
            password: Instead of one in the address; never shown, as a graph masks it.
            namespace: Stores of different namespaces share a database without meeting.
            place: Name of this copy of the data: give another one when a dump was put back, or runs on beside the
                server it was made of.
        """
        from agentlayers.key_value.redis_address import RedisAddress
        from agentlayers.key_value.redis_store import RedisKeyValueStore
        from agentlayers.layer import Layer

        # Taken out of the address here: drawings of the graph show addresses, but mask what is named a password.
        address = RedisAddress.parse(url, password=password)
        return Layer.scoped(
            KeyValueStore,
            RedisKeyValueStore,
            url=address.url,
            password=address.password,
            namespace=namespace,
            **({"place": place} if place else {}),
        )
