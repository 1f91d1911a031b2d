"""An import adds what is not here, once, and nothing that was dropped."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from agentlayers.errors import MigrationError, SettingsError, StorageCorruptionError, StorageUnavailableError
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.replication import HORIZON_FLOOR
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.export import export_lines
from agentlayers.storage.import_ import ImportReport, import_export
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


async def test_an_unknown_store_is_refused_before_anything_is_written(tmp_path: Path, exported: Path) -> None:
    with exported.open("a") as file:
        file.write(entry_line(store="mine") + "\n")

    with pytest.raises(SettingsError, match="line 7"):
        await import_export(tmp_path / "new", exported)
    assert not (tmp_path / "new").exists()
    assert total(await import_export(tmp_path / "new", exported, stores=["chat_history"]))["imported"] == 3


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
