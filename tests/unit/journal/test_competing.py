"""Concurrent versions that say the same are no conflict, and every replica with the same entries agrees on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentlayers.journal.causality import causal_payload, heads_of, version_of
from agentlayers.journal.competing import are_competing, content_digest
from agentlayers.journal.conflict_policy import FirstWriteWins, Version
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.event_journal import Observation, StoreSchema
from agentlayers.journal.memory import MemoryJournal
from agentlayers.protocol.payload import decode_payload, encode_payload

SCHEMA = StoreSchema(name="notes", keyed_events=frozenset({"put", "delete"}), deletions=frozenset({"delete"}))
WITHOUT_TIME = StoreSchema(
    name="notes",
    keyed_events=SCHEMA.keyed_events,
    deletions=SCHEMA.deletions,
    policy=FirstWriteWins(),
    content_of=lambda version: {name: value for name, value in version.value.items() if name != "at"},
)
REMOTE = b"r" * 16


def version(number: int, value: dict[str, Any], event: str = "put") -> Version:
    return Version(number.to_bytes(16), event, value, f"replica {number}")


def test_equal_values_do_not_compete() -> None:
    same = [version(1, {"a": 1, "b": [{"c": 2, "d": 3}]}), version(2, {"b": [{"d": 3, "c": 2}], "a": 1})]

    assert not are_competing(SCHEMA, same)
    assert not are_competing(SCHEMA, same[:1])


def test_what_python_takes_for_equal_is_not_the_same() -> None:
    for one, other in ((1, True), (0, False), ("1", 1), (b"a", "a"), (None, ""), ([1, 2], [2, 1]), ({}, [])):
        assert are_competing(SCHEMA, [version(1, {"v": one}), version(2, {"v": other})])


def test_events_that_carry_the_same_value_compete() -> None:
    assert are_competing(SCHEMA, [version(1, {}), version(2, {}, "delete")])
    assert content_digest(SCHEMA, version(1, {}, "ab")) != content_digest(SCHEMA, version(1, {}, "a"))


def test_a_store_says_what_counts() -> None:
    heads = [version(1, {"v": 1, "at": 1}), version(2, {"v": 1, "at": 2})]

    assert are_competing(SCHEMA, heads)
    assert not are_competing(WITHOUT_TIME, heads)


def test_a_value_as_deep_as_a_payload_may_be_can_be_compared() -> None:
    value: dict[str, Any] = {}
    for _level in range(10_000):
        try:
            encode_payload({"v": value})
        except Exception:  # the deepest one is wanted
            break
        value = {"v": value}
    decoded = decode_payload(encode_payload(value))

    assert not are_competing(SCHEMA, [version(1, decoded), version(2, decoded)])


# -- replicas ---------------------------------------------------------------------------------------------------
WRITES = st.lists(
    st.tuples(
        st.sampled_from("ABC?"),  # who
        st.sampled_from(["put", "put", "put", "delete"]),
        st.integers(0, 1),  # value: from a small set, so that values meet
        st.integers(0, 3),  # time, which does not count
        st.sets(st.integers(0, 5), max_size=2),  # which earlier entries it had seen
    ),
    min_size=2,
    max_size=6,
)


def entries_of(writes: Sequence[Any]) -> list[Entry]:
    entries: list[tuple[str, Entry]] = []
    for number, (replica, event, value, at, earlier) in enumerate(writes):
        payload = {"v": value, "at": at}
        if replica != "?":
            seen: dict[str, bytes] = {}
            for index in sorted(earlier):
                if index < number and entries[index][0] != "?":
                    seen[entries[index][0]] = entries[index][1].id
            payload = causal_payload(payload, replica, seen)
        entries.append((replica, Entry((number + 1).to_bytes(16), event, "k", encode_payload(payload))))
    return [entry for _replica, entry in entries]


async def listed(batches: Sequence[Sequence[Entry]]) -> tuple[list[Any], list[Observation]]:
    seen: list[Observation] = []
    async with MemoryJournal(random=random.Random(1)) as journal:
        await journal.register(WITHOUT_TIME)
        journal.observe(lambda _tx, observation: seen.append(observation))
        sequence = 0
        for batch in batches:
            remote = [RemoteEntry(sequence + place, entry) for place, entry in enumerate(batch)]
            sequence += len(batch)
            await journal.write_from_remote("notes", REMOTE, remote)
        conflicts = await journal.read(lambda tx: tx.conflicts("notes"))
    return [[head.id for head in conflict.heads] for conflict in conflicts], seen


@given(writes=WRITES, shuffled=st.randoms(use_true_random=False), cut=st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_replicas_list_the_same_conflicts_in_whatever_order_entries_came(
    writes: list[Any], shuffled: random.Random, cut: int
) -> None:
    entries = entries_of(writes)
    by_id = {entry.id: version_of_entry(entry) for entry in entries}
    heads = heads_of(by_id.values())
    expected = [[head.id for head in heads]] if len({said(head) for head in heads}) > 1 else []

    other = shuffled.sample(entries, len(entries))
    found, observed = asyncio.run(listed([entries]))
    again, observed_again = asyncio.run(listed([other[:cut], other[cut:]]))

    assert found == again == expected
    # Each is told of as it arrived, however the entries were cut into batches.
    for order, told in ((entries, observed), (other, observed_again)):
        counts = [others_at_arrival([by_id[entry.id] for entry in order[: at + 1]]) for at in range(len(order))]
        assert [observation.fields["conflictCount"] for observation in told] == [count for count in counts if count]


def version_of_entry(entry: Entry) -> Version:
    payload = decode_payload(entry.payload)
    return version_of(entry.id, entry.event, payload, is_deletion=entry.event == "delete")


def said(version: Version) -> object:
    return version.event, version.value["v"]


def others_at_arrival(arrived: Sequence[Version]) -> int:
    heads = heads_of(arrived)
    return sum(said(head) != said(arrived[-1]) for head in heads) if arrived[-1] in heads else 0


@given(count=st.integers(2, 6), at=st.lists(st.integers(0, 9), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_concurrent_versions_that_say_the_same_are_not_reported(count: int, at: list[int]) -> None:
    same = [
        Entry(
            (number + 1).to_bytes(16),
            "put",
            "k",
            encode_payload(causal_payload({"v": 1, "at": at[number]}, f"{number}", {})),
        )
        for number in range(count)
    ]
    odd = Entry((9).to_bytes(16), "put", "k", encode_payload(causal_payload({"v": 2}, "odd", {})))

    assert asyncio.run(listed([same])) == ([], [])
    conflicts, observed = asyncio.run(listed([same, [odd]]))
    assert [len(heads) for heads in conflicts] == [count + 1]
    assert [observation.fields["conflictCount"] for observation in observed] == [count]
