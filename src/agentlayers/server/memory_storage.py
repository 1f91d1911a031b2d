"""Server journals in memory: for tests and demos, gone with the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from agentlayers.protocol.messages import EncryptedEntry, RemoteEncryptedEntry
from agentlayers.protocol.sequence_digest import EMPTY_DIGEST, extend_digest
from agentlayers.server.storage import Appended, Found, ServerStorage, TenantInfo, new_tenant_info

__all__ = ["MemoryServerStorage"]


@dataclass(slots=True)
class _Journal:
    entries: list[RemoteEncryptedEntry] = field(default_factory=list)
    sequence_of: dict[bytes, int] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=lambda: [EMPTY_DIGEST])


class MemoryServerStorage(ServerStorage):
    """
    Journals that live as long as the object, also across several ``async with``.

    Args:
        random: Source of the tenants' ids.
    """

    def __init__(self, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._tenants: dict[str, TenantInfo] = {}
        self._journals: dict[tuple[str, str], _Journal] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    async def tenant(self, tenant: str) -> TenantInfo:
        """Return the tenant's ids, creating them the first time."""
        if tenant not in self._tenants:
            self._tenants[tenant] = new_tenant_info(self._random)
        return self._tenants[tenant]

    async def append(self, tenant: str, public_key: str, entries: Sequence[EncryptedEntry]) -> Appended:
        """Store what is new and give each entry its sequence."""
        journal = self._journals.setdefault((tenant, public_key), _Journal())
        sequences: list[int] = []
        new: list[RemoteEncryptedEntry] = []
        for entry in entries:
            sequence = journal.sequence_of.get(entry.entry_id)
            if sequence is None:
                sequence = len(journal.entries)
                stored = RemoteEncryptedEntry(sequence, entry.iv, entry.entry_id, entry.ciphertext)
                journal.sequence_of[entry.entry_id] = sequence
                journal.entries.append(stored)
                new.append(stored)
            sequences.append(sequence)
        first = len(journal.entries) - len(new)
        journal.digests += extend_digest(journal.digests[-1], first, [entry.entry_id for entry in new])
        return Appended(tuple(sequences), tuple(new))

    async def read(
        self, tenant: str, public_key: str, start: int, *, entries_max: int, bytes_max: int
    ) -> list[RemoteEncryptedEntry]:
        """Return entries from ``start`` on, within the bounds, at least one if there is one."""
        journal = self._journals.get((tenant, public_key))
        if journal is None:
            return []
        start = max(start, 0)
        chosen: list[RemoteEncryptedEntry] = []
        total = 0
        for entry in journal.entries[start : start + entries_max]:
            total += len(entry.ciphertext)
            if chosen and total > bytes_max:
                break
            chosen.append(entry)
        return chosen

    async def find(self, tenant: str, public_key: str, entry_ids: Sequence[bytes], *, bytes_max: int) -> Found:
        """Look entries up by id, within the bound."""
        journal = self._journals.get((tenant, public_key), _Journal())
        found = Found([], len(entry_ids))
        total = 0
        for answered, entry_id in enumerate(entry_ids):
            sequence = journal.sequence_of.get(entry_id)
            if sequence is None:
                continue
            entry = journal.entries[sequence]
            total += len(entry.ciphertext)
            if found.entries and total > bytes_max:
                return found._replace(answered=answered)
            found.entries.append(entry)
        return found

    async def head(self, tenant: str, public_key: str) -> int:
        """Return the first unused sequence of the key."""
        journal = self._journals.get((tenant, public_key))
        return 0 if journal is None else len(journal.entries)

    async def digest(self, tenant: str, public_key: str, sequence: int) -> bytes | None:
        """Return the digest of all entry ids below a sequence."""
        journal = self._journals.get((tenant, public_key), _Journal())
        return journal.digests[sequence] if 0 <= sequence < len(journal.digests) else None
