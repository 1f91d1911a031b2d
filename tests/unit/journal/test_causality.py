"""Heads are a function of the set of versions, and the incremental state keeps the same result."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlayers.journal.causality import (
    CAUSAL_KEY,
    NO_STATE,
    KeyState,
    causal_payload,
    heads_of,
    supersedes,
    version_of,
    with_version,
)
from agentlayers.journal.conflict_policy import Version

REPLICAS = ("A", "B", "?")


def name(number: int) -> bytes:
    """Return an entry id that sorts by its number."""
    return number.to_bytes(16)


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    """
    Draw versions as replicas write them: each has seen some of the earlier ones and what those had seen.

    Ids of one replica ascend; those of a stock peer come in any order.
    """
    count = draw(st.integers(1, 6))
    numbers = draw(st.permutations(range(1, count + 1)))
    versions: list[Version] = []
    for at in range(count):
        replica = draw(st.sampled_from(REPLICAS))
        number = numbers[at]
        state = NO_STATE
        for other in versions if replica != "?" else ():
            if other.replica == replica or draw(st.booleans()):
                state = with_version(state, other)
        seen = state.context()
        number = max(number, int.from_bytes(seen.get(replica, b"")) + 1)
        while any(version.id == name(number) for version in versions):
            number += 1
        versions.append(Version(name(number), "put", {}, replica, seen))
    return versions


def state_of(versions: Sequence[Version]) -> KeyState:
    """Return the state after applying versions in this order."""
    state = NO_STATE
    for version in versions:
        state = with_version(state, version)
    return state


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_the_state_keeps_the_heads_of_the_definition_in_any_order(
    versions: list[Version], shuffle: random.Random
) -> None:
    arrived = list(versions)
    shuffle.shuffle(arrived)

    state = state_of(arrived)

    assert [version.id for version in heads_of(versions)] == [head.id for head in state.heads]
    assert state_of(versions) == state
    assert state_of([*arrived, *versions]) == state


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_the_heads_after_each_arrival_are_those_of_what_arrived(
    versions: list[Version], shuffle: random.Random
) -> None:
    shuffle.shuffle(versions)
    state = NO_STATE
    for count, version in enumerate(versions, 1):
        state = with_version(state, version)

        assert [head.id for head in state.heads] == [v.id for v in heads_of(versions[:count])]


@given(histories())
@settings(max_examples=300)
def test_a_history_always_has_a_head_and_supersedes_without_cycles(versions: list[Version]) -> None:
    assert heads_of(versions)
    for left in versions:
        for right in versions:
            assert not (supersedes(left, right) and supersedes(right, left))


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=400)
def test_dropping_superseded_versions_changes_no_head_ever_after(
    versions: list[Version], shuffle: random.Random
) -> None:
    """A replica that compacted a superseded version before others arrived ends with the same heads."""
    shuffle.shuffle(versions)
    half = len(versions) // 2
    state = state_of(versions[:half])
    # Compaction keeps only the state; nothing of the superseded versions is looked at again.
    kept = KeyState(state.heads, dict(state.seen), dict(state.applied))
    for version in versions[half:]:
        kept = with_version(kept, version)

    assert [version.id for version in heads_of(versions)] == [head.id for head in kept.heads]


def test_a_stock_entry_supersedes_what_has_not_seen_it() -> None:
    ours = Version(name(1), "put", {}, "A")
    stock = Version(name(2), "put", {})
    after = Version(name(3), "put", {}, "A", {"A": ours.id, "?": stock.id})

    assert heads_of([ours, stock]) == [stock]
    assert heads_of([ours, stock, after]) == [after]
    # Through the stock entry, although it is gone and B had never seen A's version.
    through = Version(name(4), "put", {}, "B", {"?": stock.id})
    assert heads_of([ours, through]) == [through]


def test_concurrent_versions_are_all_heads_whatever_their_ids() -> None:
    left, right = Version(name(9), "put", {}, "A"), Version(name(1), "put", {}, "B")

    assert heads_of([left, right]) == [right, left]


def test_causal_information_is_taken_out_of_the_payload() -> None:
    payload = causal_payload({"v": 1}, "A", {"B": name(1)})

    version = version_of(name(2), "put", payload, is_deletion=False)

    assert (version.replica, version.seen, version.value) == ("A", {"B": name(1)}, {"v": 1})


@pytest.mark.parametrize(
    "causal",
    [
        None,
        7,
        {},
        {"replica": "A"},
        {"replica": "", "seen": {}},
        {"replica": "?", "seen": {}},
        {"replica": 1, "seen": {}},
        {"replica": "A", "seen": []},
        {"replica": "A", "seen": {"B": "text"}},
        {"replica": "A", "seen": {"B": b"short"}},
        {"replica": "A", "seen": {1: bytes(16)}},
    ],
)
def test_malformed_causal_information_counts_as_absent(causal: object) -> None:
    version = version_of(name(2), "put", {CAUSAL_KEY: causal, "v": 1}, is_deletion=False)

    assert (version.replica, dict(version.seen), version.value) == ("?", {}, {"v": 1})


def test_a_version_cannot_claim_to_have_seen_itself() -> None:
    payload = causal_payload({}, "A", {"A": name(7)})

    version = version_of(name(7), "put", payload, is_deletion=False)

    assert version.seen == {}
    assert heads_of([version]) == [version]
