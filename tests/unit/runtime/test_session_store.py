"""Transcripts in a journal: order, idempotence, deletion, portability, and replicas that agree."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

import pytest

from agentlayers.errors import StateError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.entry import RemoteEntry
from agentlayers.journal.event_journal import Acknowledgement
from agentlayers.journal.memory import MemoryJournal
from agentlayers.runtime.claude_sdk import claude_sdk_is_installed
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.runtime.session_transcript import STORE
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.storage_config import StorageConfig

REMOTE = b"r" * 16
KEY = {"project_key": "-home-a", "session_id": "s"}
needs_sdk = pytest.mark.skipif(
    not claude_sdk_is_installed(), reason="claude-agent-sdk is not installed: pip install 'agentlayers[claude]'"
)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


async def opened(stack: AsyncExitStack, *, seed: int = 1) -> AgentSessionStore:
    journal = await stack.enter_async_context(MemoryJournal(random=random.Random(seed)))
    return await stack.enter_async_context(AgentSessionStore(journal, Identity.generate()))


def conformance() -> Any:
    return import_module("claude_agent_sdk.testing").run_session_store_conformance


def lines(*numbers: int) -> list[dict[str, Any]]:
    return [{"type": "x", "uuid": f"u{number}", "n": number} for number in numbers]


def numbers(records: list[dict[str, Any]] | None) -> list[int]:
    return [record["n"] for record in records or ()]


async def entries_of(store: AgentSessionStore) -> list[Any]:
    return [stored.entry for stored in await store.journal.entries(STORE)]


async def give(store: AgentSessionStore, entries: Iterable[Any]) -> None:
    remote = [RemoteEntry(sequence, entry) for sequence, entry in enumerate(entries)]
    await store.journal.write_from_remote(STORE, REMOTE, remote)


@needs_sdk
async def test_the_conformance_suite_of_the_sdk_is_passed(stack: AsyncExitStack) -> None:
    await conformance()(lambda: opened(stack))


@needs_sdk
async def test_the_view_for_any_directory_passes_the_suite_too(stack: AsyncExitStack) -> None:
    async def view() -> Any:
        return (await opened(stack)).anywhere()

    await conformance()(view)


async def test_lines_come_back_as_they_were(stack: AsyncExitStack) -> None:
    store = await opened(stack)
    odd = {"type": "x", "big": 2**70, "half": 0.5, "none": None, "lone": "\ud800", "nested": [{"a": [[]]}], "é": "\x00"}

    await store.append(KEY, [odd, {"type": "y"}])

    assert [odd, {"type": "y"}] == await store.load(KEY)


async def test_a_line_is_appended_once_however_often_it_is_sent(stack: AsyncExitStack) -> None:
    """The SDK tries again when it does not know whether an append arrived."""
    store = await opened(stack)
    await store.append(KEY, lines(1, 2))

    await store.append(KEY, lines(2, 3))
    await store.append(KEY, [{"type": "title"}, {"type": "title"}])

    assert ["x", "x", "x", "title", "title"] == [record["type"] for record in await store.load(KEY) or ()]
    assert 5 == len(await entries_of(store))


async def test_what_two_replicas_append_is_the_same_on_both_in_any_order_of_arrival(stack: AsyncExitStack) -> None:
    one, other = await opened(stack, seed=1), await opened(stack, seed=2)
    await one.append(KEY, lines(1, 2))
    await give(other, await entries_of(one))
    await other.append(KEY, lines(3))
    await one.append(KEY, lines(4, 3))
    every = {entry.id: entry for store in (one, other) for entry in await entries_of(store)}
    seen = set()

    for order in itertools.permutations(every.values()):
        late = await opened(stack, seed=3)
        await give(late, order)
        seen.add(tuple(numbers(await late.load(KEY))))

    assert 1 == len(seen)
    assert [1, 2, 3, 4] == sorted(seen.pop())
    assert numbers(await one.load(KEY))[:2] == [1, 2]


async def test_a_deletion_hides_what_came_before_it_wherever_it_arrives_first(stack: AsyncExitStack) -> None:
    store = await opened(stack)
    subagent = {**KEY, "subpath": "subagents/agent-1"}
    await store.append(KEY, lines(1))
    await store.append(subagent, lines(2))
    before = await entries_of(store)
    await store.delete(KEY)
    await store.append(KEY, lines(1, 5))
    after = [entry for entry in await entries_of(store) if entry not in before]
    seen = set()

    for order in itertools.permutations([*before, *after]):
        late = await opened(stack, seed=2)
        await give(late, order)
        found = numbers(await late.load(KEY)), await late.load(subagent), await late.list_subkeys(KEY)
        seen.add(repr(found))
        await late.cleanup()
        assert repr((numbers(await late.load(KEY)), await late.load(subagent), [])) == repr(found)

    assert {repr(([1, 5], None, []))} == seen


async def test_the_latest_of_several_deletions_counts_whichever_arrives_last(stack: AsyncExitStack) -> None:
    store = await opened(stack)
    for number in (1, 2):
        await store.append(KEY, lines(number))
        await store.journal.write(STORE, "agent_session_deleted", "k", {"projectKey": "-home-a", "sessionId": "s"})

    for order in itertools.permutations(await entries_of(store)):
        late = await opened(stack, seed=2)
        await give(late, order)

        assert await late.load(KEY) is None


async def test_a_deleted_session_is_dropped_from_the_journal(stack: AsyncExitStack) -> None:
    store = await opened(stack)
    await store.append(KEY, [{"type": "x", "secret": "hidden treasure"}])

    await store.delete(KEY)

    assert not any(b"treasure" in entry.payload for entry in await entries_of(store))


# -- retention ----------------------------------------------------------------------------------------------
DAY = 86_400.0


@asynccontextmanager
async def kept_for(
    max_idle: str | None, clock: Callable[[], float], cleanup: StorageCleanup | None = None
) -> AsyncIterator[AgentSessionStore]:
    config = StorageConfig.from_mapping({"retention": {"agent_sessions": {"max_idle": max_idle}}})
    async with (
        MemoryJournal(clock=clock, random=random.Random(1)) as journal,
        AgentSessionStore(journal, Identity.generate(), storage_config=config, storage_cleanup=cleanup) as store,
    ):
        yield store


async def fill(store: AgentSessionStore, now: list[float]) -> None:
    """One session that rested for 20 days, one whose subagent went on, and one of today."""
    for session in ("resting", "working", "fresh"):
        if session == "fresh":
            now[0] += 20 * DAY
            await store.append({**KEY, "session_id": "working", "subpath": "subagents/a"}, lines(7))
        for number in range(300):
            await store.append({**KEY, "session_id": session}, lines(number))


async def test_a_session_that_was_long_not_continued_goes_whole_if_the_settings_say_so() -> None:
    now = [2e9]
    async with kept_for("10 days", lambda: now[0]) as store:
        await fill(store, now)
        await store.append({**KEY, "session_id": "fresh", "subpath": "subagents/b"}, lines(8))
        report = await store.cleanup()
        left = {session["session_id"] for session in await store.list_sessions(KEY["project_key"])}
        working = numbers(await store.load({**KEY, "session_id": "working"}))
        again = await store.cleanup()

    assert report is not None
    assert (report.before, report.after, report.dropped, report.held_back) == (902, 602, 300, 0)
    assert left == {"working", "fresh"}
    assert working == list(range(300))
    assert again is None


async def test_sessions_are_kept_unless_the_settings_say_otherwise() -> None:
    now = [2e9]
    async with kept_for(None, lambda: now[0]) as store:
        await store.append(KEY, lines(1))
        now[0] += 3650 * DAY

        assert await store.cleanup() is None
        assert numbers(await store.load(KEY)) == [1]


async def test_a_session_goes_only_once_a_remote_has_all_of_it() -> None:
    now = [2e9]
    async with kept_for("10 days", lambda: now[0]) as store:
        await store.append(KEY, lines(1, 2, 3))
        first, *rest = [stored.position for stored in await store.journal.entries(STORE)]
        await store.journal.transact(lambda tx: tx.remember_remote(STORE, REMOTE))
        now[0] += 20 * DAY
        await store.journal.acknowledge(STORE, REMOTE, Acknowledgement([first]))
        held = await store.cleanup()
        kept = numbers(await store.load(KEY))
        await store.journal.acknowledge(STORE, REMOTE, Acknowledgement(rest))
        done = await store.cleanup()

        assert await store.load(KEY) is None
    assert (held, done) != (None, None)
    assert held is not None
    assert done is not None
    assert (held.dropped, held.held_back, kept) == (0, 3, [1, 2, 3])
    assert (done.dropped, done.held_back) == (3, 0)


async def test_what_was_dropped_does_not_come_back_but_a_session_that_goes_on_elsewhere_does() -> None:
    now = [2e9]
    async with kept_for("10 days", lambda: now[0]) as store:
        await store.append(KEY, lines(1, 2))
        entries = await entries_of(store)
        now[0] += 20 * DAY
        await store.cleanup()
        await give(store, entries)
        gone = await store.load(KEY)
        await store.append(KEY, lines(3))

        assert gone is None
        assert numbers(await store.load(KEY)) == [3]


async def test_the_cleanup_schedule_has_the_store_while_it_is_open() -> None:
    now = [2e9]
    cleanup = StorageCleanup(schedule={"run_on_start": False, "interval": 0})
    async with kept_for("10 days", lambda: now[0], cleanup) as store:
        await store.append(KEY, lines(1))
        now[0] += 20 * DAY
        report = await cleanup.run_now()

        assert cleanup.status().stores == (STORE,)
        assert report.stores[STORE].dropped == 1
    assert cleanup.status().stores == ()


async def test_a_session_is_found_from_another_directory_and_goes_on_under_its_first_name(
    stack: AsyncExitStack,
) -> None:
    store = await opened(stack)
    await store.append(KEY, lines(1))
    elsewhere = {**KEY, "project_key": "-home-b"}
    view = store.anywhere()

    found = await view.load(elsewhere)
    await view.append(elsewhere, lines(2))
    await view.append({**elsewhere, "subpath": "subagents/agent-1"}, lines(3))

    assert [1] == numbers(found)
    assert [1, 2] == numbers(await store.load(KEY))
    assert await store.load(elsewhere) is None
    assert ["subagents/agent-1"] == await store.list_subkeys(KEY) == await view.list_subkeys(elsewhere)


async def test_a_session_of_the_same_name_in_its_own_directory_is_preferred(stack: AsyncExitStack) -> None:
    store = await opened(stack)
    own = {**KEY, "project_key": "-home-b"}
    await store.append(own, lines(7))
    await store.append(KEY, lines(1))

    assert [7] == numbers(await store.anywhere().load(own))


async def test_a_session_deleted_here_is_not_looked_for_elsewhere(stack: AsyncExitStack) -> None:
    store = await opened(stack)
    own = {**KEY, "project_key": "-home-b"}
    await store.append(KEY, lines(1))
    await store.append(own, lines(7))

    await store.delete(own)

    assert await store.anywhere().load(own) is None


@needs_sdk
async def test_summaries_follow_lines_that_arrive_late(stack: AsyncExitStack) -> None:
    """A line that sorts before those already summed up must not be left out."""
    one, other = await opened(stack, seed=1), await opened(stack, seed=2)
    await one.append(KEY, [{"type": "x", "customTitle": "early"}])
    early = await entries_of(one)
    await give(other, early)
    await other.append(KEY, [{"type": "x", "customTitle": "late"}])
    late = [entry for entry in await entries_of(other) if entry not in early]
    third = await opened(stack, seed=3)
    await give(third, late)
    (first,) = await third.list_session_summaries("-home-a")

    await third.journal.write_from_remote(STORE, b"q" * 16, [RemoteEntry(0, early[0])])
    (then,) = await third.list_session_summaries("-home-a")

    assert ("late", "late") == (first["data"]["custom_title"], then["data"]["custom_title"])
    assert 2 == len(await third.load(KEY) or ())


@pytest.mark.parametrize("key", [{}, {"project_key": "p"}, {"project_key": "p", "session_id": ""}, {"session_id": "s"}])
async def test_what_is_no_key_is_refused(stack: AsyncExitStack, key: dict[str, Any]) -> None:
    store = await opened(stack)

    with pytest.raises(UsageError, match="session key needs"):
        await store.append(key, lines(1))


async def test_what_is_no_json_is_refused_and_nothing_of_the_batch_is_kept(stack: AsyncExitStack) -> None:
    store = await opened(stack)

    with pytest.raises(UsageError, match="must be JSON"):
        await store.append(KEY, [*lines(1), {"type": "x", "number": float("nan")}])

    assert await store.load(KEY) is None


async def test_a_closed_store_says_so() -> None:
    async with MemoryJournal() as journal:
        store = AgentSessionStore(journal, Identity.generate())

        with pytest.raises(StateError, match="not open"):
            await store.append(KEY, lines(1))
