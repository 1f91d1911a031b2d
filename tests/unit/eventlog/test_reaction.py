"""Reactions handle every committed entry at least once, in order, and hold nothing up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import StateError, UsageError
from agentlayers.eventlog.event import Event, EventGroup
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.reaction import Reaction, ReactionState
from agentlayers.eventlog.typed_event import TypedEntry, TypedEvent
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.entry_id import next_entry_id
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.protocol.payload import encode_payload
from agentlayers.schedule import fixed

IDENTITY = Identity.generate(lambda count: bytes(range(count)))
AT_ONCE = fixed("1 millis")


@dataclass(frozen=True)
class Order:
    id: str
    total: int = 0


placed = TypedEvent("order_placed", Order, lambda order: order.id)
changed = TypedEvent("order_changed", Order, lambda order: order.id)
noted = Event("note", lambda fields: str(fields["n"]))
ORDERS = (EventGroup.append_only(placed, noted), EventGroup.keyed(changed))


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> EventJournal:
    return MemoryJournal() if request.param == "memory" else SQLiteJournal(tmp_path / "replica", durability="normal")


@asynccontextmanager
async def opened(journal: EventJournal) -> AsyncIterator[EventLog]:
    async with journal:
        log = EventLog(journal, IDENTITY, EventGroup.schema("orders", *ORDERS))
        await log.open()
        yield log
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Seen:
    """A handler that remembers, and fails when it is told to."""

    def __init__(self, *failing: str, times: int = 1_000_000) -> None:
        self.ids: list[str] = []
        self.tries: list[str] = []
        self.failing = dict.fromkeys(failing, times)

    async def __call__(self, entry: TypedEntry[Any]) -> None:
        key = entry.entry.primary_key
        self.tries.append(key)
        if self.failing.get(key, 0) > 0:
            self.failing[key] -= 1
            raise ValueError("secret-free reason")
        self.ids.append(key)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def place(log: EventLog, *ids: str) -> None:
    for number, name in enumerate(ids):
        await log.write_value(placed, Order(name, number))


async def test_entries_are_handled_in_order_as_values_of_their_events(journal: EventJournal) -> None:
    """Values of typed events, payloads of others; local and received ones."""
    found: list[tuple[Any, bool]] = []

    async def handle(entry: TypedEntry[Any]) -> None:
        found.append((entry.value, entry.is_local))

    async with opened(journal) as log, log.react("all", handle) as reaction:
        await place(log, "a")
        await log.write_event(noted, {"n": 1})
        await log.write_value(changed, Order("a", 7))
        arrived = Entry(next_entry_id(1000, b"", 1), "order_placed", "b", encode_payload({"id": "b"}))
        await journal.write_from_remote("orders", b"r" * 16, [RemoteEntry(0, arrived)])
        status = await reaction.caught_up()

    typed = {"id": "a", "total": 0}
    assert found == [(typed, True), ({"n": 1}, True), ({"id": "a", "total": 7}, True), ({"id": "b"}, False)]
    assert (status.handled, status.state, status.error) == (4, ReactionState.WORKING, "")
    assert reaction.status().state is ReactionState.CLOSED


async def test_it_handles_only_the_events_it_names(journal: EventJournal) -> None:
    found: list[Order] = []

    async def handle(entry: TypedEntry[Order]) -> None:
        found.append(entry.value)

    async with opened(journal) as log, log.react("some", handle, events=[placed, changed]) as reaction:
        await log.write_event(noted, {"n": 1})
        await place(log, "a")
        await log.write_value(changed, Order("b", 2))
        await reaction.caught_up()

    assert found == [Order("a", 0), Order("b", 2)]


@pytest.mark.parametrize(("start", "expected"), [("now", ["c"]), ("beginning", ["a", "b", "c"])])
async def test_a_new_reaction_begins_where_it_says(journal: EventJournal, start: Any, expected: list[str]) -> None:
    seen = Seen()
    async with opened(journal) as log:
        await place(log, "a", "b")
        async with log.react("mail", seen, start=start) as reaction:
            await place(log, "c")
            await reaction.caught_up()

    assert seen.ids == expected


async def test_it_goes_on_where_it_was_after_a_restart(journal: EventJournal) -> None:
    """What came while it was away is handled; what it handled is not handled again."""
    seen = Seen()
    async with opened(journal) as log:
        async with log.react("mail", seen) as reaction:
            await place(log, "a", "b")
            await reaction.caught_up()
        await place(log, "c")
    async with opened(journal) as log:
        await place(log, "d")
        async with log.react("mail", seen) as reaction:
            await reaction.caught_up()

    assert seen.ids == ["a", "b", "c", "d"]


async def test_what_was_being_handled_when_it_was_left_is_handled_again(journal: EventJournal) -> None:
    """As after a crash between the handler and the note of its place: at least once, in order."""
    started = asyncio.Event()
    tries: list[str] = []

    async def hang(entry: TypedEntry[Order]) -> None:
        tries.append(entry.value.id)
        if entry.value.id == "b" and not started.is_set():
            started.set()
            await asyncio.Event().wait()

    async with opened(journal) as log:
        async with log.react("mail", hang, events=[placed]):
            await place(log, "a", "b", "c")
            await started.wait()
        async with log.react("mail", hang, events=[placed]) as reaction:
            await reaction.caught_up()

    assert tries == ["a", "b", "b", "c"]


async def test_a_failure_is_tried_again_and_keeps_the_order(journal: EventJournal) -> None:
    seen = Seen("a", times=3)
    async with opened(journal) as log, log.react("mail", seen, retry=AT_ONCE) as reaction:
        await place(log, "a", "b")
        await reaction.caught_up()

    assert seen.tries == ["a", "a", "a", "a", "b"]
    assert seen.ids == ["a", "b"]


async def test_a_failing_reaction_blocks_no_write_and_no_other_reaction(journal: EventJournal) -> None:
    """It says what is wrong meanwhile."""
    seen, broken = Seen(), Seen("a")
    async with (
        opened(journal) as log,
        log.react("good", seen) as good,
        log.react("bad", broken, retry=fixed("1 hour")) as bad,
    ):
        await place(log, "a", "b", "c")
        await good.caught_up()
        await until(lambda: bad.status().state is ReactionState.RETRYING)
        status = bad.status()
        bad.resume()
        await until(lambda: bad.status().attempts == 2)

    assert seen.ids == ["a", "b", "c"]
    assert (status.attempts, status.error, status.handled) == (1, "ValueError: secret-free reason", 0)
    assert broken.tries == ["a", "a"]


async def test_one_that_gives_up_stops_there_and_skips_nothing(journal: EventJournal) -> None:
    """It goes on when it is resumed, and from the same entry at the next start."""
    seen = Seen("b", times=3)
    async with opened(journal) as log:
        async with log.react("mail", seen, retry=AT_ONCE.limited(1)) as reaction:
            await place(log, "a", "b", "c")
            stopped = await reaction.caught_up()
            reaction.resume()
            await until(lambda: len(seen.tries) == 4)
        async with log.react("mail", seen, retry=AT_ONCE) as reaction:
            resumed = await reaction.caught_up()

    assert (stopped.state, stopped.attempts) == (ReactionState.STOPPED, 2)
    assert resumed.state is ReactionState.WORKING
    assert seen.ids == ["a", "b", "c"]


async def test_one_that_sets_aside_goes_on_and_says_so(journal: EventJournal) -> None:
    """The entry is tried once more at each start, and is done with once that succeeds."""
    seen = Seen("b", times=3)
    async with opened(journal) as log:
        for _start in range(2):
            async with log.react("mail", seen, retry=AT_ONCE.limited(1), when_exhausted="set_aside") as reaction:
                if not seen.tries:
                    await place(log, "a", "b", "c")
                status = await reaction.caught_up()
                aside = await reaction.set_aside()
        async with log.react("mail", seen) as reaction:
            done = await reaction.caught_up()
            none_left = await reaction.set_aside()

    assert (status.set_aside, [one.attempts for one in aside]) == (1, [3])
    assert "ValueError" in aside[0].error
    assert (done.set_aside, none_left) == (0, [])
    assert seen.ids == ["a", "c", "b"]


async def test_an_entry_it_cannot_read_is_not_tried_for_ever(journal: EventJournal) -> None:
    """Only another release can read it, so the retry schedule does not apply."""
    seen = Seen()
    async with opened(journal) as log:
        async with log.react("mail", seen, events=[placed], retry=AT_ONCE, when_exhausted="set_aside") as reaction:
            await log.write("order_placed", "?", {"no": "order"})
            await place(log, "a")
            status = await reaction.caught_up()
        async with log.react("strict", seen, events=[placed], retry=AT_ONCE, start="beginning") as reaction:
            stopped = await reaction.caught_up()

    assert seen.ids == ["a"]
    assert status.set_aside == 1
    assert (stopped.state, stopped.attempts) == (ReactionState.STOPPED, 1)
    assert "is no Order" in stopped.error


async def test_compaction_waits_for_what_a_reaction_has_yet_to_handle(journal: EventJournal) -> None:
    """Unless its events are others; forgetting a reaction that will not come back lets go."""
    async with opened(journal) as log:
        async with log.react("mail", Seen("a"), events=[placed], retry=AT_ONCE.limited(0)) as reaction:
            await place(log, "a", "b")
            await log.write_event(noted, {"n": 1})
            await reaction.caught_up()
            with pytest.raises(StateError, match="'mail' of store 'orders' is running"):
                await log.forget_reaction("mail")
        held = await journal.compact("orders", ByCount(0))
        known = [(one.name, one.events) for one in await log.reactions()]
        was_known = await log.forget_reaction("mail")
        gone = await journal.compact("orders", ByCount(0))

        assert (held.dropped, held.held_back) == (1, 2)
        assert (known, was_known) == ([("mail", frozenset({"order_placed"}))], True)
        assert (gone.dropped, await log.reactions()) == (2, [])


async def test_what_it_handled_is_compacted_and_its_place_stays_right(journal: EventJournal) -> None:
    """Positions are never used again."""
    seen = Seen()
    async with opened(journal) as log:
        async with log.react("mail", seen) as reaction:
            await place(log, "a", "b")
            await reaction.caught_up()
        report = await journal.compact("orders", ByCount(0))
    async with opened(journal) as log, log.react("mail", seen) as reaction:
        await place(log, "c")
        await reaction.caught_up()

    assert report.dropped == 2
    assert seen.ids == ["a", "b", "c"]


async def test_two_of_one_name_are_refused(journal: EventJournal) -> None:
    """They would share a place."""
    async with opened(journal) as log, log.react("mail", Seen()):
        with pytest.raises(StateError, match="named 'mail' runs on store 'orders' already"):
            async with log.react("mail", Seen()):
                pass


async def test_a_journal_that_is_closed_ends_it(journal: EventJournal) -> None:
    """Whoever waits for it is told."""
    await journal.__aenter__()
    log = EventLog(journal, IDENTITY, EventGroup.schema("orders", *ORDERS))
    await log.open()
    async with log.react("mail", Seen()) as reaction:
        await reaction.caught_up()
        await journal.__aexit__(None, None, None)
        await until(lambda: reaction.status().state is ReactionState.CLOSED)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": ""}, "needs a name"),
        ({"events": (placed, placed)}, "names a tag twice"),
        ({"start": "end"}, "expected 'now' or 'beginning'"),
        ({"when_exhausted": "drop"}, "expected 'stop' or 'set_aside'"),
    ],
)
def test_a_declaration_that_cannot_be_right_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Reaction(**{"name": "mail", "handler": Seen(), **fields})
