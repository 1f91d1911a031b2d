"""
The port of every key-value store.

A store checks arguments, merges batches and bounds pages here, once; a medium implements :meth:`_read`,
:meth:`_write` and :meth:`_pages` and nothing else.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from agentlayers.errors import UsageError
from agentlayers.key_value.capabilities import KeyValueCapabilities
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

    async def put(self, key: bytes, value: bytes) -> None:
        """
        Store a value; it replaces an earlier one, and nobody ever reads half of it.

        Raises:
            UsageError: Key or value are too long, or not bytes.
        """
        await self._write({self._checked_key(key): self._checked_value(value)})

    async def delete(self, key: bytes) -> None:
        """
        Delete a key; it need not be there.

        Raises:
            UsageError: The key is too long, or not bytes.
        """
        await self._write({self._checked_key(key): None})

    async def batch(self, operations: Iterable[Operation]) -> None:
        """
        Do several operations as if one after the other; all or none of them where the medium is able to.

        Ask ``capabilities.atomic_batches``. A later operation on a key wins.

        Raises:
            UsageError: A key or value is too long, or something is no operation; nothing was done.
        """
        changes: dict[bytes, bytes | None] = {}
        for operation in operations:
            if isinstance(operation, Put):
                changes[self._checked_key(operation.key)] = self._checked_value(operation.value)
            elif isinstance(operation, Delete):
                changes[self._checked_key(operation.key)] = None
            else:
                raise UsageError(f"a batch holds Put and Delete, not {type(operation).__name__}")
        if changes:
            await self._write(changes)

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

    # -- what a medium implements ----------------------------------------------------------------------
    @abc.abstractmethod
    async def _read(self, key: bytes) -> bytes | None:
        """Return one value."""

    @abc.abstractmethod
    async def _write(self, changes: Changes) -> None:
        """Make all changes (at least one), at once where batches are atomic; durable when it returns."""

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
    def layer_redis(url: str, *, password: str | None = None, namespace: str = "agentlayers") -> Layer:
        """
        Keep everything in a Redis server; needs the extra ``agentlayers[redis]``.

        Args:
            url: ``redis://``, ``rediss://`` (TLS) or ``unix://``; may carry user, password and database number.
            password: Instead of one in the address; never shown, as a graph masks it.
            namespace: Stores of different namespaces share a database without meeting.
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
        )
