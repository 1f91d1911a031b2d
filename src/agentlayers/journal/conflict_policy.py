"""
Which of several concurrent versions of one key is shown.

The visible value of a key is a pure function of the *set* of its heads, given sorted by entry id; never
of the order in which they arrived. So replicas that hold the same entries show the same value.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = [
    "ConflictPolicy",
    "FirstWriteWins",
    "LastWriteWins",
    "Merge",
    "Reject",
    "Resolution",
    "Version",
]


@dataclass(frozen=True, slots=True)
class Version:
    """
    One version of a keyed thing.

    Attributes:
        id: Entry id of the version.
        event: Its event tag.
        value: Decoded payload without ``_causal``.
        replica: Which replica wrote it; ``"?"`` for a stock peer.
        seen: Highest entry id of this key that the writer had applied, by replica.
        is_deletion: It marks the key as deleted.
    """

    id: bytes
    event: str
    value: Mapping[str, Any]
    replica: str = "?"
    seen: Mapping[str, bytes] = field(default_factory=dict)
    is_deletion: bool = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """
    What a policy decided.

    Attributes:
        value: The visible value; :obj:`None` when the key is deleted.
        winner: Entry id of the version shown; :obj:`None` when the value was merged from several.
        outcome: ``accept`` (one version is shown), ``merge`` or ``reject`` (the others stay open conflicts).
        reason: Why the others were rejected, for ``reject``.
    """

    value: Mapping[str, Any] | None
    winner: bytes | None
    outcome: Literal["accept", "merge", "reject"]
    reason: str = ""


def _show(version: Version, outcome: Literal["accept", "reject"] = "accept", reason: str = "") -> Resolution:
    return Resolution(None if version.is_deletion else version.value, version.id, outcome, reason)


class ConflictPolicy(abc.ABC):
    """Decides the visible value among concurrent versions; the same on every replica of a journal."""

    @abc.abstractmethod
    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """
        Choose among at least one head.

        Must be pure: the same heads, sorted by entry id, give the same result everywhere.
        """

    @staticmethod
    def layer_last_write_wins() -> Layer:
        """Show the version with the highest entry id (the default)."""
        return _layer(LastWriteWins)

    @staticmethod
    def layer_first_write_wins() -> Layer:
        """Show the version with the lowest entry id."""
        return _layer(FirstWriteWins)

    @staticmethod
    def layer_merge(
        merge: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]],
    ) -> Layer:
        """Show what a pure function makes of all live versions."""
        return _layer(Merge, merge=merge)

    @staticmethod
    def layer_reject(reason: str | None = None) -> Layer:
        """Show the lowest entry id and keep the others as open conflicts."""
        return _layer(Reject) if reason is None else _layer(Reject, reason=reason)


def _layer(policy: type[ConflictPolicy], **arguments: Any) -> Layer:
    from agentlayers.layer import Layer

    # Written as what a container or YAML would write, so that the three spellings give one graph.
    return Layer.factory(ConflictPolicy, policy, **arguments)


@final
@dataclass(frozen=True, slots=True)
class LastWriteWins(ConflictPolicy):
    """Show the version with the highest entry id (the default)."""

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Show the last head."""
        return _show(heads[-1])


@final
@dataclass(frozen=True, slots=True)
class FirstWriteWins(ConflictPolicy):
    """Show the version with the lowest entry id."""

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Show the first head."""
        return _show(heads[0])


@final
@dataclass(frozen=True, slots=True)
class Reject(ConflictPolicy):
    """
    Show the lowest entry id and keep the others as open conflicts, reported to their writers.

    Attributes:
        reason: Told with each rejected version.
    """

    reason: str = "a concurrent version was written first"

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Show the first head; several heads are an open conflict."""
        return _show(
            heads[0],
            "reject" if len(heads) > 1 else "accept",
            self.reason if len(heads) > 1 else "",
        )


@final
@dataclass(frozen=True, slots=True)
class Merge(ConflictPolicy):
    """
    Show a value computed from all live heads; a deletion concurrent with a put loses to it.

    The merged value is a view: the next write of the key supersedes all heads.

    Attributes:
        merge: Pure function of the live values, in entry-id order, to one value.
    """

    merge: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Merge the heads that are no deletions; with one or none of them nothing is merged."""
        live = [head for head in heads if not head.is_deletion]
        if not live:
            return _show(heads[-1])
        if len(live) == 1:
            return _show(live[0])
        return Resolution(self.merge([head.value for head in live]), None, "merge")
