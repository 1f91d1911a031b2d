"""What all parts of a transaction share: its changes, savepoints over them, numbers and counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from agentlayers.errors import UsageError
from agentlayers.journal.key_value.codec import NOTHING_COUNTED, Tally, decode_tally
from agentlayers.journal.key_value.committed import BACKEND, VALUE_BYTES_MAX
from agentlayers.journal.key_value.keys import (
    COUNTER,
    STORE,
    VALUE,
    setting_key,
    store_key,
    tally_key,
)
from agentlayers.journal.key_value.overlay import Overlay
from agentlayers.journal.registry import JournalRegistry
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import prefix_end

__all__ = ["Ranges", "Tail"]

_STORES: Final = b"store"


class Tail(NamedTuple):
    """Where a journal ends: the last position and the highest entry id that counts, if known."""

    last_position: int
    highest: bytes | None


class _Savepoint(NamedTuple):
    mark: int
    last_position: int
    highest: bytes | None


class Ranges(JournalTransaction):
    """
    Changes, savepoints, stores, settings and read models.

    Args:
        registry: The journal's stores, observers and clock.
        overlay: Changes over what is committed.
        read_only: Whether this is a ``read``.
        tail: Where the journal ends.
        stores: Numbers of stores by name, as known; handed on when this is committed.
    """

    def __init__(
        self, registry: JournalRegistry, overlay: Overlay, *, read_only: bool, tail: Tail, stores: dict[str, int]
    ) -> None:
        super().__init__(registry, read_only=read_only)
        self.cells = overlay
        self.stores = stores
        self._names = {number: name for name, number in stores.items()}
        self._last_position, self._highest = tail
        self._savepoints: list[_Savepoint] = []

    def tail(self) -> Tail:
        """Return where the journal ends now."""
        return Tail(self._last_position, None if self.holds_far_id else self._highest)

    # -- savepoints ----------------------------------------------------------------------------------------
    def open_savepoint(self) -> int:
        """Mark the present state."""
        self._savepoints.append(_Savepoint(self.cells.mark(), self._last_position, self._highest))
        return len(self._savepoints) - 1

    def release_savepoint(self, token: int) -> None:
        """Keep what was done since."""
        assert token == len(self._savepoints) - 1
        self._savepoints.pop()
        if not self._savepoints:
            self.cells.forget_marks()

    def rollback_savepoint(self, token: int) -> None:
        """Undo what was done since, savepoints opened inside it included."""
        savepoint = self._savepoints[token]
        del self._savepoints[token:]
        self.cells.go_back(savepoint.mark)
        self._last_position, self._highest = savepoint.last_position, savepoint.highest
        if not self._savepoints:
            self.cells.forget_marks()

    # -- numbers and counts --------------------------------------------------------------------------------
    def _next_number(self, what: bytes) -> int:
        number = int.from_bytes(self.cells.get(COUNTER + what) or b"") + 1
        self.cells.put(COUNTER + what, number.to_bytes(8))
        return number

    def _tally(self, store: int) -> Tally:
        found = self.cells.get(tally_key(store))
        if found is None:
            return NOTHING_COUNTED
        return found if isinstance(found, Tally) else decode_tally(found)

    def _under(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self.cells.scan(prefix, prefix_end(prefix))

    # -- stores and settings -------------------------------------------------------------------------------
    def store_number(self, name: str) -> int:
        """Return the number of a store."""
        number = self.stores.get(name)
        if number is None and not self.read_only:
            number = self._next_number(_STORES)
            self.cells.put(store_key(name), number.to_bytes(4))
            self.cells.set(self.stores, name, number)
            self.cells.set(self._names, number, name)
        return number or 0

    def store_name(self, number: int) -> str:
        """Return the name of a numbered store."""
        return self._names[number]

    def load_stores(self) -> dict[str, int]:
        """Read the numbers of all stores, as a journal does when it is opened."""
        return {key[1:].decode(): int.from_bytes(number) for key, number in self._under(STORE)}

    def get_setting(self, name: str) -> bytes | None:
        """Read one of the journal's own settings."""
        value: bytes | None = self.cells.get(setting_key(name))
        return value

    def put_setting(self, name: str, value: bytes) -> None:
        """Write one of the journal's own settings."""
        self.cells.put(setting_key(name), value)

    # -- read models ---------------------------------------------------------------------------------------
    def get_value(self, key: bytes) -> bytes | None:
        """Read one value of a read model."""
        if len(key) >= self.cells.committed.key_bytes_max:
            return None
        value: bytes | None = self.cells.get(VALUE + key)
        return value

    def put_value(self, key: bytes, value: bytes | None) -> None:
        """
        Write or delete one value of a read model.

        Raises:
            UsageError: Key or value are longer than the medium takes.
        """
        bytes_max = self.cells.committed.key_bytes_max - len(VALUE)
        if len(key) > bytes_max:
            if value is None:
                return
            raise UsageError(f"a key of a read model has {len(key)} bytes; a {BACKEND} here takes up to {bytes_max}")
        if value is not None and len(value) > VALUE_BYTES_MAX:
            raise UsageError(
                f"a value of a read model has {len(value)} bytes; a {BACKEND} takes up to {VALUE_BYTES_MAX}"
            )
        self.cells.put(VALUE + key, value)

    def scan_values(
        self, start: bytes, end: bytes, *, reverse: bool, rows_max: int | None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over values in key order."""
        for key, value in self.cells.scan(VALUE + start, VALUE + end, reverse=reverse, limit=rows_max):
            yield key[len(VALUE) :], value
