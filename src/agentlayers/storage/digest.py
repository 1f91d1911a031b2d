"""
One number for everything that is synced, equal on two replicas exactly if they hold the same.

The digest is SHA-256 over the synced entries in ascending order of entry id, each as its id (16
bytes), the length of its payload (8 bytes, big-endian) and its payload. Local observations
(``sync_conflict``, ``sync_compaction``) differ between replicas by nature and are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.limits import JOURNAL_PAGE_BYTES_MAX
from agentlayers.storage.event_groups import UNSYNCED_EVENTS

__all__ = ["Digest", "digest_of", "digest_of_sorted", "is_synced", "journal_digest"]

_BATCH: Final = 1000


class Digest(NamedTuple):
    """
    What is synced, as one number.

    Attributes:
        entries: How many entries it covers.
        hex: SHA-256 in hexadecimal.
    """

    entries: int
    hex: str


def is_synced(stored: StoredEntry, *, is_observation: bool = False) -> bool:
    """
    Tell whether an entry is sent to remotes and part of digests, if its store is synced.

    Args:
        stored: The entry.
        is_observation: An application's store declares it to be no more than an observation of this replica.
    """
    return not is_observation and stored.entry.event not in UNSYNCED_EVENTS


def digest_of(entries: Iterable[tuple[bytes, bytes]]) -> Digest:
    """
    Return the digest of (entry id, payload) pairs, in whatever order they come; an id counts once.

    >>> first, second = (b"a" * 16, b"1"), (b"b" * 16, b"2")
    >>> digest_of([second, first]) == digest_of([first, second, first])
    True

    """
    return digest_of_sorted(sorted(dict(entries).items()))


async def journal_digest(journal: EventJournal, *, stores: Collection[str] | None = None) -> Digest:
    """
    Return the digest of what a journal holds, on one consistent snapshot.

    Args:
        journal: An open journal.
        stores: Only these stores; all if not given. Two replicas can only agree on what both sync.
    """
    return await journal.read(lambda tx: digest_of(_synced(tx, stores)))


def _synced(tx: JournalTransaction, stores: Collection[str] | None) -> Iterator[tuple[bytes, bytes]]:
    observed = {name: schema.unsynced_events for name, schema in tx.registry.schemas.items()}
    after = 0
    while batch := tx.entries(None, after=after, entries_max=_BATCH, bytes_max=JOURNAL_PAGE_BYTES_MAX):
        after = batch[-1].position
        for stored in batch:
            is_observation = stored.is_local and stored.entry.event in observed.get(stored.store, ())
            if is_synced(stored, is_observation=is_observation) and (stores is None or stored.store in stores):
                yield stored.entry.id, stored.entry.payload


def digest_of_sorted(pairs: Iterable[tuple[bytes, bytes]]) -> Digest:
    """Return the digest of (entry id, payload) pairs that come in ascending order, one in memory at a time."""
    digest, count, last = hashlib.sha256(), 0, b""
    for entry_id, payload in pairs:
        if entry_id == last:
            continue
        last = entry_id
        digest.update(entry_id + len(payload).to_bytes(8, "big") + payload)
        count += 1
    return Digest(count, digest.hexdigest())
