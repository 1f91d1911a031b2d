"""A subscriber sees what is shown of a key now and after every change, and never misses the newest."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import UsageError
from agentlayers.eventlog.event import Event, EventGroup, EventKind
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.subscription import KeyView
from agentlayers.journal.conflict_policy import ConflictPolicy, FirstWriteWins, LastWriteWins, Merge, Reject
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.entry_id import next_entry_id
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.protocol.payload import encode_payload

IDENTITY = Identity.generate(lambda count: bytes(range(count)))
put = Event("put", lambda fields: str(fields["k"]))
gone = Event("gone", lambda fields: str(fields["k"]), EventKind.DELETION)


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> EventJournal:
    return MemoryJournal() if request.param == "memory" else SQLiteJournal(tmp_path / "replica", durability="normal")


@asynccontextmanager
async def opened(journal: EventJournal, policy: ConflictPolicy | None = None) -> AsyncIterator[EventLog]:
    async with journal:
        schema = EventGroup.schema(
            "boards", EventGroup.keyed(put, gone), EventGroup.append_only(Event("note", str)), policy=policy
        )
        log = EventLog(journal, IDENTITY, schema)
        await log.open()
        yield log
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def write(log: EventLog, key: str, value: Any) -> None:
    await log.write_event(put, {"k": key, "v": value})


def shown(view: KeyView) -> Any:
    return None if view.value is None else view.value["v"]


async def concurrent(log: EventLog, key: str, value: Any) -> None:
    """Receive a version whose writer had seen nothing of the key."""
    payload = encode_payload({"k": key, "v": value, "_causal": {"replica": f"r{value}", "seen": {}}})
    entry = Entry(next_entry_id(1000, b"", 1), "put", key, payload)
    await log.journal.write_from_remote("boards", b"r" * 16, [RemoteEntry(0, entry)])


async def test_it_yields_the_present_value_and_each_new_one(journal: EventJournal) -> None:
    """Other keys and other entries say nothing."""
    async with opened(journal) as log:
        await write(log, "a", 1)
        async with aclosing(log.subscribe("a")) as views:
            first = await anext(views)
            await write(log, "b", 9)
            await log.write("note", "a", {})
            await write(log, "a", 2)
            second = await anext(views)
            await log.write_event(gone, {"k": "a"})
            third = await anext(views)

        assert [shown(view) for view in (first, second, third)] == [1, 2, None]
        assert [view.outcome for view in (first, third)] == ["accept", "accept"]
        assert third.winner is not None
        assert third.winner.is_deletion


async def test_a_key_that_was_never_written_is_nothing_and_then_something(journal: EventJournal) -> None:
    async with opened(journal) as log, aclosing(log.subscribe("a")) as views:
        empty = await asyncio.wait_for(anext(views), 5)
        waiting = asyncio.ensure_future(anext(views))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await write(log, "a", 1)

        assert empty == KeyView("a")
        assert shown(await waiting) == 1


async def test_several_keys_are_followed_at_once(journal: EventJournal) -> None:
    async with opened(journal) as log, aclosing(log.subscribe("a", "b", "a")) as views:
        present = [await anext(views), await anext(views)]
        await write(log, "b", 1)
        later = await anext(views)

        assert [view.primary_key for view in present] == ["a", "b"]
        assert (later.primary_key, shown(later)) == ("b", 1)


async def test_a_slow_subscriber_sees_the_newest_and_costs_nothing(journal: EventJournal) -> None:
    """What comes and goes while it is busy is left out."""
    async with opened(journal) as log, aclosing(log.subscribe("a")) as views:
        await anext(views)
        await write(log, "a", "x" * 1000)
        await anext(views)
        tracemalloc.start()
        before, _peak = tracemalloc.get_traced_memory()
        for number in range(300):
            await log.journal.write("boards", "put", "b", {"k": "b", "v": number, "fill": "x" * 100})
        await write(log, "a", "newest")
        if isinstance(journal, SQLiteJournal):
            after, _peak = tracemalloc.get_traced_memory()
            assert after - before < 150_000
        tracemalloc.stop()

        assert shown(await anext(views)) == "newest"


def _sum(values: Any) -> dict[str, Any]:
    return {"v": sum(value["v"] for value in values)}


def _broken(values: Any) -> dict[str, Any]:
    raise KeyError(len(values))


@pytest.mark.parametrize(
    ("policy", "expected", "outcome"),
    [
        (LastWriteWins(), 5, "accept"),
        (FirstWriteWins(), 1, "accept"),
        (Merge(_sum), 6, "merge"),
        (Reject("no"), 1, "reject"),
        (Merge(_broken), None, "failed"),
    ],
    ids=["last", "first", "merge", "reject", "broken"],
)
async def test_the_policy_decides_what_is_shown_of_a_conflict(
    journal: EventJournal, policy: ConflictPolicy, expected: Any, outcome: str
) -> None:
    """A conflict that arrives is a change; the next write ends it."""
    async with opened(journal, policy) as log, aclosing(log.subscribe("a")) as views:
        await anext(views)
        await write(log, "a", 5)
        await anext(views)
        await concurrent(log, "a", 1)
        view = await anext(views)
        await write(log, "a", 7)
        settled = await anext(views)

        assert (None if view.value is None else view.value["v"], view.outcome) == (expected, outcome)
        assert view.is_conflict
        assert (shown(settled), settled.is_conflict) == (7, False)
        assert await log.view("a") == settled


async def test_versions_that_say_the_same_are_no_conflict(journal: EventJournal) -> None:
    """The other one is a change all the same: it is a head."""
    async with opened(journal) as log, aclosing(log.subscribe("a")) as views:
        await anext(views)
        await write(log, "a", 1)
        await anext(views)
        await concurrent(log, "a", 1)
        view = await anext(views)

        assert (shown(view), len(view.heads), view.is_conflict) == (1, 2, False)


async def test_it_ends_with_its_journal(journal: EventJournal) -> None:
    async with opened(journal) as log:
        views = log.subscribe("a")
        await anext(views)
    with pytest.raises(StopAsyncIteration):
        await anext(views)


async def test_any_read_can_be_watched(journal: EventJournal) -> None:
    """It is yielded again when its result is another."""
    async with opened(journal) as log, aclosing(log.watch(lambda tx: len(tx.versions("boards", "a")))) as counts:
        found = [await anext(counts)]
        await write(log, "b", 1)
        await write(log, "a", 1)
        found.append(await anext(counts))
        await write(log, "a", 2)
        await write(log, "a", 3)
        found.append(await anext(counts))

        assert found[0] == 0
        assert found[-1] == 3
        assert sorted(found) == found


async def test_two_processes_of_one_file_see_each_other(tmp_path: Path) -> None:
    async with (
        opened(SQLiteJournal(tmp_path)) as here,
        SQLiteJournal(tmp_path) as journal,
    ):
        there = EventLog(journal, IDENTITY, here.schema)
        await there.open()
        async with aclosing(here.subscribe("a")) as views:
            await anext(views)
            await write(there, "a", 1)

            assert shown(await asyncio.wait_for(anext(views), 5)) == 1


async def test_what_cannot_be_subscribed_to_is_refused() -> None:
    async with MemoryJournal() as journal:
        log = EventLog(journal, IDENTITY, EventGroup.schema("notes", EventGroup.append_only(Event("note", str))))
        with pytest.raises(UsageError, match="needs a key"):
            log.subscribe()
        with pytest.raises(UsageError, match="append-only"):
            log.subscribe("a")
