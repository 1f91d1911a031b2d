"""What a medium can do: fixed by its class, so that a graph is refused before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentlayers.errors import LayerError, UsageError
from agentlayers.limits import (
    KEY_VALUE_BATCH_BYTES_MAX,
    KEY_VALUE_BATCH_OPERATIONS_MAX,
    KEY_VALUE_KEY_BYTES_MAX,
    KEY_VALUE_VALUE_BYTES_MAX,
)

__all__ = ["KeyValueCapabilities"]

_IN_WORDS: Final = {
    "ordered_scans": "ordered scans",
    "atomic_batches": "atomic batches",
    "conditional_batches": "conditional batches",
    "durable": "durable writes",
    "shared_between_processes": "way to be shared between processes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValueCapabilities:
    """
    The promises a key-value store makes beyond get, put and delete.

    Attributes:
        ordered_scans: A scan yields keys in the order of their bytes.
        atomic_batches: Of a batch everything is there or nothing, for readers and after a crash.
        conditional_batches: A batch can depend on what some keys hold at that moment, whoever else writes.
        durable: What was acknowledged survives the end of the process and a power failure.
        shared_between_processes: Several processes may have the same store open.
        key_bytes_max: Longest key.
        value_bytes_max: Longest value.
        batch_bytes_max: Keys and values of one batch together.
        batch_operations_max: Operations of one batch.
    """

    ordered_scans: bool
    atomic_batches: bool
    conditional_batches: bool
    durable: bool
    shared_between_processes: bool
    key_bytes_max: int = KEY_VALUE_KEY_BYTES_MAX
    value_bytes_max: int = KEY_VALUE_VALUE_BYTES_MAX
    batch_bytes_max: int = KEY_VALUE_BATCH_BYTES_MAX
    batch_operations_max: int = KEY_VALUE_BATCH_OPERATIONS_MAX

    def missing(self, *needed: str) -> list[str]:
        """
        Return which of the needed promises are not made.

        Raises:
            UsageError: A name that is no promise.

        >>> some = KeyValueCapabilities(
        ...     ordered_scans=True,
        ...     atomic_batches=False,
        ...     conditional_batches=False,
        ...     durable=True,
        ...     shared_between_processes=True,
        ... )
        >>> some.missing("ordered_scans", "atomic_batches")
        ['atomic_batches']

        """
        for name in needed:
            if name not in _IN_WORDS:
                raise UsageError(f"{name!r} is no capability of a key-value store; they are {', '.join(_IN_WORDS)}")
        return [name for name in needed if not getattr(self, name)]

    def require(self, *needed: str, medium: str, user: str) -> None:
        """
        Refuse a medium that lacks something its user needs; call it from the user's constructor.

        Args:
            needed: Names of promises, such as ``"atomic_batches"``.
            medium: The store, as the operator knows it.
            user: Who needs it.

        Raises:
            LayerError: A promise is missing.
        """
        missing = self.missing(*needed)
        if missing:
            lacks = " and no ".join(_IN_WORDS[name] for name in missing)
            raise LayerError(f"{user} cannot be kept in {medium}, which has no {lacks}; choose another key-value store")
