"""
Where a server keeps its journals: the port behind its ``storage`` slot.

A server journal is the sequence of sealed entries of one (tenant, public key). The server can read
nothing in them but the entry ids.
"""

from __future__ import annotations

import abc
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["Appended", "Found", "ServerStorage", "TenantInfo", "new_tenant_info"]


@dataclass(frozen=True, slots=True)
class TenantInfo:
    """
    What ``Hello`` says of a tenant.

    Attributes:
        remote_id: 16 random bytes (UUIDv4), kept for ever: a stock client uploads everything again to a new one.
        incarnation: 16 random bytes, renewed when the data was replaced.
    """

    remote_id: bytes
    incarnation: bytes


def new_tenant_info(random: Callable[[int], bytes] = os.urandom) -> TenantInfo:
    """Draw the ids of a tenant that is seen for the first time."""
    remote_id = uuid.UUID(bytes=random(16), version=4).bytes
    return TenantInfo(remote_id=remote_id, incarnation=random(16))


@dataclass(frozen=True, slots=True)
class Appended:
    """
    What became of an append.

    Attributes:
        sequences: One for each entry given, in that order; a duplicate has its first sequence.
        new: The entries that were stored now, contiguous and ascending; what subscribers are sent.
    """

    sequences: tuple[int, ...]
    new: tuple[RemoteEncryptedEntry, ...]


class Found(NamedTuple):
    """
    What was found of entries that were asked for by id.

    Attributes:
        entries: Those there are of the first ``answered`` ids, in the order of the ids.
        answered: How many ids were looked up before the answer became too long; at least one.
    """

    entries: list[RemoteEncryptedEntry]
    answered: int


class ServerStorage(abc.ABC):
    """
    Durable journals keyed by (tenant, public key); opened with ``async with``.

    Sequences per key start at 0, are contiguous and assigned in commit order, so a reader that has seen
    ``n`` never misses an entry below it. All methods raise
    :class:`~agentlayers.errors.StorageUnavailableError` when the medium refuses and
    :class:`~agentlayers.errors.StorageCorruptionError` when it holds something never written.
    """

    @abc.abstractmethod
    async def __aenter__(self) -> Self: ...

    @abc.abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @abc.abstractmethod
    async def tenant(self, tenant: str) -> TenantInfo:
        """Return the tenant's ids, creating them durably the first time."""

    @abc.abstractmethod
    async def append(self, tenant: str, public_key: str, entries: Sequence[EncryptedEntry]) -> Appended:
        """Store what is new; durable when this returns. Concurrent appends share a commit."""

    @abc.abstractmethod
    async def read(
        self, tenant: str, public_key: str, start: int, *, entries_max: int, bytes_max: int
    ) -> list[RemoteEncryptedEntry]:
        """Return entries from ``start`` on, in order, at least one if there is one, within the bounds."""

    @abc.abstractmethod
    async def find(self, tenant: str, public_key: str, entry_ids: Sequence[bytes], *, bytes_max: int) -> Found:
        """
        Look entries up by id.

        Args:
            tenant: Whose.
            public_key: Of the journal.
            entry_ids: At least one.
            bytes_max: Ciphertext at which to stop, but not before the first entry.
        """

    @abc.abstractmethod
    async def head(self, tenant: str, public_key: str) -> int:
        """Return the first unused sequence of the key; 0 if it has no entry."""

    @abc.abstractmethod
    async def digest(self, tenant: str, public_key: str, sequence: int) -> bytes | None:
        """
        Return the digest of all entry ids below ``sequence``; see :mod:`agentlayers.protocol.sequence_digest`.

        :obj:`None` if there are not so many entries, or if it was not computed yet: a storage that an older release
        filled does that in the background.
        """

    @staticmethod
    def layer_sqlite(directory: str | Path) -> Layer:
        """Provide journals in one SQLite file below ``directory``; the default of ``agentlayers serve``."""
        from agentlayers.layer import Layer
        from agentlayers.server.sqlite_storage import SQLiteServerStorage

        return Layer.scoped(ServerStorage, SQLiteServerStorage, directory=directory)

    @staticmethod
    def layer_memory() -> Layer:
        """Provide journals that are gone with the process."""
        from agentlayers.layer import Layer
        from agentlayers.server.memory_storage import MemoryServerStorage

        return Layer.scoped(ServerStorage, MemoryServerStorage)
