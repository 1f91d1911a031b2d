"""
Pages of a read, and the opaque cursors between them.

A cursor names the last item of a page, never a count of items, so it stays right while others
append, delete and sync.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Generic, TypeVar

from agentlayers.errors import UsageError
from agentlayers.key_value.keys import prefix_end

__all__ = ["Page", "format_cursor", "parse_cursor", "range_behind"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """
    One page of a longer list.

    Attributes:
        items: In the order asked for.
        next_cursor: Pass it to the same read for what follows; :obj:`None` on the last page.
    """

    items: tuple[T, ...]
    next_cursor: str | None


def format_cursor(position: bytes) -> str:
    """Turn a place in an ordered read into a text that is safe in URLs."""
    return base64.urlsafe_b64encode(position).rstrip(b"=").decode("ascii")


def parse_cursor(cursor: str) -> bytes:
    """
    Turn a cursor back into the place it names.

    Raises:
        UsageError: Not a cursor of ours.

    >>> parse_cursor(format_cursor(b"here"))
    b'here'

    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise UsageError(
            f"cursor: {cursor!r} cannot be used; expected the next_cursor of a page or the cursor of an item"
        ) from error


def range_behind(prefix: bytes, place: bytes | None, *, reverse: bool) -> tuple[bytes, bytes]:
    """
    Return the keys with ``prefix`` that follow ``place`` in the direction of reading; all if it is none.

    >>> range_behind(b"p", b"x", reverse=True), range_behind(b"p", None, reverse=True)
    ((b'p', b'px'), (b'p', b'q'))

    """
    start, end = prefix, prefix_end(prefix)
    if place is None:
        return start, end
    return (start, prefix + place) if reverse else (prefix + place + b"\x00", end)
