"""``check_policy`` accepts policies that keep the laws and refuses those that break one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from agentlayers.journal.conflict_policy import (
    ConflictPolicy,
    FirstWriteWins,
    LastWriteWins,
    Merge,
    Reject,
    Resolution,
    Version,
)
from agentlayers.testing.check_policy import PolicyLawError, check_policy

Resolve = Callable[[Sequence[Version]], Resolution]


class Written(ConflictPolicy):
    """A user's policy, as one function."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Ask the function."""
        return self._resolve(heads)


def largest(heads: Sequence[Version]) -> Resolution:
    """Show the live head with the most fields; keeps all laws."""
    head = max(heads, key=lambda head: (not head.is_deletion, len(head.value), head.id))
    return Resolution(None if head.is_deletion else head.value, head.id, "accept")


def join(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge all fields, later ones winning."""
    merged: dict[str, Any] = {}
    for value in values:
        merged.update(value)
    return merged


@pytest.mark.parametrize(
    "policy",
    [LastWriteWins(), FirstWriteWins(), Reject(), Merge(join), Written(largest)],
    ids=["last", "first", "reject", "merge", "own"],
)
def test_a_policy_that_keeps_the_laws_passes(policy: ConflictPolicy) -> None:
    check_policy(policy, examples=100)


def _by_chance(heads: Sequence[Version]) -> Resolution:
    head = random.choice(heads)
    return Resolution(None if head.is_deletion else head.value, head.id, "accept")


def _changes_heads(heads: Sequence[Version]) -> Resolution:
    for head in heads:
        head.value.update(seen=True)  # type: ignore[attr-defined]
    return largest(heads)


def _stranger(heads: Sequence[Version]) -> Resolution:
    return Resolution(heads[0].value, b"x" * 16, "accept")


def _other_value(heads: Sequence[Version]) -> Resolution:
    return Resolution({"v": "made up"}, heads[0].id, "accept")


def _always_merges(heads: Sequence[Version]) -> Resolution:
    return Resolution({"count": len(heads)}, None, "merge")


def _not_a_payload(heads: Sequence[Version]) -> Resolution:
    if len(heads) == 1:
        return largest(heads)
    return Resolution({"set": {1, 2}}, None, "merge")


def _keeps_a_count() -> Resolve:
    calls = itertools.count()
    return lambda heads: largest(heads) if len(heads) == 1 else Resolution({"calls": next(calls)}, None, "merge")


@pytest.mark.parametrize(
    ("resolve", "law"),
    [
        (_by_chance, "same heads"),
        (_changes_heads, "not changed"),
        (_stranger, "one of the heads"),
        (_other_value, "winner's value"),
        (_always_merges, "one head alone"),
        (_not_a_payload, "payload"),
        (_keeps_a_count(), "same heads"),
    ],
)
def test_a_policy_that_breaks_a_law_is_refused(resolve: Resolve, law: str) -> None:
    with pytest.raises(PolicyLawError, match=law) as caught:
        check_policy(Written(resolve))

    assert caught.value.heads


class FirstShown(ConflictPolicy):
    """Fault R3: goes on showing what it showed for a version first."""

    def __init__(self) -> None:
        self.shown: dict[bytes, Mapping[str, Any] | None] = {}

    def resolve(self, heads: Sequence[Version]) -> Resolution:
        """Remember by the lowest head what was the highest when it was first seen."""
        top = heads[-1]
        first = self.shown.setdefault(heads[0].id, None if top.is_deletion else top.value)
        if len(heads) == 1:
            return largest(heads)
        return Resolution(first, None, "merge")


def test_a_policy_that_remembers_is_refused_by_the_journals() -> None:
    with pytest.raises(PolicyLawError, match="arrival"):
        check_policy(FirstShown())
