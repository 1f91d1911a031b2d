"""What a conditional batch finds the store to hold, or else leaves undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from agentlayers.errors import StorageConflictError

__all__ = ["NOTHING_EXPECTED", "Expectation", "check_expected", "not_as_expected"]

Expectation: TypeAlias = Mapping[bytes, bytes | None]
"""Values by key, :obj:`None` for a key that must not be there."""

NOTHING_EXPECTED: Final[Expectation] = MappingProxyType({})


def check_expected(expected: Expectation, read: Callable[[bytes], bytes | None], *, backend: str, path: object) -> None:
    """
    Compare what is there with what is expected; nobody may write in between.

    Raises:
        StorageConflictError: A key holds something else.
    """
    for key, value in expected.items():
        if read(key) != value:
            raise not_as_expected(key, backend=backend, path=path)


def not_as_expected(key: bytes, *, backend: str, path: object) -> StorageConflictError:
    """Return the error that names the key, and no value."""
    reason = f"key {key[:40]!r} does not hold what the batch expects; nothing was done: read again and decide anew"
    return StorageConflictError(backend=backend, operation="write", reason=reason, path=path)
