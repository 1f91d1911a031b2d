"""What each policy makes of heads."""

from __future__ import annotations

from agentlayers.journal.conflict_policy import (
    ConflictPolicy,
    FirstWriteWins,
    LastWriteWins,
    Merge,
    Reject,
    Resolution,
    Version,
)

A = Version(b"a" * 16, "put", {"v": 1}, "A")
B = Version(b"b" * 16, "put", {"v": 2}, "B")
GONE = Version(b"c" * 16, "delete", {}, "C", is_deletion=True)
SUM: ConflictPolicy = Merge(lambda values: {"v": sum(value["v"] for value in values)})


def test_one_head_is_shown_under_every_policy() -> None:
    for policy in (LastWriteWins(), FirstWriteWins(), Reject(), SUM):
        assert policy.resolve([A]) == Resolution({"v": 1}, A.id, "accept")
        assert policy.resolve([GONE]) == Resolution(None, GONE.id, "accept")


def test_last_write_wins_shows_the_highest_id_even_if_it_deletes() -> None:
    assert LastWriteWins().resolve([A, B, GONE]) == Resolution(None, GONE.id, "accept")


def test_first_write_wins_shows_the_lowest_id() -> None:
    assert FirstWriteWins().resolve([A, B, GONE]) == Resolution({"v": 1}, A.id, "accept")


def test_reject_shows_the_lowest_id_and_says_why() -> None:
    assert Reject("taken").resolve([A, B]) == Resolution({"v": 1}, A.id, "reject", "taken")


def test_a_merge_lets_a_concurrent_deletion_lose() -> None:
    assert SUM.resolve([A, B, GONE]) == Resolution({"v": 3}, None, "merge")
    assert SUM.resolve([A, GONE]) == Resolution({"v": 1}, A.id, "accept")
