"""
Which pieces of large content are here, which artifacts refer to them, and which of these are missing.

These rows are a function of the entries held, like those of :mod:`~agentlayers.storage.artifact_index`. Others are
not, because they depend on when things happened here, and have a name space of their own: from when on a piece that
nothing refers to may be dropped, which ones were dropped, and which are asked for (see
:mod:`~agentlayers.storage.artifact_exchange`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.limits import ARTIFACT_CHUNK_WAIT_SECONDS, ENTRY_ID_BYTES
from agentlayers.protocol.payload import decode_payload
from agentlayers.storage.artifact import STORE
from agentlayers.storage.artifact_chunk import DIGEST_BYTES, read_chunk

__all__ = [
    "add_chunk",
    "asked_prefix",
    "chunk_data",
    "chunk_entries",
    "due_chunks",
    "has_all",
    "is_held",
    "is_needed",
    "keep_for_now",
    "referrers",
    "remove_chunk",
    "set_references",
    "wanted_prefix",
]

_LOCAL: Final = "artifact_chunks"


# -- pieces -------------------------------------------------------------------------------------------------
def add_chunk(tx: JournalTransaction, digest: bytes, entry_id: bytes) -> None:
    """Note that a piece is here."""
    if not is_held(tx, digest):
        for primary_key in referrers(tx, digest):
            tx.delete(_missing_prefix(primary_key) + digest)
        if not _is_referred_to(tx, digest):
            # Its record is still on its way: an upload in progress, or one that another replica made.
            keep_for_now(tx, digest)
        tx.delete(_gone_key(digest))
        tx.delete(asked_prefix() + digest)
    tx.put(_held_prefix(digest) + entry_id, b"")


def remove_chunk(tx: JournalTransaction, digest: bytes, entry_id: bytes) -> None:
    """Note that an entry that held a piece is dropped."""
    key = _held_prefix(digest) + entry_id
    if tx.get(key) is None:
        return
    tx.delete(key)
    if not is_held(tx, digest):
        tx.delete(_due_key(digest))
        tx.put(_gone_key(digest), b"")
        for primary_key in referrers(tx, digest):
            tx.put(_missing_prefix(primary_key) + digest, b"")


def is_held(tx: JournalTransaction, digest: bytes) -> bool:
    """Tell whether a piece is here."""
    return next(_held_ids(tx, digest, limit=1), None) is not None


def chunk_entries(tx: JournalTransaction, digest: bytes) -> list[bytes]:
    """List the entries that hold a piece: several if replicas wrote it without knowing of each other."""
    return list(_held_ids(tx, digest))


def chunk_data(tx: JournalTransaction, digest: bytes) -> bytes | None:
    """
    Read a piece; :obj:`None` if it is not here.

    Raises:
        MalformedMessageError: The journal's bytes are not those that were stored.
    """
    for entry_id in _held_ids(tx, digest):
        entry = tx.entry(entry_id)
        if entry is not None:
            return read_chunk(entry.primary_key, decode_payload(entry.payload))[1]
    return None


# -- references ---------------------------------------------------------------------------------------------
def set_references(tx: JournalTransaction, primary_key: str, digests: Iterable[bytes]) -> None:
    """Replace what the live versions of an artifact consist of."""
    key = pack_key(STORE, "n", primary_key)
    before, after = set(_split(tx.get(key) or b"")), set(digests)
    if before == after:
        return
    for digest in sorted(after - before):
        if not is_held(tx, digest):
            tx.put(_missing_prefix(primary_key) + digest, b"")
            if tx.get(_gone_key(digest)) is not None:
                tx.put(asked_prefix() + digest, b"")
        tx.put(_reference_prefix(digest) + primary_key.encode(), b"")
        tx.delete(_due_key(digest))
    for digest in sorted(before - after):
        tx.delete(_reference_prefix(digest) + primary_key.encode())
        tx.delete(_missing_prefix(primary_key) + digest)
        if is_held(tx, digest) and not _is_referred_to(tx, digest) and tx.get(_due_key(digest)) is None:
            _set_due(tx, digest, tx.now_ms())
    if after:
        tx.put(key, b"".join(sorted(after)))
    else:
        tx.delete(key)


def has_all(tx: JournalTransaction, primary_key: str, digests: Iterable[bytes]) -> bool:
    """Tell whether all pieces of one version of an artifact are here."""
    wanted = set(digests)
    prefix = _missing_prefix(primary_key)
    missing = {key[-DIGEST_BYTES:] for key, _value in tx.scan(prefix, prefix_end(prefix))}
    if not wanted.isdisjoint(missing):
        return False
    # A version that is superseded refers to nothing any more, so its pieces are looked up one by one.
    referred = set(_split(tx.get(pack_key(STORE, "n", primary_key)) or b""))
    return all(is_held(tx, digest) for digest in wanted - referred)


def is_needed(tx: JournalTransaction, digest: bytes) -> bool:
    """Tell whether a piece must stay: an artifact consists of it, or may soon."""
    due = tx.get(_due_key(digest))
    return _is_referred_to(tx, digest) or (due is not None and int.from_bytes(due) > tx.now_ms())


def keep_for_now(tx: JournalTransaction, digest: bytes) -> None:
    """Let a piece wait for a record that refers to it."""
    _set_due(tx, digest, tx.now_ms() + int(ARTIFACT_CHUNK_WAIT_SECONDS * 1000))


def due_chunks(tx: JournalTransaction, after: bytes, limit: int) -> list[bytes]:
    """List pieces that nothing refers to and that need not wait any more, behind the one given."""
    prefix = pack_key(_LOCAL, "due")
    found = []
    for key, due in tx.scan(prefix + after + b"\x00" if after else prefix, prefix_end(prefix)):
        digest = key[-DIGEST_BYTES:]
        if int.from_bytes(due) <= tx.now_ms() and not _is_referred_to(tx, digest):
            found.append(digest)
            if len(found) >= limit:
                break
    return found


def _set_due(tx: JournalTransaction, digest: bytes, due_ms: int) -> None:
    tx.put(_due_key(digest), due_ms.to_bytes(8))


def referrers(tx: JournalTransaction, digest: bytes) -> list[str]:
    """List the keys of the artifacts that consist of a piece, among others."""
    prefix = _reference_prefix(digest)
    return [key[len(prefix) :].decode() for key, _value in tx.scan(prefix, prefix_end(prefix))]


def _is_referred_to(tx: JournalTransaction, digest: bytes) -> bool:
    prefix = _reference_prefix(digest)
    return next(iter(tx.scan(prefix, prefix_end(prefix), limit=1)), None) is not None


def _held_ids(tx: JournalTransaction, digest: bytes, limit: int | None = None) -> Iterator[bytes]:
    prefix = _held_prefix(digest)
    return (key[-ENTRY_ID_BYTES:] for key, _value in tx.scan(prefix, prefix_end(prefix), limit=limit))


def _held_prefix(digest: bytes) -> bytes:
    return pack_key(STORE, "c") + digest


def _reference_prefix(digest: bytes) -> bytes:
    return pack_key(STORE, "r") + digest


def _missing_prefix(primary_key: str) -> bytes:
    return pack_key(STORE, "m", primary_key)


def asked_prefix() -> bytes:
    """Return what the keys of pieces start with that an artifact needs, but that were dropped here."""
    return pack_key(_LOCAL, "ask")


def wanted_prefix() -> bytes:
    """Return what the keys of pieces start with that are here and that others want."""
    return pack_key(_LOCAL, "give")


def _gone_key(digest: bytes) -> bytes:
    return pack_key(_LOCAL, "gone") + digest


def _due_key(digest: bytes) -> bytes:
    return pack_key(_LOCAL, "due") + digest


def _split(digests: bytes) -> list[bytes]:
    return [digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)]
