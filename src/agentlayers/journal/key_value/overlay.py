"""
What a transaction changed, over what is committed, with savepoints.

Everything stays here until the commit, which writes it as one batch; look-ups and scans see through it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any, Final

from agentlayers.errors import StorageError
from agentlayers.journal.key_value.codec import Unencoded, encode, size_of
from agentlayers.journal.key_value.committed import BACKEND, CommittedValues

__all__ = ["Overlay"]

_ABSENT: Final = object()
_KEY_BYTES: Final = 64
"""About what the root of a key, and keeping it, add to a change."""


class Overlay:
    """
    Changes of one or several transactions that share a commit.

    Args:
        committed: What is beneath.
        bytes_max: What the changes of one transaction may take.
        changes_max: How many there may be.

    Attributes:
        size: About how many bytes the changes take.
    """

    def __init__(self, committed: CommittedValues, *, bytes_max: int, changes_max: int) -> None:
        self.committed = committed
        self.size = 0
        self._changes: dict[bytes, bytes | Unencoded | None] = {}
        self._sorted: list[bytes] | None = None  # only once something was scanned
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._keeps_undo = False
        self._bytes_max, self._changes_max = bytes_max, changes_max
        self._limits = (bytes_max, changes_max)

    # -- reading -------------------------------------------------------------------------------------------
    def get(self, key: bytes) -> Any:
        """Return bytes, or what was put and is not encoded yet; :obj:`None` if there is nothing."""
        found = self._changes.get(key, _ABSENT)
        return self.committed.get(key) if found is _ABSENT else found

    def get_many(self, keys: Sequence[bytes]) -> list[Any]:
        """Return several values in the order of their keys."""
        if not self._changes:
            return list(self.committed.get_many(keys))
        found = [self._changes.get(key, _ABSENT) for key in keys]
        read = iter(self.committed.get_many([key for key, value in zip(keys, found, strict=True) if value is _ABSENT]))
        return [next(read) if value is _ABSENT else value for value in found]

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, Any]]:
        """Iterate over what there is when the scan begins, in key order."""
        kept = self._kept(start, end)
        if not kept:
            yield from self.committed.scan(start, end, reverse=reverse, limit=limit)
            return
        if reverse:
            kept.reverse()
        found_max = None if limit is None else limit + len(kept)
        found = self.committed.scan(start, end, reverse=reverse, limit=found_max)
        for count, pair in enumerate(self._merged(found, kept, reverse=reverse)):
            if limit is not None and count >= limit:
                return
            yield pair

    def _kept(self, start: bytes, end: bytes) -> list[bytes]:
        if not self._changes:
            return []
        if self._sorted is None:
            self._sorted = sorted(self._changes)
        return self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, end)]

    def _merged(
        self, found: Iterator[tuple[bytes, bytes]], kept: list[bytes], *, reverse: bool
    ) -> Iterator[tuple[bytes, Any]]:
        values = {key: self._changes[key] for key in kept}
        at = 0
        for key, value in found:
            while at < len(kept) and (kept[at] > key if reverse else kept[at] < key):
                if values[kept[at]] is not None:
                    yield kept[at], values[kept[at]]
                at += 1
            if key not in values:
                yield key, value
        for key in kept[at:]:
            if values[key] is not None:
                yield key, values[key]

    # -- writing -------------------------------------------------------------------------------------------
    def put(self, key: bytes, value: bytes | Unencoded | None) -> None:
        """
        Change a value, or delete it with :obj:`None`.

        Raises:
            StorageError: The transaction holds more than the medium takes at once.
        """
        before = self._changes.get(key, _ABSENT)
        if before is _ABSENT:
            self.size += len(key) + _KEY_BYTES
            if self._sorted is not None:
                insort(self._sorted, key)
        else:
            self.size -= size_of(before)  # type: ignore[arg-type]
        if self._keeps_undo:
            self._undo.append((self._changes, key, before))
        self._changes[key] = value
        self.size += size_of(value)
        if self.size > self._bytes_max or len(self._changes) > self._changes_max:
            raise self._too_much()

    def _too_much(self) -> StorageError:
        size, count = self._limits
        reason = (
            f"one transaction holds more than the medium takes at once, which is {size} bytes and {count} changes; "
            "do it in several transactions"
        )
        return StorageError(backend=BACKEND, operation="write", reason=reason)

    def set(self, target: dict[Any, Any], key: Any, value: Any) -> None:
        """Change a dictionary that follows the transaction: undone with it."""
        if self._keeps_undo:
            self._undo.append((target, key, target.get(key, _ABSENT)))
        target[key] = value

    @property
    def count(self) -> int:
        """How many changes there are."""
        return len(self._changes)

    def begin_share(self) -> None:
        """Let one more transaction add to these changes, with limits of its own."""
        size, count = self._limits
        self._bytes_max, self._changes_max = self.size + size, len(self._changes) + count

    # -- savepoints ----------------------------------------------------------------------------------------
    def mark(self) -> int:
        """Return where to go back to."""
        self._keeps_undo = True
        return len(self._undo)

    def forget_marks(self) -> None:
        """Keep everything: nobody goes back any more."""
        self._undo.clear()
        self._keeps_undo = False

    def go_back(self, mark: int) -> None:
        """Undo what was done since."""
        while len(self._undo) > mark:
            target, key, before = self._undo.pop()
            if target is self._changes:
                self._restore(key, before)
            elif before is _ABSENT:
                target.pop(key, None)
            else:
                target[key] = before

    def _restore(self, key: bytes, before: Any) -> None:
        self.size -= size_of(self._changes[key])
        if before is _ABSENT:
            del self._changes[key]
            self.size -= len(key) + _KEY_BYTES
            self._sorted = None
        else:
            self._changes[key] = before
            self.size += size_of(before)

    # -- the end -------------------------------------------------------------------------------------------
    def changes(self) -> dict[bytes, bytes | None]:
        """Return all changes, encoded, in key order, so that neighbours land on the same page."""
        return {key: None if (value := self._changes[key]) is None else encode(value) for key in sorted(self._changes)}
