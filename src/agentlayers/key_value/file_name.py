"""
The name of a key's file: safe on every file system, at most 242 characters, and in the order of the keys.

Hexadecimal digits sort as the bytes they stand for, cannot collide on a file system that ignores case, and
hold any byte. A key too long for a name keeps its first bytes, for the order, and a digest; the file
itself holds every key whole.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["IS_NAME", "file_name", "key_of", "prefix_of", "shard_of"]

_WHOLE: Final = "k"
_CUT: Final = "l"
_WHOLE_BYTES_MAX: Final = 120
_CUT_BYTES: Final = 88

IS_NAME: Final = re.compile(r"k(?:[0-9a-f]{2}){0,120}|l[0-9a-f]{176}-[0-9a-f]{64}").fullmatch
"""Tells our files from what others drop into a directory."""


def file_name(key: bytes) -> str:
    """
    Return the name of a key's file.

    >>> file_name(b"a/b"), file_name(b""), len(file_name(bytes(4096)))
    ('k612f62', 'k', 242)

    """
    if len(key) <= _WHOLE_BYTES_MAX:
        return _WHOLE + key.hex()
    return f"{_CUT}{key[:_CUT_BYTES].hex()}-{hashlib.sha256(key).hexdigest()}"


def key_of(name: str) -> bytes | None:
    """
    Return the key of a name, :obj:`None` if only the file holds it whole.

    >>> key_of("k612f62"), key_of(file_name(bytes(500)))
    (b'a/b', None)

    """
    return bytes.fromhex(name[1:]) if name.startswith(_WHOLE) else None


def prefix_of(name: str) -> bytes:
    """Return the first bytes of the key of a name, all of them if they fit."""
    return bytes.fromhex(name[1:].partition("-")[0])


def shard_of(key: bytes) -> str:
    """Return the directory of a key: by digest, so that keys with a common prefix spread as well as others."""
    return hashlib.sha256(key).hexdigest()[:2]
