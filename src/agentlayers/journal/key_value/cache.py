"""The values a journal asks for again and again, so that a medium far away is asked once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from agentlayers.limits import JOURNAL_CACHE_BYTES_MAX, JOURNAL_CACHED_VALUE_BYTES_MAX

__all__ = ["UNKNOWN", "Unknown", "ValueCache"]


class Unknown:
    """Type of :data:`UNKNOWN`."""


UNKNOWN: Final = Unknown()
"""Not in the cache; :obj:`None` is: the key is known to have no value."""

_KEY_BYTES: Final = 150
"""About what a key costs beside its own bytes."""


class ValueCache:
    """
    Committed values by key, the least recently used dropped first.

    It is right as long as its journal is the only writer, which the fence makes sure of.
    """

    def __init__(self) -> None:
        self._values: OrderedDict[bytes, bytes | None] = OrderedDict()
        self._size = 0

    def get(self, key: bytes) -> bytes | Unknown | None:
        """Return a value, or that it is not known."""
        found = self._values.get(key, UNKNOWN)
        if found is not UNKNOWN:
            self._values.move_to_end(key)
        return found

    def put(self, key: bytes, value: bytes | None) -> None:
        """Keep a value that was read, or :obj:`None` for none."""
        self.discard(key)
        if value is not None and len(value) > JOURNAL_CACHED_VALUE_BYTES_MAX:
            return
        self._values[key] = value
        self._size += _size(key, value)
        while self._size > JOURNAL_CACHE_BYTES_MAX:
            self._size -= _size(*self._values.popitem(last=False))

    def replace(self, key: bytes, value: bytes | None) -> None:
        """Take over what was committed, if anybody asked for it before."""
        if key in self._values:
            self.put(key, value)

    def discard(self, key: bytes) -> None:
        """Forget a value."""
        found = self._values.pop(key, UNKNOWN)
        if not isinstance(found, Unknown):
            self._size -= _size(key, found)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self._size = 0


def _size(key: bytes, value: bytes | None) -> int:
    return _KEY_BYTES + len(key) + len(value or b"")
