"""
Maps written as msgpackr's *records*, which stock peers read but never write.

A record definition is ``d4 72 id``, an array of keys, then one value for each key; afterwards the byte
``id`` (0x40 to 0x7f) stands for another record of the same keys. Records are no MessagePack, so they are
rewritten as maps before anything else looks at them. That is slow and done only for input that could not
be read otherwise, and only up to a small size, because nobody is known to send it.
"""

from __future__ import annotations

from typing import Final, final

from agentlayers.protocol.wire_form import map_header

__all__ = ["expand_records"]

_MARK: Final = b"\xd4\x72"
_INPUT_BYTES_MAX: Final = 64 * 1024
_OUTPUT_BYTES_MAX: Final = 1024 * 1024
"""Each record repeats its keys, so a short input could grow without end."""
_DEPTH_MAX: Final = 64
_IDS: Final = range(0x40, 0x80)

# Bytes after the first one: of a scalar of fixed size, of the length of a string, bytes or extension, of
# the count of an array or map.
_FIXED: Final = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 0),
    0xCC: 1,
    0xD0: 1,
    0xCD: 2,
    0xD1: 2,
    0xCA: 4,
    0xCE: 4,
    0xD2: 4,
    0xCB: 8,
    0xCF: 8,
    0xD3: 8,
    0xD4: 2,
    0xD5: 3,
    0xD6: 5,
    0xD7: 9,
    0xD8: 17,
}
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4}
_EXTENSIONS: Final = frozenset({0xC7, 0xC8, 0xC9})
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def expand_records(data: bytes) -> bytes | None:
    """
    Rewrite each record as a map.

    Returns:
        The same value without records, or None if there are none, or it cannot be done.
    """
    if len(data) > _INPUT_BYTES_MAX or _MARK not in data:
        return None
    try:
        expanded = _Expansion(data).run()
    except (_NoValueError, IndexError):
        return None
    return None if expanded == data else expanded


class _NoValueError(Exception):
    """Not one MessagePack value, too deep, or too long once rewritten."""


@final
class _Expansion:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._keys: dict[int, list[bytes]] = {}

    def run(self) -> bytes:
        self._value(_DEPTH_MAX)
        if self._at != len(self._data):
            raise _NoValueError
        return b"".join(self._parts)

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > _OUTPUT_BYTES_MAX:
            raise _NoValueError
        self._parts.append(part)

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise IndexError
        self._at += size
        return part

    def _value(self, depth: int) -> None:
        if depth <= 0:
            raise _NoValueError
        first = self._data[self._at]
        if first in self._keys:
            self._at += 1
            self._record(self._keys[first], depth)
        elif self._data[self._at : self._at + 2] == _MARK and self._data[self._at + 2] in _IDS:
            self._definition(depth)
        else:
            count = self._head(first)
            for _ in range(count):
                self._value(depth - 1)

    def _definition(self, depth: int) -> None:
        record_id = self._take(3)[2]
        written, size = self._parts, self._size
        self._parts = []
        count = self._head(self._data[self._at])
        keys: list[bytes] = []
        for _ in range(count):
            self._parts = []
            self._value(depth - 1)
            keys.append(b"".join(self._parts))
        self._parts, self._size = written, size
        self._keys[record_id] = keys
        self._record(keys, depth)

    def _record(self, keys: list[bytes], depth: int) -> None:
        self._add(map_header(len(keys)))
        for key in keys:
            self._add(key)
            self._value(depth - 1)

    def _head(self, first: int) -> int:
        """Copy a value's head, with a scalar's content, and return how many values belong to it."""
        if first <= 0x7F or first >= 0xE0:
            self._add(self._take(1))
            return 0
        if first <= 0x9F:
            self._add(self._take(1))
            return (first & 0x0F) * (2 if first <= 0x8F else 1)
        if first <= 0xBF:
            self._add(self._take(1 + (first & 0x1F)))
            return 0
        return self._long_head(first)

    def _long_head(self, first: int) -> int:
        if first in _FIXED:
            self._add(self._take(1 + _FIXED[first]))
            return 0
        if first in _SIZED:
            width = _SIZED[first]
            size = int.from_bytes(self._data[self._at + 1 : self._at + 1 + width])
            self._add(self._take(1 + width + size + (first in _EXTENSIONS)))
            return 0
        if first in _COUNTED:
            width, each = _COUNTED[first]
            head = self._take(1 + width)
            self._add(head)
            return int.from_bytes(head[1:]) * each
        raise _NoValueError
