"""
One writer at a time: who owns a journal, and which commit is its last.

Whoever opens a journal writes its name under the owner key. Every commit expects that name and the number of the
commit before it, and writes its own number: so nothing is ever written on top of a state that the writer does not
know, neither by an owner that lost the journal, nor by a batch whose answer was lost and that is done late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

import msgpack

from agentlayers.errors import (
    MigrationError,
    StateError,
    StorageConflictError,
    StorageCorruptionError,
    StorageUnavailableError,
)
from agentlayers.journal.key_value.committed import BACKEND
from agentlayers.journal.key_value.keys import HEAD, OWNER
from agentlayers.key_value.blocking_store import BlockingKeyValueStore

__all__ = ["FORMAT_VERSION", "Fence", "Owner"]

FORMAT_VERSION: Final = 1
"""Of the keys and values of a journal; one that is higher was written by a newer release."""

_ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True)
class Owner:
    """
    Who has a journal open.

    Attributes:
        token: Random; no two openings share one.
        name: Process and host, for people.
        since_ms: When it was opened.
        is_destroying: The journal is being deleted, and nothing else may happen to it.
        version: Of the journal's format.
    """

    token: bytes
    name: str
    since_ms: int
    is_destroying: bool = False
    version: int = FORMAT_VERSION

    def encode(self) -> bytes:
        """Return the value of the owner key."""
        fields = (self.version, self.token, self.name, self.since_ms, self.is_destroying)
        return bytes(msgpack.packb(fields))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the value of the owner key."""
        try:
            version, token, name, since_ms, is_destroying = msgpack.unpackb(data)[:5]
        except ValueError as error:
            reason = "its owner key was not written by a journal; choose another name"
            raise StorageCorruptionError(backend=BACKEND, operation="open", reason=reason) from error
        return cls(token, name, since_ms, is_destroying, version)


class _Head(NamedTuple):
    commits: int
    last_position: int


class Fence:
    """
    The owner's side of it; lives in the journal's thread.

    Args:
        store: Where the journal is.
        root: Every key of the journal begins with it.
        owner: Who opens it.
        what: The journal and its store, as people know them.
    """

    def __init__(self, store: BlockingKeyValueStore, root: bytes, owner: Owner, what: str) -> None:
        self._store, self._root, self._owner, self._what = store, root, owner, what
        self._owner_key, self._head_key = root + OWNER, root + HEAD
        self._head: bytes | None = None
        self._commits = 0
        self.last_position = 0

    # -- opening -------------------------------------------------------------------------------------------
    def claim(self) -> bool:
        """
        Become the owner; whoever was it before can write no more.

        Returns:
            Whether the journal was being destroyed, and has to be before anything else.

        Raises:
            MigrationError: A newer release wrote the journal.
        """
        for _ in range(_ATTEMPTS):
            before = self._store.read(self._owner_key)
            found = None if before is None else Owner.decode(before)
            if found is not None and found.version > FORMAT_VERSION:
                reason = (
                    f"{self._what} has format version {found.version}, this release knows up to {FORMAT_VERSION}; "
                    "use a newer agentlayers"
                )
                raise MigrationError(backend=BACKEND, operation="open", reason=reason)
            is_destroying = found is not None and found.is_destroying
            owner = replace(self._owner, is_destroying=is_destroying)
            try:
                self._store.write({self._owner_key: owner.encode()}, {self._owner_key: before})
            except StorageConflictError:
                continue
            self._owner = owner
            self.load()
            return is_destroying
        raise StorageUnavailableError(backend=BACKEND, operation="open", reason=f"{self._what} is opened all the time")

    def load(self) -> None:
        """
        Read where the journal ends.

        Raises:
            StateError: Somebody else has taken it over.
        """
        owner, head = self._store.read_many([self._owner_key, self._head_key])
        if owner != self._owner.encode():
            raise self._taken_over(owner)
        self._head = head
        self._commits, self.last_position = (0, 0) if head is None else _Head(*msgpack.unpackb(head))

    # -- committing ----------------------------------------------------------------------------------------
    def commit(self, changes: Mapping[bytes, bytes | None], last_position: int) -> None:
        """
        Write changes as the next commit.

        Raises:
            StateError: Somebody else has taken the journal over; nothing was written.
            StorageUnavailableError: An earlier commit whose answer was lost turned out to be done; nothing was
                written, and the same transactions can be tried again.
        """
        head: bytes = msgpack.packb(_Head(self._commits + 1, last_position))
        expected = {self._owner_key: self._owner.encode(), self._head_key: self._head}
        try:
            self._store.write({**changes, self._head_key: head}, expected)
        except StorageConflictError as error:
            self.check()
            raise self._moved() from error
        self._head, self._commits, self.last_position = head, self._commits + 1, last_position

    def check(self) -> None:
        """
        Make sure that what was read since the last commit was this journal's own state.

        Raises:
            StateError: Somebody else has taken the journal over.
            StorageUnavailableError: It moved on: a commit whose answer was lost was done after all.
        """
        owner, head = self._store.read_many([self._owner_key, self._head_key])
        if owner != self._owner.encode():
            raise self._taken_over(owner)
        if head != self._head:
            raise self._moved()

    def _moved(self) -> StorageUnavailableError:
        reason = f"a commit of {self._what} whose answer was lost has been done after all; try again"
        return StorageUnavailableError(backend=BACKEND, operation="write", reason=reason)

    def _taken_over(self, owner: bytes | None) -> StateError:
        if owner is None:
            return StateError(f"{self._what} was destroyed by another process; open it anew")
        other = Owner.decode(owner)
        since = datetime.fromtimestamp(other.since_ms / 1000, UTC).isoformat(timespec="seconds")
        what = "is being destroyed by" if other.is_destroying else "was taken over by"
        return StateError(
            f"{self._what} {what} {other.name} at {since}; everything acknowledged here is kept there. A journal in a "
            "key-value store has one writer at a time: stop one of the two, or use the SQLite journal, which "
            "processes share"
        )

    # -- destroying ----------------------------------------------------------------------------------------
    def begin_destroying(self) -> None:
        """Let nobody do anything with the journal but delete it; raises as :meth:`commit` does."""
        owner = replace(self._owner, is_destroying=True)
        try:
            self._store.write({self._owner_key: owner.encode()}, {self._owner_key: self._owner.encode()})
        except StorageConflictError as error:
            self.check()
            raise self._moved() from error
        self._owner = owner

    def delete(self, keys: list[bytes], *, is_last: bool) -> None:
        """Delete keys of a journal that is being destroyed, in the end the owner key; raises as :meth:`commit` does."""
        doomed: dict[bytes, bytes | None] = dict.fromkeys(keys)
        doomed.pop(self._owner_key, None)
        if is_last:
            doomed[self._owner_key] = None
        try:
            self._store.write(doomed, {self._owner_key: self._owner.encode()})
        except StorageConflictError as error:
            self.check()
            raise self._moved() from error
