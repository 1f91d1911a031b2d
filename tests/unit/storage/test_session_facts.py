"""What is known of sessions: the fact with the higher place stands, in whatever order they come."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.journal.memory import MemoryJournal
from agentlayers.storage.session_facts import SESSION_FACTS, SessionFact, session_facts
from agentlayers.storage.session_index import SessionIndexStore, SessionMeta

NOTED = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(SESSION_FACTS),
    st.builds(SessionFact, st.sampled_from(["", "x", "ü\x00y"]), st.sampled_from([b"\x00", b"\x00\x01", b"\x02"])),
)


async def noted(facts: list[tuple[str, str, SessionFact]]) -> dict[str, dict[str, str]]:
    async with MemoryJournal() as journal:
        index = SessionIndexStore(journal)
        for session, name, fact in facts:
            await journal.transact(lambda tx, s=session, n=name, f=fact: index.describe_in(tx, s, {n: f}))  # type: ignore[misc]
        return {session: await journal.read(lambda tx, s=session: session_facts(tx, s)) for session in "ab"}  # type: ignore[misc]


@given(st.lists(NOTED, max_size=8, unique_by=lambda one: (one[0], one[1], one[2].place)), st.integers(0, 5))
async def test_the_order_in_which_facts_come_makes_no_difference(
    facts: list[tuple[str, str, SessionFact]], seed: int
) -> None:
    shuffled = random.Random(seed).sample(facts, len(facts))
    highest: dict[str, dict[str, str]] = {"a": {}, "b": {}}
    for session, name, fact in sorted(facts, key=lambda one: one[2].place):
        highest[session][name] = fact.text

    assert highest == await noted(facts) == await noted(shuffled)


@pytest.fixture
def title() -> dict[str, SessionFact]:
    return {"title": SessionFact("found", b"\x01"), "project": SessionFact("/home", b"\x01")}


async def test_sessions_are_listed_with_what_is_known_of_them(title: dict[str, SessionFact]) -> None:
    async with MemoryJournal() as journal:
        index = SessionIndexStore(journal)
        await journal.transact(lambda tx: index.describe_in(tx, "s", title))

        assert await index.get("s") is None
        assert [] == await index.list()
        touched = await index.touch("s", updated_at_ms=7)
        expected = SessionMeta("s", 7, 7, "found", "/home")
        assert replace(expected, title="", project="") == touched
        assert expected == await index.get("s")
        assert [expected] == await index.list()


async def test_what_is_known_of_a_session_goes_with_it(title: dict[str, SessionFact]) -> None:
    async with MemoryJournal() as journal:
        index = SessionIndexStore(journal)
        await index.touch("s", updated_at_ms=7)
        await journal.transact(lambda tx: index.describe_in(tx, "s", title))
        await index.remove("s")

        assert {} == await journal.read(lambda tx: session_facts(tx, "s"))
