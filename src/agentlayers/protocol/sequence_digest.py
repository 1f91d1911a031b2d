"""
One value for all entry ids of a server journal up to a sequence, so that two peers can compare them.

``D_0`` is sixteen zero bytes, and ``D_(n+1) = SHA-256(D_n | n as 8 bytes, big-endian | entry id of n)[:16]``. A
replica folds in what it is told in sequence order; a server keeps the value with each entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

__all__ = ["DIGEST_BYTES", "EMPTY_DIGEST", "extend_digest"]

DIGEST_BYTES: Final = 16
EMPTY_DIGEST: Final = bytes(DIGEST_BYTES)
"""The digest of no entries."""


def extend_digest(digest: bytes, sequence: int, entry_ids: Iterable[bytes]) -> list[bytes]:
    """
    Return the digest after each of some consecutive entries.

    Args:
        digest: Of all entries below ``sequence``.
        sequence: That of the first entry id.
        entry_ids: In sequence order.

    >>> one, two = extend_digest(EMPTY_DIGEST, 0, [bytes(16), bytes(16)])
    >>> extend_digest(one, 1, [bytes(16)]) == [two]
    True

    """
    digests = []
    for number, entry_id in enumerate(entry_ids, sequence):
        digest = sha256(digest + number.to_bytes(8, "big") + entry_id).digest()[:DIGEST_BYTES]
        digests.append(digest)
    return digests
