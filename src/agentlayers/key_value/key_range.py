"""Which keys a scan visits, and where it goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from agentlayers.key_value.keys import prefix_end

__all__ = ["KeyRange"]


@dataclass(frozen=True, slots=True)
class KeyRange:
    r"""
    A contiguous range of keys, in the order of their bytes.

    Attributes:
        start: First key, inclusive.
        end: Where it ends, exclusive; :obj:`None` for the end of all keys.
        reverse: Visit the last key first.

    >>> KeyRange.of(b"chat", start=b"chat\x05")
    KeyRange(start=b'chat\x05', end=b'chau', reverse=False)
    """

    start: bytes = b""
    end: bytes | None = None
    reverse: bool = False

    @classmethod
    def of(
        cls,
        prefix: bytes = b"",
        *,
        start: bytes | None = None,
        end: bytes | None = None,
        reverse: bool = False,
    ) -> Self:
        """Return the keys that begin with ``prefix`` and lie from ``start`` up to, not including, ``end``."""
        first = prefix if start is None else max(prefix, start)
        # A prefix of nothing but 0xff bytes has no end.
        last = prefix_end(prefix) if prefix.strip(b"\xff") else None
        if end is not None:
            last = end if last is None else min(last, end)
        return cls(first, last, reverse)

    @property
    def is_empty(self) -> bool:
        """Whether no key can be in it."""
        return self.end is not None and self.start >= self.end

    def beyond(self, key: bytes) -> Self:
        """Return what is left of the range once ``key`` was visited."""
        return replace(self, end=key) if self.reverse else replace(self, start=key + b"\x00")

    def __contains__(self, key: bytes) -> bool:
        return self.start <= key and (self.end is None or key < self.end)
