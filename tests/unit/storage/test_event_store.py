"""An application declares its own store in a few lines, and it is kept, synced, wired and evolved as the others are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from dependency_injector import providers

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.errors import MalformedMessageError, StateError, UnknownEventError, UsageError
from agentlayers.eventlog.event import Event, EventGroup, EventKind
from agentlayers.eventlog.identity import Identity
from agentlayers.eventlog.reaction import ReactionState
from agentlayers.eventlog.running_reaction import RunningReaction
from agentlayers.eventlog.typed_event import TypedEntry, TypedEvent
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.conflict_policy import ConflictPolicy, Merge
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.layer import Layer
from agentlayers.runtime.containers import AgentRuntimeContainer
from agentlayers.schedule import fixed
from agentlayers.server import MemoryServer
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.declared_handler import projects, reacts, retracts
from agentlayers.storage.digest import journal_digest
from agentlayers.storage.event_store import EventStore
from agentlayers.storage.export import export_lines
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.sync.service import SyncService
from agentlayers.transport.memory import MemoryTransport

IDENTITY = Identity("test", bytes(32))


@dataclass(frozen=True)
class Task:
    id: str
    title: str
    done: bool = False


@dataclass(frozen=True)
class TaskGone:
    id: str


@dataclass(frozen=True)
class Comment:
    task: str
    text: str


task_saved = TypedEvent("task_saved", Task, key=lambda task: task.id)
task_gone = TypedEvent("task_gone", TaskGone, key=lambda gone: gone.id, kind=EventKind.DELETION)
commented = TypedEvent("commented", Comment, key=lambda comment: comment.task)
opened_board = Event("board_opened", lambda fields: str(fields["board"]))


class Tasks(EventStore):
    name: ClassVar[str] = "tasks"
    groups = (EventGroup.keyed(task_saved, task_gone), EventGroup.append_only(commented, opened_board))

    announced: list[str]

    @projects(commented)
    def count(self, tx: JournalTransaction, entry: TypedEntry[Comment]) -> None:
        tx.put(self.row_key("comment", entry.value.task, entry.entry.id), b"")

    @retracts(commented)
    def discount(self, tx: JournalTransaction, entry: TypedEntry[Comment]) -> None:
        tx.delete(self.row_key("comment", entry.value.task, entry.entry.id))

    @reacts(task_saved, retry=fixed("1 millis"))
    async def announce(self, entry: TypedEntry[Task]) -> None:
        self.announced = [*getattr(self, "announced", []), entry.value.title]

    async def comments(self, task: str) -> int:
        start = self.row_key("comment", task)
        return await self.log.read(lambda tx: len(list(tx.scan(start, start + b"\xff"))))


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> EventJournal:
    return MemoryJournal() if request.param == "memory" else SQLiteJournal(tmp_path / "r", durability="normal")


async def test_values_are_shown_listed_and_deleted(journal: EventJournal) -> None:
    async with journal, Tasks(journal, IDENTITY) as tasks:
        await tasks.write(task_saved, Task("b", "bread"))
        await tasks.write(task_saved, Task("a", "apples"))
        await tasks.write(task_saved, Task("a", "apples", done=True))
        await tasks.write(task_saved, Task("ab", "abacus"))
        await tasks.write(task_saved, Task("c", "cake"))
        await tasks.write(task_gone, TaskGone("c"))

        assert await tasks.get("a") == Task("a", "apples", done=True)
        assert (await tasks.get("c"), await tasks.get("never")) == (None, None)
        assert await tasks.keys() == ["a", "ab", "b"]
        assert list((await tasks.items("a")).values()) == [Task("a", "apples", done=True), Task("ab", "abacus")]
        assert await tasks.items(after="a", limit=1) == {"ab": Task("ab", "abacus")}
        assert len(await tasks.versions("a")) == 2


async def test_projections_and_reactions_are_methods(journal: EventJournal) -> None:
    """A projection is never behind; a reaction catches up."""
    async with journal:
        async with Tasks(journal, IDENTITY) as tasks:
            await tasks.write(commented, Comment("a", "nice"))
            await tasks.write(commented, Comment("a", "indeed"))
            await tasks.write(task_saved, Task("a", "apples"))
            count = await tasks.comments("a")
            status = await tasks.reaction("announce").caught_up()
            await journal.compact("tasks", ByCount(1))
            after = await tasks.comments("a")

        assert (count, after) == (2, 0)
        assert tasks.announced == ["apples"]
        assert (status.state, status.handled) == (ReactionState.WORKING, 1)
        with pytest.raises(StateError, match="tasks store is not open"):
            tasks.reaction("announce")
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_key_that_retention_drops_is_listed_no_more_and_another_entry_of_its_name_changes_nothing(
    journal: EventJournal,
) -> None:
    async with journal, Tasks(journal, IDENTITY) as tasks:
        await tasks.write(commented, Comment("a", "older than the task of this key"))
        await tasks.write(task_saved, Task("a", "apples"))
        await tasks.reaction("announce").caught_up()
        await journal.compact("tasks", ByCount(1))
        kept = await tasks.items()
        await journal.compact("tasks", ByCount(0))

        assert kept == {"a": Task("a", "apples")}
        assert (await tasks.keys(), await tasks.get("a"), await tasks.comments("a")) == ([], None, 0)


async def test_entries_come_back_as_values_in_pages(journal: EventJournal) -> None:
    async with journal, Tasks(journal, IDENTITY) as tasks:
        await tasks.write(opened_board, {"board": 1})
        for number in range(3):
            await tasks.write(commented, Comment("a", str(number)))
        first = await tasks.entries(commented, limit=2)
        rest = await tasks.entries(commented, after=first[-1].position)
        every = await tasks.entries()
        async with aclosing(tasks.follow(commented, after=0)) as following:
            followed = await anext(following)

        assert [entry.value.text for entry in [*first, *rest]] == ["0", "1", "2"]
        assert every[0].value == {"board": 1}
        assert followed.value == Comment("a", "0")


async def test_a_key_can_be_subscribed_to(journal: EventJournal) -> None:
    async with journal, Tasks(journal, IDENTITY) as tasks, aclosing(tasks.subscribe("a")) as views:
        empty = await anext(views)
        await tasks.write(task_saved, Task("a", "apples"))
        filled = await anext(views)

        assert tasks.value_of(empty) is None
        assert tasks.value_of(filled) == Task("a", "apples")


@asynccontextmanager
async def synced(
    server: MemoryServer,
    *stores: type[EventStore],
    policy: ConflictPolicy | None = None,
    journal: EventJournal | None = None,
) -> AsyncIterator[list[Any]]:
    """Open one replica for each store class, all synced through one server."""
    async with AsyncExitStack() as stack:
        opened = []
        for store in stores:
            kept = await stack.enter_async_context(journal or MemoryJournal())
            transport = MemoryTransport(server.serve, is_stream=True)
            sync = await stack.enter_async_context(SyncService(transport, AesGcmEncryption(), stores={"tasks": True}))
            opened.append(await stack.enter_async_context(store(kept, IDENTITY, sync=sync, conflict_policy=policy)))
        yield opened


async def converged(*stores: EventStore) -> None:
    async with asyncio.timeout(10):
        while len({await journal_digest(store.journal) for store in stores}) > 1:
            for store in stores:
                assert store._sync is not None
                await store._sync.sync_now()
            await asyncio.sleep(0.01)


def _joined(values: Any) -> dict[str, Any]:
    return {**values[0], "title": "+".join(sorted(value["title"] for value in values))}


async def test_two_replicas_sync_it_and_converge_under_the_policy_configured() -> None:
    async with MemoryServer() as server, synced(server, Tasks, Tasks, policy=Merge(_joined)) as (one, other):
        await one.write(task_saved, Task("a", "left"))
        await other.write(task_saved, Task("a", "right"))
        await one.write(commented, Comment("a", "hi"))
        await converged(one, other)

        assert await one.get("a") == await other.get("a") == Task("a", "left+right")
        assert len(await other.conflicts()) == 1
        assert await other.comments("a") == 1
        assert (await other.entries(commented))[0].is_local is False


# -- schema evolution -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TaskInSeconds:
    id: str
    title: str
    seconds: float


task_saved_2 = TypedEvent(
    "task_saved",
    TaskInSeconds,
    key=lambda task: task.id,
    upgrades={1: lambda fields: {"id": fields["id"], "title": fields["title"], "seconds": 60 * fields["minutes"]}},
)


@dataclass(frozen=True)
class TaskInMinutes:
    id: str
    title: str
    minutes: int = 0


task_saved_1 = TypedEvent("task_saved", TaskInMinutes, key=lambda task: task.id)
task_moved = TypedEvent("task_moved", Comment, key=lambda moved: moved.task)
task_pinned = TypedEvent("task_pinned", TaskGone, key=lambda pinned: pinned.id)


class FirstRelease(EventStore):
    name: ClassVar[str] = "tasks"
    groups = (EventGroup.keyed(task_saved_1),)


class SecondRelease(EventStore):
    name: ClassVar[str] = "tasks"
    groups = (EventGroup.keyed(task_saved_2, task_pinned), EventGroup.append_only(task_moved))

    @projects(task_moved)
    def note(self, tx: JournalTransaction, entry: TypedEntry[Comment]) -> None:
        tx.put(self.row_key("moved", entry.value.task), entry.value.text.encode())

    async def moved(self, task: str) -> bytes | None:
        return await self.log.read(lambda tx: tx.get(self.row_key("moved", task)))


async def test_a_payload_of_an_earlier_version_is_brought_up_to_date(journal: EventJournal) -> None:
    async with journal, FirstRelease(journal, IDENTITY) as tasks:
        await tasks.write(task_saved_1, TaskInMinutes("a", "apples", 2))
    async with journal, SecondRelease(journal, IDENTITY) as updated:
        before = await updated.get("a")
        await updated.write(task_saved_2, TaskInSeconds("a", "apples", 1.5))

        assert before == TaskInSeconds("a", "apples", 120)
        assert await updated.get("a") == TaskInSeconds("a", "apples", 1.5)
        assert (await updated.versions("a"))[-1].value["_version"] == 2


async def test_what_a_newer_release_wrote_is_kept_shown_as_not_understood_and_applied_later(tmp_path: Path) -> None:
    """An unknown event and a newer version sync with and are exported by an old replica all the same."""
    async with MemoryServer() as server:
        async with (
            synced(server, SecondRelease) as (newest,),
            synced(server, FirstRelease, journal=SQLiteJournal(tmp_path, durability="normal")) as (old,),
        ):
            await newest.write(task_saved_2, TaskInSeconds("a", "apples", 1.5))
            await newest.write(task_pinned, TaskGone("b"))
            await newest.write(task_moved, Comment("a", "shelf"))
            await converged(newest, old)
            strange = {one.stored.entry.event: one for one in await old.not_understood()}
            exported = [line for line in export_lines(tmp_path) if '"event":"task_' in line]

            assert "of version 2, by a newer release; this one reads up to 1" in strange["task_saved"].error
            assert "store 'tasks' has no event 'task_pinned'; it knows task_saved" in strange["task_pinned"].error
            assert [one.stored.is_applied for one in strange.values()] == [False] * 3
            assert len(exported) == 3
            assert await old.items() == {}
            with pytest.raises(MalformedMessageError, match="newer release"):
                await old.get("a")
        async with synced(server, SecondRelease, journal=SQLiteJournal(tmp_path, durability="normal")) as (updated,):
            assert await updated.not_understood() == []
            assert await updated.items() == {"a": TaskInSeconds("a", "apples", 1.5), "b": TaskGone("b")}
            assert await updated.moved("a") == b"shelf"
            await updated.write(task_pinned, TaskGone("b"))
            assert await updated.conflicts() == []


async def test_what_is_not_understood_is_compacted_and_never_retried_in_vain(journal: EventJournal) -> None:
    """Opening again costs no attempt, and retention applies to it as to everything."""
    async with journal:
        await journal.register(EventGroup.schema("tasks", EventGroup.append_only(task_moved)))
        await journal.write("tasks", "task_pinned", "b", {"id": "b"})
        await journal.write("tasks", "task_moved", "a", {"task": "a", "text": ""})
    for _start in range(2):
        async with journal, FirstRelease(journal, IDENTITY) as tasks:
            attempts = {one.stored.entry.event: one.attempts for one in await tasks.not_understood()}
    async with journal, FirstRelease(journal, IDENTITY) as tasks:
        report = await journal.compact("tasks", ByCount(0))

        assert attempts == {"task_pinned": 0}
        assert report.dropped == 2
        assert await tasks.not_understood() == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"id": "a", "_version": 3}, "of version 3, by a newer release; this one reads up to 2"),
        ({"id": "a", "_version": 0}, "has version 0; expected 1 to 2"),
        ({"id": "a", "_version": "2"}, "has version '2'"),
        ({"id": "a"}, r"cannot be brought from version 1 to 2 \(KeyError\)"),
    ],
)
def test_a_version_that_cannot_be_read_says_why(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedMessageError, match=reason):
        task_saved_2.decode(payload)


def test_upgrades_with_a_gap_are_refused() -> None:
    with pytest.raises(UsageError, match=r"upgrades of 'x' are for versions \[2\]"):
        TypedEvent("x", Task, key=lambda task: task.id, upgrades={2: dict})


# -- wiring -----------------------------------------------------------------------------------------------------
async def test_it_is_wired_as_a_layer_and_as_a_slot(tmp_path: Path) -> None:
    """By its class, as the built-in stores are; retention of the graph applies."""

    class App(AgentRuntimeContainer):
        storage_config = providers.Object(StorageConfig(directory=tmp_path))
        compaction = providers.Singleton(ByCount, max_count=2)
        tasks: providers.Provider[Tasks] = providers.Resource(Tasks)

    async with App.build() as app:
        tasks, cleanup = app.get(Tasks), app.get(StorageCleanup)
        for number in range(5):
            await tasks.write(commented, Comment("a", str(number)))
        report = await cleanup.run_now()

        stores = cleanup.status().stores
        assert stores[:3] == ("chat_history", "artifacts", "audit_log")
        assert set(stores[3:]) == {"agent_sessions", "tasks"}
        assert report.stores["tasks"].dropped == 3
    async with Tasks.layer_memory().build(Tasks) as alone:
        await alone.write(task_saved, Task("a", "apples"))

        assert await alone.keys() == ["a"]
    parts = Layer.merge(EventJournal.layer_memory(), Layer.succeed(Identity, IDENTITY))
    async with Tasks.layer_journaled().provide(parts).build(Tasks) as layered:
        assert await layered.keys() == []


class Board:
    """Where an application shows something."""

    def __init__(self) -> None:
        self.titles: list[str] = []


async def announcing(tasks: Tasks, board: Board) -> AsyncIterator[RunningReaction]:
    """React to a store with more than the store has; wired by annotation."""

    async def announce(entry: TypedEntry[Task]) -> None:
        board.titles.append(entry.value.title)

    async with tasks.log.react("announcer", announce, events=[task_saved]) as reaction:
        yield reaction


async def test_a_reaction_that_needs_more_than_the_store_is_a_service_of_its_own(tmp_path: Path) -> None:
    class App(AgentRuntimeContainer):
        storage_config = providers.Object(StorageConfig(directory=tmp_path))
        tasks: providers.Provider[Tasks] = providers.Resource(Tasks)
        board: providers.Provider[Board] = providers.Singleton(Board)
        announcer: providers.Provider[RunningReaction] = providers.Resource(announcing)

    async with App.build() as app:
        await app.get(Tasks).write(task_saved, Task("a", "apples"))
        await app.get(RunningReaction).caught_up()

        assert app.get(Board).titles == ["apples"]


# -- misuse -----------------------------------------------------------------------------------------------------
async def test_what_the_store_does_not_declare_is_refused_when_it_is_written() -> None:
    journal = MemoryJournal()
    async with journal, Tasks(journal, IDENTITY) as tasks:
        with pytest.raises(UnknownEventError, match="no event 'task_moved'; it knows board_opened, commented"):
            await tasks.write(task_moved, Comment("a", ""))
        with pytest.raises(UsageError, match="no reaction 'x'; it has announce"):
            tasks.reaction("x")


def declare(**attributes: Any) -> None:
    type("Bad", (EventStore,), attributes)


def test_a_declaration_that_cannot_be_right_is_refused_when_the_class_is_made() -> None:
    groups = (EventGroup.append_only(commented),)
    with pytest.raises(UsageError, match=r"Bad\.name is 'artifacts'"):
        declare(name="artifacts", groups=groups)
    with pytest.raises(UsageError, match=r"Bad\.name is '@x'"):
        declare(name="@x", groups=groups)
    with pytest.raises(UsageError, match="Bad declares no events"):
        declare(name="bad")
    with pytest.raises(UsageError, match=r"Bad\.on is for 'task_moved', which no group of it declares"):
        declare(name="bad", groups=groups, on=reacts(task_moved)(lambda self, entry: None))
    with pytest.raises(UsageError, match="@projects needs the events"):
        projects()


async def test_a_reaction_that_cannot_start_leaves_nothing_open() -> None:
    class Twice(EventStore):
        name: ClassVar[str] = "twice"
        groups = (EventGroup.append_only(commented),)

        @reacts(name="same")
        async def first(self, entry: TypedEntry[Any]) -> None: ...

        @reacts(name="same")
        async def second(self, entry: TypedEntry[Any]) -> None: ...

    async with MemoryJournal() as journal:
        with pytest.raises(StateError, match="named 'same' runs on store 'twice' already"):
            await Twice(journal, IDENTITY).__aenter__()
        assert asyncio.all_tasks() == {asyncio.current_task()}
