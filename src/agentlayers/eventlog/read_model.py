"""Say what is wrong where a read model holds something that was never written there."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from agentlayers.errors import StorageCorruptionError

__all__ = ["telling_damage"]


@contextlib.contextmanager
def telling_damage(store: str) -> Iterator[None]:
    """
    Turn what decoding a damaged row raises into an error that says what to do.

    Raises:
        StorageCorruptionError: Instead of a row's own error.
    """
    try:
        yield
    except (UnicodeDecodeError, struct.error) as error:
        raise StorageCorruptionError(
            backend="journal",
            operation="read",
            reason=f"the read model of {store} is damaged ({error}); "
            "its entries are not: agentlayers journal rebuild makes it anew",
        ) from error
