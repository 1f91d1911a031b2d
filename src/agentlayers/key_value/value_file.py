"""
The content of a key's file: ``ALKV``, version 1, a checksum, the key and the value.

The checksum tells damage from data; the key is in there whole because a long one is not in the name.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

__all__ = ["HEADER_BYTES", "decode_key", "decode_value", "encode_value"]

_HEADER: Final = struct.Struct(">5s16sH")
_MAGIC: Final = b"ALKV\x01"

HEADER_BYTES: Final = _HEADER.size
"""Bytes in front of the key."""


def encode_value(key: bytes, value: bytes) -> bytes:
    """Return the content of the file."""
    return b"".join((_HEADER.pack(_MAGIC, _checksum(key, value), len(key)), key, value))


def decode_value(data: bytes) -> tuple[bytes, bytes]:
    """
    Return key and value.

    Raises:
        ValueError: This was never written by :func:`encode_value`.
    """
    key = decode_key(data)
    value = data[HEADER_BYTES + len(key) :]
    if _HEADER.unpack_from(data)[1] != _checksum(key, value):
        raise ValueError("its checksum does not fit its content")
    return key, value


def decode_key(data: bytes) -> bytes:
    """
    Return the key from the beginning of a file; the checksum cannot be checked without the rest.

    Raises:
        ValueError: This is no beginning of such a file.
    """
    if len(data) < HEADER_BYTES:
        raise ValueError("it is too short")
    magic, _, key_size = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it is no file of a key-value store")
    key = data[HEADER_BYTES : HEADER_BYTES + key_size]
    if len(key) < key_size:
        raise ValueError("it is too short")
    return key


def _checksum(key: bytes, value: bytes) -> bytes:
    digest = hashlib.blake2b(key, digest_size=16, salt=len(key).to_bytes(4))
    digest.update(value)
    return digest.digest()
