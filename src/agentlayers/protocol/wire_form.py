"""
The MessagePack forms a stock peer writes, as small functions over bytes.

msgpackr writes every object as map16, whatever its size, and every number outside
``-2**31..2**32-1`` as float64. No option of python-msgpack does that, so these headers are put
together here.
"""

from __future__ import annotations

import struct
from typing import Final

import msgpack

from agentlayers.errors import LocalProtocolError

__all__ = [
    "INTEGER_MAX",
    "NATIVE_MAX",
    "NATIVE_MIN",
    "array_header",
    "bin_header",
    "map_header",
    "pack_bin",
    "pack_number",
    "pack_str",
    "pack_wide_integer",
]

NATIVE_MIN: Final = -(2**31)
NATIVE_MAX: Final = 2**32 - 1
"""Integers from here to there travel as such, others as float64: stock peers reject 64 bits."""
INTEGER_MAX: Final = 2**53
"""Largest integer a stock peer can hold exactly."""

_head8: Final = struct.Struct(">BB").pack
_head16: Final = struct.Struct(">BH").pack
_head32: Final = struct.Struct(">BI").pack
_float64: Final = struct.Struct(">Bd").pack
_packer: Final = msgpack.Packer(use_bin_type=True)
_pack: Final = _packer.pack
_BIN8: Final = tuple(_head8(0xC4, size) for size in range(256))


def map_header(size: int) -> bytes:
    """Open a map of ``size`` keys: always map16 while that holds, as stock peers do."""
    return _head16(0xDE, size) if size < 0x1_0000 else _head32(0xDF, size)


def array_header(size: int) -> bytes:
    """Open an array of ``size`` items in its shortest form."""
    if size < 16:
        return bytes((0x90 | size,))
    return _head16(0xDC, size) if size < 0x1_0000 else _head32(0xDD, size)


def bin_header(size: int) -> bytes:
    """Open a byte string of ``size`` bytes in its shortest form."""
    if size < 256:
        return _BIN8[size]
    return _head16(0xC5, size) if size < 0x1_0000 else _head32(0xC6, size)


def pack_bin(data: bytes) -> bytes:
    """Write bytes."""
    return bin_header(len(data)) + data


def pack_str(text: str, *, field: str) -> bytes:
    """
    Write text.

    Raises:
        LocalProtocolError: It holds half a surrogate pair, which UTF-8 cannot express.
    """
    try:
        return bytes(_pack(text))
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{field}: the text holds an unpaired surrogate, which has no UTF-8 form") from None


def pack_wide_integer(value: int) -> bytes:
    """Write an integer that is not native, of a magnitude up to ``INTEGER_MAX``."""
    return _float64(0xCB, value)


def pack_number(value: int, *, field: str) -> bytes:
    """
    Write a message's number (an id, a sequence).

    Raises:
        LocalProtocolError: Negative, or beyond what a stock peer can hold.
    """
    if not 0 <= value <= INTEGER_MAX:
        raise LocalProtocolError(f"{field}: {value} is outside 0..2**53")
    return bytes(_pack(value)) if value <= NATIVE_MAX else _float64(0xCB, value)
