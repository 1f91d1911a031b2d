"""Strategies are values, and pure selections."""

from __future__ import annotations

import pytest

from agentlayers.errors import SettingsError
from agentlayers.journal.compaction import (
    ByAge,
    ByCount,
    ByKey,
    BySize,
    Candidate,
    Compaction,
    CompactionStrategy,
    Composite,
)
from agentlayers.limits import HORIZON_WINDOW_SECONDS


def candidate(
    age_seconds: float = 0.0, size_bytes: int = 10, *, is_visible: bool = True, is_deletion: bool = False
) -> Candidate:
    return Candidate(bytes(16), "line", "k", age_seconds, size_bytes, is_visible, is_deletion)


def kept(strategy: CompactionStrategy, *candidates: Candidate) -> list[bool]:
    keep = strategy.selector()
    return [keep(item) for item in candidates]


def test_strategies_compare_by_value_however_they_were_written() -> None:
    assert Composite(ByAge("30 days"), BySize("1 KB")) == Composite(ByAge(2_592_000), BySize(1000))
    assert ByAge("1 day") != ByAge("2 days")
    assert len({ByCount(3), ByCount(3), ByKey(), ByKey()}) == 2
    assert Compaction is CompactionStrategy


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: ByAge("soon"), "max_age"),
        (lambda: ByAge(-1), "max_age"),
        (lambda: BySize("big"), "max_bytes"),
        (lambda: ByCount(-1), "max_count"),
        (lambda: ByCount(True), "max_count"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(make: object, names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        make()  # type: ignore[operator]


def test_by_age_keeps_what_is_younger() -> None:
    assert kept(ByAge("1 minute"), candidate(59), candidate(60)) == [True, False]
    assert kept(ByAge(0), candidate(0)) == [False]


def test_by_count_counts_what_is_visible() -> None:
    superseded = candidate(is_visible=False)

    assert kept(ByCount(2), candidate(), superseded, candidate(), superseded, candidate()) == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert kept(ByCount(0), superseded, candidate()) == [False, False]


def test_by_size_keeps_until_one_does_not_fit() -> None:
    superseded = candidate(is_visible=False)

    assert kept(BySize(25), candidate(), superseded, candidate(), candidate(), candidate(size_bytes=1)) == [
        True, False, True, False, False,
    ]  # fmt: skip


def test_by_key_keeps_heads_and_young_deletions() -> None:
    old = HORIZON_WINDOW_SECONDS

    assert kept(
        ByKey(),
        candidate(old),
        candidate(is_visible=False),
        candidate(old - 1, is_deletion=True),
        candidate(old, is_deletion=True),
    ) == [True, False, True, False]


def test_a_composite_hands_on_what_is_left() -> None:
    strategy = Composite(ByAge(50), ByCount(2))

    assert kept(strategy, candidate(10), candidate(60), candidate(20), candidate(30)) == [True, False, True, False]
    assert kept(Composite(), candidate()) == [True]


def test_a_selector_starts_fresh_for_each_scope() -> None:
    strategy = ByCount(1)

    assert kept(strategy, candidate()) == kept(strategy, candidate()) == [True]
