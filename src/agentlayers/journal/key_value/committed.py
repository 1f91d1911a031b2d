"""
What is committed, as one journal sees it: its own keys only, whole values, a cache in front.

The first byte of every value tells whether it is whole. One that the medium does not take whole is cut into
pieces, which are put and deleted together with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from agentlayers.errors import StorageCorruptionError
from agentlayers.journal.key_value.cache import UNKNOWN, Unknown, ValueCache
from agentlayers.journal.key_value.keys import piece_prefix
from agentlayers.key_value.blocking_store import BlockingKeyValueStore
from agentlayers.key_value.capabilities import KeyValueCapabilities
from agentlayers.key_value.key_range import KeyRange
from agentlayers.limits import KEY_VALUE_VALUE_BYTES_MAX

__all__ = ["BACKEND", "VALUE_BYTES_MAX", "CommittedValues"]

BACKEND: Final = "key-value journal"

VALUE_BYTES_MAX: Final = KEY_VALUE_VALUE_BYTES_MAX - 1
"""Longest value of a journal, whatever its medium takes; a byte goes for the mark in front."""

_WHOLE: Final = b"\x00"
_CUT: Final = b"\x01"


class CommittedValues:
    """
    Reads of one journal's keys.

    Args:
        store: The store, for the journal's thread.
        root: Every key of the journal begins with it; keys are given and returned without it.
        capabilities: Of the store.

    Attributes:
        was_asked: The medium was looked at since this was last set to :obj:`False`.
    """

    def __init__(self, store: BlockingKeyValueStore, root: bytes, capabilities: KeyValueCapabilities) -> None:
        self._store, self._root = store, root
        self._piece_bytes = capabilities.value_bytes_max - len(_WHOLE)
        self._cache = ValueCache()
        self.key_bytes_max = capabilities.key_bytes_max - len(root)
        self.was_asked = False

    # -- reading -------------------------------------------------------------------------------------------
    def get(self, key: bytes) -> bytes | None:
        """Return a value, :obj:`None` if there is none."""
        found = self._cache.get(key)
        if isinstance(found, Unknown):
            self.was_asked = True
            found = self._whole(key, self._store.read(self._root + key))
            self._cache.put(key, found)
        return found

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return several values in the order of their keys; they do not displace what the cache holds."""
        found = [self._cache.get(key) for key in keys]
        missing = [key for key, value in zip(keys, found, strict=True) if value is UNKNOWN]
        if not missing:
            return [None if isinstance(value, Unknown) else value for value in found]
        self.was_asked = True
        read = iter(self._store.read_many([self._root + key for key in missing]))
        return [
            self._whole(key, next(read)) if isinstance(value, Unknown) else value
            for key, value in zip(keys, found, strict=True)
        ]

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the pairs with ``start <= key < end``, in key order."""
        if start >= end:
            return
        self.was_asked = True
        cut = len(self._root)
        key_range = KeyRange(self._root + start, self._root + end, reverse)
        for page in self._store.pages(key_range, limit):
            for key, value in page:
                whole = self._whole(key[cut:], value)
                if whole is not None:
                    yield key[cut:], whole

    def _whole(self, key: bytes, value: bytes | None) -> bytes | None:
        if value is None:
            return None
        if value[:1] == _WHOLE:
            return value[1:]
        if value[:1] != _CUT:
            raise self._damaged(key, "was not written by a journal")
        start = self._root + piece_prefix(key)
        pieces = [piece for page in self._store.pages(KeyRange.of(start)) for _key, piece in page]
        whole = b"".join(pieces)
        if hashlib.sha256(whole).digest() != value[1:]:
            raise self._damaged(key, "lacks a piece")
        return whole

    def _damaged(self, key: bytes, fault: str) -> StorageCorruptionError:
        reason = f"the value of key {(self._root + key)[:60]!r} {fault}; restore the store from a backup"
        return StorageCorruptionError(backend=BACKEND, operation="read", reason=reason)

    # -- writing -------------------------------------------------------------------------------------------
    def as_stored(self, changes: Iterable[tuple[bytes, bytes | None]]) -> dict[bytes, bytes | None]:
        """Return what has to be written to the store for these changes."""
        stored: dict[bytes, bytes | None] = {}
        for key, value in changes:
            if value is not None and len(value) > self._piece_bytes:
                stored.update(self._cut(key, value))
                continue
            if self._may_hold_pieces():
                stored.update(dict.fromkeys(self._piece_keys(key)))
            stored[self._root + key] = None if value is None else _WHOLE + value
        return stored

    def _cut(self, key: bytes, value: bytes) -> dict[bytes, bytes | None]:
        stored: dict[bytes, bytes | None] = dict.fromkeys(self._piece_keys(key))
        step = self._piece_bytes
        for number, start in enumerate(range(0, len(value), step)):
            stored[self._root + piece_prefix(key) + number.to_bytes(4)] = value[start : start + step]
        stored[self._root + key] = _CUT + hashlib.sha256(value).digest()
        return stored

    def _may_hold_pieces(self) -> bool:
        # Media that take every value whole never have to be asked what a new one replaces.
        return self._piece_bytes < VALUE_BYTES_MAX

    def _piece_keys(self, key: bytes) -> list[bytes]:
        before = self._store.read(self._root + key)
        if before is None or before[:1] != _CUT:
            return []
        return [found for page in self._store.pages(KeyRange.of(self._root + piece_prefix(key))) for found, _ in page]

    def committed(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Take note of what was written."""
        for key, value in changes.items():
            self._cache.replace(key, value)

    def forget(self) -> None:
        """Read everything anew: what is in the store is not what was thought."""
        self._cache.clear()
