"""Events with typed payloads: written, projected, followed, and kept where they cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentlayers.errors import MalformedMessageError, UsageError
from agentlayers.eventlog.event import EventGroup
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.typed_event import TypedEntry, TypedEvent, projection_of
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.entry_id import next_entry_id
from agentlayers.journal.memory.journal import MemoryJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.protocol.payload import decode_payload, encode_payload

IDENTITY = Identity.generate(lambda count: bytes(range(count)))


@dataclass(frozen=True)
class Step:
    name: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    id: str
    steps: list[Step] = field(default_factory=list)


class RunModel(BaseModel):
    id: str
    steps: list[dict[str, Any]] = []


class RunDict(TypedDict):
    id: str
    steps: list[dict[str, Any]]


STEPS = [{"name": "build", "seconds": 1.5}]
VALUES = [
    (Run, Run("a", [Step("build", 1.5)]), lambda run: run.id),
    (RunModel, RunModel(id="a", steps=STEPS), lambda run: run.id),
    (RunDict, RunDict(id="a", steps=STEPS), lambda run: run["id"]),
]


@pytest.mark.parametrize(("payload_type", "value", "key"), VALUES, ids=["dataclass", "pydantic", "typed_dict"])
async def test_a_value_comes_back_as_it_was_written(payload_type: Any, value: Any, key: Callable[[Any], str]) -> None:
    """On the wire it is a plain map."""
    finished = TypedEvent("run_finished", payload_type, key)
    async with MemoryJournal() as journal:
        log = EventLog(journal, IDENTITY, EventGroup.schema("runs", EventGroup.append_only(finished)))
        await log.open()
        entry = await log.write_value(finished, value)
        await journal.write("runs", "something_else", "k", {})
        values = log.values(finished, after=0)
        followed = await anext(values)
        await values.aclose()

        assert (entry.event, entry.primary_key) == ("run_finished", "a")
        assert decode_payload(entry.payload) == {"id": "a", "steps": STEPS}
        assert (followed.value, followed.entry) == (value, entry)
        assert followed.position > 0


async def test_handlers_get_values_and_the_heads_of_their_key() -> None:
    """The same rules hold as for any projection."""
    changed = TypedEvent("run_changed", Run, lambda run: run.id)

    def show(tx: JournalTransaction, typed: TypedEntry[Run]) -> None:
        winner = changed.decode(typed.heads[-1].value)
        tx.put(b"runs\x00" + winner.id.encode(), ",".join(step.name for step in winner.steps).encode())

    async with MemoryJournal() as journal:
        schema = EventGroup.schema("runs", EventGroup.keyed(changed), project=projection_of({changed: show}))
        log = EventLog(journal, IDENTITY, schema)
        await log.open()
        await log.write_value(changed, Run("a", [Step("one")]))
        await log.write_value(changed, Run("a", [Step("one"), Step("two")]))

        assert await log.read(lambda tx: tx.get(b"runs\x00a")) == b"one,two"


async def test_entries_of_other_releases_are_kept_and_those_that_fit_are_read() -> None:
    """More fields do no harm, too few leave an entry unapplied, and an unknown tag changes nothing."""
    finished = TypedEvent("run_finished", Run, lambda run: run.id)
    seen: list[Run] = []
    payloads: list[tuple[str, dict[str, Any]]] = [
        ("run_finished", {"id": "new", "steps": [], "more": 1}),
        ("run_finished", {"name": "old"}),
        ("x", {}),
    ]
    entries = [
        RemoteEntry(number, Entry(next_entry_id(1000 + number, b"", number), tag, "k", encode_payload(payload)))
        for number, (tag, payload) in enumerate(payloads)
    ]
    async with MemoryJournal() as journal:
        project = projection_of({finished: lambda tx, typed: seen.append(typed.value)})
        log = EventLog(journal, IDENTITY, EventGroup.schema("runs", EventGroup.append_only(finished), project=project))
        await log.open()
        await journal.write_from_remote("runs", b"r" * 16, entries)
        held = await journal.entries("runs")
        unapplied, unknown = await log.read(lambda tx: tx.unapplied("runs"))
        values = log.values(finished, after=0)
        first = await anext(values)
        await values.aclose()

        assert Run("new") in seen
        assert [stored.entry for stored in held] == [entry.entry for entry in entries]
        assert "is no Run: id: Field required" in unapplied.error
        assert "store 'runs' has no event 'x'; it knows run_finished" in unknown.error
        assert first.value == Run("new")


@pytest.mark.parametrize("value", [Run(3), {"id": "a"}, Step("a"), None])  # type: ignore[arg-type]
def test_what_is_no_value_of_the_type_is_refused_before_it_is_written(value: Any) -> None:
    """With the field, and without the value, which may be a secret."""
    finished = TypedEvent("run_finished", Run, lambda run: run.id)
    with pytest.raises(UsageError, match=r"payload of 'run_finished'(: \w+ is no Run| is no Run: id: )"):
        finished.encode(value)


def test_a_payload_that_is_malformed_names_the_field() -> None:
    finished = TypedEvent("run_finished", Run, lambda run: run.id)
    with pytest.raises(MalformedMessageError, match=r"steps\.0\.name: Field required"):
        finished.decode({"id": "a", "steps": [{}]})


@pytest.mark.parametrize("payload_type", [int, list[str], dict, object])
def test_a_type_that_is_no_map_is_refused(payload_type: Any) -> None:
    with pytest.raises(UsageError, match="payload type of 'x'"):
        TypedEvent("x", payload_type, str)


def test_two_handlers_for_one_tag_are_refused() -> None:
    one, other = (TypedEvent("x", Run, lambda run: run.id) for _ in range(2))
    with pytest.raises(UsageError, match="two handlers for one tag: x, x"):
        projection_of({one: lambda tx, typed: None, other: lambda tx, typed: None})
