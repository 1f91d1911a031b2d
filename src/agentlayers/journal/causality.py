"""
Which versions of one key nothing supersedes: its *heads*.

Every keyed payload of ours carries ``_causal: {replica, seen}``, where ``seen`` is, per replica, the highest
entry id of this key that the writer had applied, joined with what those versions had seen themselves. Stock
peers write none: their entries belong to the replica ``"?"``, and each supersedes every lower id of its key
that has not seen it.

Whether a version is superseded depends only on the *join* of what all versions of its key have seen. That join
is small, only grows, and is kept (:class:`KeyState`) when versions are compacted. So heads are a function of
the set of entries ever applied, in whatever order they came and whatever was dropped since. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from agentlayers.journal.conflict_policy import Resolution, Version
from agentlayers.limits import ENTRY_ID_BYTES

__all__ = [
    "CAUSAL_KEY",
    "NO_STATE",
    "STOCK_REPLICA",
    "Conflict",
    "Head",
    "KeyState",
    "causal_payload",
    "heads_of",
    "supersedes",
    "version_of",
    "with_version",
]

CAUSAL_KEY: Final = "_causal"
STOCK_REPLICA: Final = "?"
_NOTHING: Final = b""
_NONE_SEEN: Final[Mapping[str, bytes]] = MappingProxyType({})


class Head(NamedTuple):
    """
    What deciding about a head takes, without its value.

    Attributes:
        id: Its entry id.
        replica: Who wrote it.
        seen_stock: Highest entry of a stock peer it had seen; empty for none.
    """

    id: bytes
    replica: str
    seen_stock: bytes


class KeyState(NamedTuple):
    """
    What is known of one key.

    Attributes:
        heads: Versions nothing supersedes, ascending by entry id; empty when retention dropped the key.
        seen: Join of what all its versions have seen, those compacted since included.
        applied: Highest entry id applied here, per replica.
    """

    heads: tuple[Head, ...]
    seen: Mapping[str, bytes]
    applied: Mapping[str, bytes]

    def context(self) -> dict[str, bytes]:
        """Return what the next version written here has seen."""
        return _join(self.seen, self.applied)


NO_STATE: Final = KeyState((), _NONE_SEEN, _NONE_SEEN)


class Conflict(NamedTuple):
    """
    An open conflict: several concurrent versions of one key.

    Attributes:
        store: The store.
        primary_key: The key.
        heads: The versions, ascending by entry id.
        resolution: What the store's policy shows now; :obj:`None` when the policy raised.
    """

    store: str
    primary_key: str
    heads: tuple[Version, ...]
    resolution: Resolution | None


def supersedes(newer: Version, older: Version) -> bool:
    """
    Tell whether whoever wrote ``newer`` had seen ``older``, itself or through a stock peer's entry.

    >>> a = Version(b"a" * 16, "put", {}, "A")
    >>> supersedes(Version(b"b" * 16, "put", {}, "B", {"A": a.id}), a), supersedes(a, a)
    (True, False)

    """
    if newer.id == older.id:
        return False
    if newer.replica == STOCK_REPLICA:
        stock = newer.id
    elif newer.seen.get(older.replica, _NOTHING) >= older.id:
        return True
    else:
        stock = newer.seen.get(STOCK_REPLICA, _NOTHING)
    return stock > older.id and older.seen.get(STOCK_REPLICA, _NOTHING) < stock


def heads_of(versions: Iterable[Version]) -> list[Version]:
    """
    Return the versions that no other one supersedes, ascending by entry id.

    This is the definition; journals keep the same result up to date with :func:`with_version`.
    """
    distinct = {version.id: version for version in versions}
    return [
        distinct[entry_id]
        for entry_id in sorted(distinct)
        if not any(supersedes(other, distinct[entry_id]) for other in distinct.values())
    ]


def with_version(state: KeyState, version: Version) -> KeyState:
    """Return the state after one more version was applied; the order of versions does not matter."""
    seen, applied = state.seen, state.applied
    news = any(seen.get(replica, _NOTHING) < entry_id for replica, entry_id in version.seen.items())
    if news:
        seen = _join(seen, version.seen)
    if applied.get(version.replica, _NOTHING) < version.id:
        applied = {**applied, version.replica: version.id}
    stock = max(seen.get(STOCK_REPLICA, _NOTHING), applied.get(STOCK_REPLICA, _NOTHING))

    def stands(head: Head) -> bool:
        if seen.get(head.replica, _NOTHING) >= head.id:
            return False
        return not (stock > head.id and head.seen_stock < stock)

    heads = state.heads
    if news or version.replica == STOCK_REPLICA:
        # Only what the version had seen, or a stock peer's entry, can end a head.
        heads = tuple(filter(stands, heads))
    added = Head(version.id, version.replica, version.seen.get(STOCK_REPLICA, _NOTHING))
    if stands(added):
        at = bisect_left(heads, added)
        if at == len(heads) or heads[at].id != added.id:
            heads = (*heads[:at], added, *heads[at:])
    return KeyState(heads, seen, applied)


def version_of(entry_id: bytes, event: str, payload: dict[str, Any], *, is_deletion: bool) -> Version:
    """
    Read a decoded keyed payload as a version; ``_causal`` is taken out of it.

    A ``_causal`` that is not well formed counts as absent, on every replica alike. What a version claims to
    have seen of its own replica can only lie before it.
    """
    replica, seen = _read_causal(payload.pop(CAUSAL_KEY, None))
    if seen.get(replica, _NOTHING) >= entry_id:
        del seen[replica]
    return Version(entry_id, event, payload, replica, seen, is_deletion)


def causal_payload(payload: Mapping[str, Any], replica: str, seen: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the payload with what its writer had seen."""
    return {**payload, CAUSAL_KEY: {"replica": replica, "seen": seen}}


def _read_causal(causal: object) -> tuple[str, dict[str, bytes]]:
    if not isinstance(causal, dict):
        return STOCK_REPLICA, {}
    replica, seen = causal.get("replica"), causal.get("seen")
    if not isinstance(replica, str) or replica in ("", STOCK_REPLICA) or not isinstance(seen, dict):
        return STOCK_REPLICA, {}
    for name, entry_id in seen.items():
        if not isinstance(name, str) or not isinstance(entry_id, bytes) or len(entry_id) != ENTRY_ID_BYTES:
            return STOCK_REPLICA, {}
    return replica, dict(seen)


def _join(left: Mapping[str, bytes], right: Mapping[str, bytes]) -> dict[str, bytes]:
    joined = dict(left)
    for replica, entry_id in right.items():
        if joined.get(replica, _NOTHING) < entry_id:
            joined[replica] = entry_id
    return joined
