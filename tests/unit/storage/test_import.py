"""An import adds what is not here, once, and nothing that was dropped."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentlayers.errors import MigrationError, SettingsError, StorageCorruptionError, StorageUnavailableError
from agentlayers.eventlog.event import Event, EventGroup, EventKind
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.causality import causal_payload
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.entry import Entry
from agentlayers.journal.replication import HORIZON_FLOOR
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.protocol.payload import encode_payload
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.digest import journal_digest
from agentlayers.storage.event_store import EventStore
from agentlayers.storage.export import export_lines
from agentlayers.storage.import_ import ImportReport, import_export, take_over
from agentlayers.storage.journal_file import journal_files, read_journal_file
from agentlayers.storage.replica_store import FurtherStore
from agentlayers.storage.verify import verify
from helpers.store_replica import Clock, Replica, open_replica


async def fill(replica: Replica, text: str = "one") -> None:
    await replica.chat.append_all("s", [{"text": text, "data": b"\x00\xff"}] * 3)
    await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content=text))
    await replica.audit.hook_event(hook="Stop", outcome="success", session_id="s")


def save(directory: Path, path: Path) -> Path:
    path.write_text("".join(line + "\n" for line in export_lines(directory)), encoding="utf-8")
    return path


@pytest.fixture
async def exported(tmp_path: Path) -> Path:
    async with open_replica(SQLiteJournal(tmp_path / "source")) as replica:
        await fill(replica)
    return save(tmp_path / "source", tmp_path / "export.jsonl")


def total(report: ImportReport) -> dict[str, int]:
    stores = report.stores.values()
    return {
        name: sum(getattr(one, name) for one in stores) for name in ("imported", "known", "compacted", "quarantined")
    }


def digest(directory: Path) -> str:
    report = verify(directory, now_ms=int(time.time() * 1000))
    assert report.findings == []
    return report.digest.hex


async def test_a_new_replica_gets_everything_and_a_second_time_nothing(tmp_path: Path, exported: Path) -> None:
    first = await import_export(tmp_path / "new", exported)
    size = (tmp_path / "new" / "journal.sqlite").read_bytes()
    second = await import_export(tmp_path / "new", exported)

    assert total(first) == {"imported": 5, "known": 0, "compacted": 0, "quarantined": 0}
    assert total(second) == {"imported": 0, "known": 5, "compacted": 0, "quarantined": 0}
    assert digest(tmp_path / "new") == digest(tmp_path / "source")
    assert len((tmp_path / "new" / "journal.sqlite").read_bytes()) == len(size)
    async with open_replica(SQLiteJournal(tmp_path / "new")) as replica:
        assert [event.message["data"] for event in await replica.chat.list("s")] == [b"\x00\xff"] * 3
        assert [meta.session_id for meta in await replica.index.list()] == ["s"]


async def test_what_is_imported_is_pending_unless_the_remote_is_known_to_have_it(
    tmp_path: Path, exported: Path
) -> None:
    async with open_replica(SQLiteJournal(tmp_path / "source")) as replica:
        await replica.meet_remote("chat_history")
        await replica.acknowledge_all("chat_history")
    await import_export(tmp_path / "source", exported)
    await import_export(tmp_path / "new", exported)
    pending = []
    for name in ("source", "new"):
        async with open_replica(SQLiteJournal(tmp_path / name)) as replica:
            pending.append((await replica.journal.remote_state("chat_history", b"r" * 16)).pending)

    assert pending == [0, 3]


async def test_entries_of_another_replica_join_those_that_are_here(tmp_path: Path, exported: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path / "other")) as replica:
        await fill(replica, "two")
    report = await import_export(tmp_path / "other", exported)
    async with open_replica(SQLiteJournal(tmp_path / "other")) as replica:
        (conflict,) = await replica.artifacts.conflicts("s")
        texts = sorted(event.message["text"] for event in await replica.chat.list("s"))
        observations = [entry for entry in await replica.audit.entries() if entry.event == "sync_conflict"]

    assert total(report)["imported"] == 5
    assert texts == ["one"] * 3 + ["two"] * 3
    assert len(conflict.heads) == 2
    assert observations == []


async def test_what_was_compacted_here_does_not_come_back(tmp_path: Path, exported: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path / "source")) as replica:
        await replica.journal.compact("chat_history", ByCount(1))
    report = await import_export(tmp_path / "source", exported)

    assert report.stores["chat_history"].compacted == 2
    assert report.stores["chat_history"].imported == 0


async def test_what_is_older_than_the_horizon_is_quarantined(tmp_path: Path, exported: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path / "new")) as replica:
        future = int((time.time() + 60) * 1000).to_bytes(8, "big")
        await replica.journal.transact(
            lambda tx: tx.put_setting(f"{HORIZON_FLOOR}{tx.store_number('chat_history')}", future)
        )
    first = await import_export(tmp_path / "new", exported)
    second = await import_export(tmp_path / "new", exported)
    async with open_replica(SQLiteJournal(tmp_path / "new")) as replica:
        kept = await replica.journal.read(lambda tx: tx.quarantined("chat_history"))

    assert (first.stores["chat_history"].quarantined, second.stores["chat_history"].quarantined) == (3, 0)
    assert len(kept) == 3
    assert {one.reason for one in kept} == {"imported, but older than the compaction horizon"}


async def test_a_restored_backup_takes_a_new_name_when_it_gets_what_it_wrote_since(tmp_path: Path) -> None:
    source, backup = SQLiteJournal(tmp_path / "source"), tmp_path / "backup"
    async with open_replica(source) as replica:
        await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="one"))
    backup.mkdir()
    (backup / "journal.sqlite").write_bytes((tmp_path / "source" / "journal.sqlite").read_bytes())
    async with open_replica(SQLiteJournal(tmp_path / "source")) as replica:
        await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="two"))
        name = replica.journal.replica_id
    await import_export(backup, save(tmp_path / "source", tmp_path / "export.jsonl"))
    async with open_replica(SQLiteJournal(backup)) as replica:
        record = await replica.artifacts.get("a")

        assert replica.journal.replica_id != name
        assert record is not None
        assert record.content == "two"


async def test_only_the_stores_that_are_asked_for_are_taken(tmp_path: Path, exported: Path) -> None:
    report = await import_export(tmp_path / "new", exported, stores=["artifacts"])

    assert set(report.stores) == {"artifacts"}


async def test_a_store_with_a_file_of_its_own_is_imported_into_it(tmp_path: Path, exported: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path / "new" / "chat_history.sqlite")):
        pass
    await import_export(tmp_path / "new", exported)
    async with SQLiteJournal(tmp_path / "new" / "chat_history.sqlite") as journal:
        assert {stored.store for stored in await journal.entries()} == {"chat_history"}
    async with SQLiteJournal(tmp_path / "new" / "journal.sqlite") as journal:
        assert {stored.store for stored in await journal.entries()} == {"artifacts", "audit_log"}


def entry_line(**changes: object) -> str:
    fields = {"store": "chat_history", "id": "01" * 16, "event": "chat_event", "primary_key": "s:1", "payload": {}}
    return json.dumps(fields | changes)


DAMAGED = {
    "no JSON": "{",
    "no map": "[]",
    "no id": '{"store":"chat_history"}',
    "odd id": entry_line(id="0"),
    "short id": entry_line(id="00"),
    "id no text": entry_line(id=7),
    "event no text": entry_line(event=7),
    "key not Unicode": entry_line(primary_key="\ud800"),
    "no payload": entry_line(payload=None),
    "bad raw": entry_line(raw="%"),
    "bad time": entry_line(payload={"a": {"$time": "x"}}),
    "store no text": entry_line(store=["chat_history"]),
    "store without a name": entry_line(store=""),
    "store not Unicode": entry_line(store="\ud800"),
    "artifact no map": entry_line(store="artifacts", event="artifact_record", raw="kA=="),
    "empty": "",
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_export_names_the_line_and_changes_nothing(tmp_path: Path, exported: Path, line: str) -> None:
    with exported.open("a") as file:
        file.write(line + "\n")

    with pytest.raises(StorageCorruptionError, match=r"line 7: .*nothing was imported"):
        await import_export(tmp_path / "new", exported)
    assert not (tmp_path / "new").exists()


# -- stores that only an application knows ------------------------------------------------------------------------
class Tasks(EventStore):
    name = "tasks"
    groups = (
        EventGroup.keyed(
            Event("task_saved", lambda fields: str(fields["id"])),
            Event("task_gone", lambda fields: str(fields["id"]), EventKind.DELETION),
        ),
        EventGroup.append_only(
            Event("commented", lambda fields: str(fields["id"])),
            Event("looked", lambda fields: str(fields["id"]), EventKind.OBSERVATION),
        ),
    )


@asynccontextmanager
async def open_tasks(directory: Path) -> AsyncIterator[Tasks]:
    async with SQLiteJournal(directory) as journal, Tasks(journal, Identity("test", bytes(32))) as tasks:
        yield tasks


async def export_of_tasks(tmp_path: Path) -> Path:
    async with open_tasks(tmp_path / "tasks-source") as tasks:
        saved, gone, commented, looked = (event for group in Tasks.groups for event in group.events)
        for title in ("apples", "bread"):
            await tasks.write(saved, {"id": "a", "title": title})
        await tasks.write(saved, {"id": "b", "title": "cake"})
        await tasks.write(gone, {"id": "b"})
        await tasks.write(commented, {"id": "a", "text": "nice"})
        await tasks.write(looked, {"id": "a"})
    return save(tmp_path / "tasks-source", tmp_path / "tasks.jsonl")


async def test_what_an_application_declares_is_kept_and_applied_when_it_opens_the_store(tmp_path: Path) -> None:
    file = await export_of_tasks(tmp_path)
    first = await import_export(tmp_path / "new", file)
    second = await import_export(tmp_path / "new", file)
    findings = verify(tmp_path / "new", now_ms=int(time.time() * 1000)).findings
    again = save(tmp_path / "new", tmp_path / "again.jsonl")
    await import_export(tmp_path / "third", again)
    shown = []
    for name in ("tasks-source", "new", "third"):
        async with open_tasks(tmp_path / name) as tasks:
            shown.append(
                (
                    await tasks.keys(),
                    await tasks.get("a"),
                    await tasks.not_understood(),
                    len(await tasks.versions("a")),
                    (await tasks.log.journal.remote_state("tasks", b"r" * 16)).pending,
                )
            )

    assert total(first) == {"imported": 6, "known": 0, "compacted": 0, "quarantined": 0}
    assert total(second) == {"imported": 0, "known": 6, "compacted": 0, "quarantined": 0}
    assert (first.stores["tasks"].unapplied, second.stores["tasks"].unapplied) == (6, 0)
    assert [(one.severity, one.check) for one in findings] == [("note", "not_understood"), ("note", "unknown_store")]
    assert "6 entries are kept" in findings[0].text
    # What was only observed elsewhere is not sent on, and is part of no digest: 5 of 6 are pending.
    assert shown == [(["a"], {"id": "a", "title": "bread"}, [], 2, 5)] * 3
    digests = [verify(tmp_path / name, now_ms=int(time.time() * 1000)).digest for name in ("tasks-source", "new")]
    async with open_tasks(tmp_path / "new") as tasks:
        assert digests == [await journal_digest(tasks.log.journal)] * 2
    assert digests[0].entries == 5


async def test_more_entries_than_one_step_applies_are_all_applied(tmp_path: Path) -> None:
    saved = Tasks.groups[0].events[0]
    async with open_tasks(tmp_path / "tasks-source") as tasks:
        for number in range(300):
            await tasks.write(saved, {"id": f"{number % 100:03}", "title": str(number)})
    await import_export(tmp_path / "new", save(tmp_path / "tasks-source", tmp_path / "tasks.jsonl"))
    async with open_tasks(tmp_path / "new") as tasks:
        assert await tasks.not_understood() == []
        assert [fields["title"] for fields in (await tasks.items()).values()] == [
            str(number) for number in range(200, 300)
        ]


async def test_a_store_that_whoever_imports_knows_is_applied_at_once(tmp_path: Path) -> None:
    file = await export_of_tasks(tmp_path)
    known = FurtherStore("tasks", lambda journal, _index, _policy: Tasks(journal, Identity.generate()).schema)
    report = await import_export(tmp_path / "new", file, further=[known])
    checked = verify(tmp_path / "new", now_ms=int(time.time() * 1000), further=[known])

    assert (report.stores["tasks"].imported, report.stores["tasks"].unapplied) == (6, 0)
    assert (checked.findings, checked.files[0].skipped) == ([], ())


@pytest.mark.parametrize("store", ["tasks", "artifacts"])
async def test_what_is_not_understood_may_have_been_written_under_our_name_elsewhere(store: str) -> None:
    """A store nobody knows here, and an event that a newer release wrote."""
    async with open_replica() as replica:
        name = replica.journal.replica_id
        payloads = [causal_payload({"id": "a"}, writer, {}) for writer in ("another", name)]
        entries = [
            Entry(bytes([at]) * 16, "task_saved", "a", encode_payload(one)) for at, one in enumerate(payloads, 1)
        ]
        names = []
        for entry in entries:
            await replica.journal.transact(lambda tx, entry=entry: take_over(tx, store=store, entries=[entry]))  # type: ignore[misc]
            names.append(replica.journal.replica_id)

        assert names[0] == name
        assert names[1] != name


async def test_a_store_with_a_file_of_its_own_that_only_an_application_knows_is_imported_into_it(
    tmp_path: Path,
) -> None:
    file = await export_of_tasks(tmp_path)
    async with open_tasks(tmp_path / "new" / "tasks.sqlite"):
        pass
    await import_export(tmp_path / "new", file)
    async with SQLiteJournal(tmp_path / "new" / "tasks.sqlite") as journal:
        assert {stored.store for stored in await journal.entries()} == {"tasks"}


async def test_a_store_that_had_a_file_of_its_own_gets_one_again(tmp_path: Path) -> None:
    """So that an application that is wired the same finds it in a restored replica."""
    async with open_tasks(tmp_path / "source" / "tasks.sqlite") as tasks:
        await tasks.write(Tasks.groups[1].events[0], {"id": "a"})
    async with open_replica(SQLiteJournal(tmp_path / "source" / "chat_history.sqlite")) as replica:
        await replica.chat.append("s", {"text": "one"})
    async with open_replica(SQLiteJournal(tmp_path / "source")) as replica:
        await replica.audit.hook_event(hook="Stop", outcome="success", session_id="s")
    file = save(tmp_path / "source", tmp_path / "export.jsonl")
    await import_export(tmp_path / "new", file)
    async with open_replica(SQLiteJournal(tmp_path / "shared")) as replica:
        await replica.chat.append("s", {"text": "two"})
    await import_export(tmp_path / "shared", file)

    assert held(tmp_path / "new") == held(tmp_path / "source") == {
        "chat_history.sqlite": ["chat_history"], "journal.sqlite": ["audit_log"], "tasks.sqlite": ["tasks"]
    }  # fmt: skip
    # What is kept in the shared journal already stays together there.
    assert held(tmp_path / "shared") == {
        "journal.sqlite": ["chat_history", "chat_history", "audit_log"], "tasks.sqlite": ["tasks"]
    }  # fmt: skip


def held(directory: Path) -> dict[str, list[str]]:
    return {path.name: [stored.store for stored in read_journal_file(path)] for path in journal_files(directory)}


@pytest.mark.parametrize(
    "store", ["../other/journal", "..", "a/b", "a\\b", "a\0b", "x" * 300, "key_value", "journal", "."]
)
async def test_the_name_of_a_store_leads_nowhere_else(tmp_path: Path, exported: Path, store: str) -> None:
    async with SQLiteJournal(tmp_path / "other"):
        pass
    misname(exported, store)
    report = await import_export(tmp_path / "new", exported)

    assert report.stores[store].unapplied == 1
    assert held(tmp_path / "new").keys() == {"journal.sqlite"}
    assert held(tmp_path / "other") == {"journal.sqlite": []}


def misname(file: Path, store: str) -> None:
    lines = file.read_text().splitlines()
    header = json.loads(lines[0]) | {"journals": ["../other/journal.sqlite", f"{store}.sqlite", 7]}
    file.write_text("\n".join([json.dumps(header), *lines[1:], entry_line(store=store)]) + "\n")


async def test_a_store_nobody_knows_is_refused_before_anything_is_written(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(SettingsError, match="mine"):
        await import_export(tmp_path / "new", exported, stores=["mine"])
    assert not (tmp_path / "new").exists()


def test_what_is_no_export_is_refused(tmp_path: Path, exported: Path) -> None:
    text = exported.read_text()
    for content, error in (
        ("", StorageCorruptionError),
        ("{}\n", StorageCorruptionError),
        ("hello\n", StorageCorruptionError),
        (text.replace('"version":1', '"version":2', 1), MigrationError),
    ):
        exported.write_text(content)
        with pytest.raises(error):
            asyncio.run(import_export(tmp_path / "new", exported))
    exported.write_bytes(b"\xff\n")
    with pytest.raises(StorageCorruptionError, match="UTF-8"):
        asyncio.run(import_export(tmp_path / "new", exported))
    with pytest.raises(StorageUnavailableError):
        asyncio.run(import_export(tmp_path / "new", tmp_path))
    assert not (tmp_path / "new").exists()


async def test_ids_from_the_future_do_not_drag_the_clock_along(tmp_path: Path) -> None:
    clock = Clock(time.time() + 10**6)
    async with open_replica(SQLiteJournal(tmp_path / "ahead", clock=clock)) as replica:
        await replica.chat.append("s", {})
    await import_export(tmp_path / "new", save(tmp_path / "ahead", tmp_path / "export.jsonl"))
    async with open_replica(SQLiteJournal(tmp_path / "new")) as replica:
        event = await replica.chat.append("s", {})

    assert int.from_bytes(event.entry_id[:6], "big") < (time.time() + 60) * 1000
