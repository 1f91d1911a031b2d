"""Order-preserving keys of read models: packed parts sort like the parts themselves."""

from __future__ import annotations

from agentlayers.errors import UsageError

__all__ = ["pack_key", "prefix_end", "unpack_text"]

_END_OF_ALL = b"\xff" * 64
_INTEGER_MAX = (1 << 64) - 1


def _pack_bytes(part: bytes) -> bytes:
    # 01 is the escape, so that a part's end (00) sorts before anything a longer part holds there.
    if b"\x00" in part or b"\x01" in part:
        part = part.replace(b"\x01", b"\x01\x02").replace(b"\x00", b"\x01\x01")
    return part + b"\x00"


def pack_key(*parts: str | int | bytes) -> bytes:
    r"""
    Join parts into one key that sorts as the tuple of its parts does.

    Text (as UTF-8) and bytes end with a zero byte, with 00 and 01 inside escaped; integers from 0 to
    2^64 - 1 take eight bytes. Parts at one place of a key must be of one type.

    Raises:
        UsageError: An integer out of range, text that is not valid Unicode, or another type.

    >>> pack_key("chat", 7)
    b'chat\x00\x00\x00\x00\x00\x00\x00\x00\x07'
    >>> pack_key("a", 2) < pack_key("a", 10) < pack_key("a\x00", 0) < pack_key("ab", 0)
    True

    """
    packed = []
    for part in parts:
        if isinstance(part, str):
            try:
                packed.append(_pack_bytes(part.encode()))
            except UnicodeEncodeError as error:
                raise UsageError(f"{part!r} is not valid Unicode text, so it cannot be in a key") from error
        elif isinstance(part, bytes):
            packed.append(_pack_bytes(part))
        elif isinstance(part, int) and 0 <= part <= _INTEGER_MAX:
            packed.append(part.to_bytes(8))
        else:
            raise UsageError(f"{part!r} cannot be in a key; expected text, bytes or an integer from 0 to 2^64 - 1")
    return b"".join(packed)


def unpack_text(packed: bytes) -> str:
    r"""
    Return the one text that was packed to these bytes, its end included.

    >>> unpack_text(pack_key("a\x00\x01"))
    'a\x00\x01'

    """
    return packed[:-1].replace(b"\x01\x01", b"\x00").replace(b"\x01\x02", b"\x01").decode()


def prefix_end(prefix: bytes) -> bytes:
    r"""
    Return the exclusive end of the keys that start with ``prefix``.

    >>> prefix_end(b"chat\x00"), prefix_end(b"a\xff")
    (b'chat\x01', b'b')

    """
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return _END_OF_ALL
    return stripped[:-1] + bytes([stripped[-1] + 1])
