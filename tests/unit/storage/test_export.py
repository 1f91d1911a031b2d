"""An export says exactly what the files hold, beside a running replica and after a kill."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlayers.errors import (
    MigrationError,
    StorageCorruptionError,
    StorageError,
    StorageUnavailableError,
    UsageError,
)
from agentlayers.journal.entry import Entry, StoredEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.protocol.payload import encode_payload
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.digest import digest_of, journal_digest
from agentlayers.storage.export import _fields, export_lines, payload_of_line, read_entries
from agentlayers.storage.inspection import inspect_entry
from helpers.store_replica import Replica, open_replica


async def fill(replica: Replica) -> None:
    await replica.chat.append_all("s", [{"text": "äöü", "n": 2**40, "f": 1.5, "none": None}] * 2)
    await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="image", content=b"\x00\xff"))
    await replica.audit.hook_event(hook="Stop", outcome="success")


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    async with open_replica(SQLiteJournal(tmp_path / "replica")) as replica:
        await fill(replica)
    return tmp_path / "replica"


def test_an_export_begins_with_a_header_and_has_a_line_for_each_entry(directory: Path) -> None:
    header, *lines = map(json.loads, export_lines(directory))

    assert header["format"] == "agentlayers-journal"
    assert header["version"] == 1
    assert header["journals"] == ["journal.sqlite"]
    assert header["replica"]
    assert [line["store"] for line in lines] == [
        "chat_history",
        "chat_history",
        "artifacts",
        "audit_log",
    ]
    assert [line["position"] for line in lines] == sorted(line["position"] for line in lines)
    first = lines[0]
    assert (first["event"], first["primary_key"]) == ("chat_event", "s:1")
    assert (first["local"], first["applied"], first["synced"]) == (True, True, True)
    assert first["payload"]["message"] == {"text": "äöü", "n": 2**40, "f": 1.5, "none": None}
    assert "raw" not in first
    assert datetime.fromisoformat(first["time"]).tzinfo is not None


def test_each_line_gives_back_the_exact_entry(directory: Path) -> None:
    lines = map(json.loads, list(export_lines(directory))[1:])
    exported = [(bytes.fromhex(line["id"]), payload_of_line(line)) for line in lines]

    assert exported == [(one.entry.id, one.entry.payload) for one in read_entries(directory)]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
        | st.binary(max_size=3)
        | st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["a", "$bytes", "$map", "$time"]), inner, max_size=2)
        ),
        max_leaves=5,
    )
)
def test_any_payload_comes_back_byte_for_byte(value: object) -> None:
    payload = encode_payload({"value": value})
    stored = StoredEntry(1, "s", Entry(bytes(16), "e", "k", payload), True, True)
    line = json.loads(json.dumps(_fields(stored, is_synced=True)))

    assert payload_of_line(line) == payload


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x01", bytes.fromhex("81a1610a")])
def test_bytes_we_would_not_have_written_are_kept_raw(payload: bytes) -> None:
    stored = StoredEntry(1, "s", Entry(bytes(16), "e", "k", payload), False, False)
    line = json.loads(json.dumps(_fields(stored, is_synced=True)))

    assert payload_of_line(line) == payload


def test_a_line_without_a_payload_is_refused() -> None:
    with pytest.raises(UsageError, match="no payload"):
        payload_of_line({"id": "00"})


async def test_local_observations_are_marked_and_left_out_of_what_is_synced(tmp_path: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path)) as a, open_replica() as b:
        for replica, content in ((a, "x"), (b, "y")):
            await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content=content))
        await a.take_all(b)
        digest = await journal_digest(a.journal)
    lines = [json.loads(line) for line in export_lines(tmp_path)][1:]

    assert [line["event"] for line in lines if not line["synced"]] == ["sync_conflict"]
    assert [line["local"] for line in lines] == [True, False, True]
    assert digest == digest_of((one.entry.id, one.entry.payload) for one in read_entries(tmp_path))
    assert len(list(read_entries(tmp_path, synced_only=False))) == 3


async def test_what_a_declared_store_only_observed_is_synced_nowhere(tmp_path: Path) -> None:
    """The export, the digest and the view of a single entry say the same."""
    async with SQLiteJournal(tmp_path) as journal:
        await journal.register(StoreSchema(name="mine", unsynced_events=frozenset({"seen"})))
        for event in ("seen", "said"):
            await journal.write("mine", event, "key", {})
        digest = await journal_digest(journal)
    lines = [json.loads(line) for line in export_lines(tmp_path)][1:]

    assert [(line["event"], line["synced"]) for line in lines] == [("seen", False), ("said", True)]
    assert [inspect_entry(tmp_path, line["id"]).is_synced for line in lines] == [False, True]
    assert (len(list(read_entries(tmp_path))), digest.entries) == (1, 1)


def test_an_export_can_be_narrowed_to_stores(directory: Path) -> None:
    lines = [json.loads(line) for line in export_lines(directory, stores=["audit_log"])]

    assert [line.get("store") for line in lines] == [None, "audit_log"]
    assert len(lines) == 2


async def test_a_running_replica_can_be_read(tmp_path: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path)) as replica:
        header = json.loads(next(iter(export_lines(tmp_path))))
        assert header["replica"] == replica.journal.replica_id
        await replica.chat.append("s", {"n": 1})
        reading = read_entries(tmp_path)
        first = next(reading)
        await replica.chat.append("s", {"n": 2})
        rest = list(reading)

        assert [first.entry.primary_key, *(one.entry.primary_key for one in rest)] == ["s:1"]
        assert len(list(read_entries(tmp_path))) == 2


async def test_what_a_killed_replica_left_can_be_read_and_is_not_changed(tmp_path: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path / "running")) as replica:
        await fill(replica)
        # A copy of the files in mid-life is what SIGKILL leaves: the log has not been folded in.
        shutil.copytree(tmp_path / "running", tmp_path / "killed")
        expected = [one.entry for one in await replica.journal.entries()]
    killed = tmp_path / "killed"
    before = {path.name: path.read_bytes() for path in killed.iterdir() if "shm" not in path.name}
    found = [one.entry for one in read_entries(killed)]
    after = {path.name: path.read_bytes() for path in killed.iterdir() if "shm" not in path.name}

    assert found == expected
    assert after == before
    assert any(name.endswith("-wal") for name in before)


async def test_stores_with_a_file_of_their_own_are_read_too(directory: Path) -> None:
    async with open_replica(SQLiteJournal(directory / "audit_log.sqlite")) as replica:
        await replica.audit.hook_event(hook="Stop", outcome="success")
    header = json.loads(next(iter(export_lines(directory))))

    assert header["journals"] == ["audit_log.sqlite", "journal.sqlite"]
    assert len(list(read_entries(directory))) == 5
    assert len(list(read_entries(directory / "audit_log.sqlite"))) == 1


# -- faults ---------------------------------------------------------------------------------------


def fails_with(kind: type[StorageError], directory: Path, text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        list(export_lines(directory))

    assert str(directory) in str(caught.value)


def test_a_missing_directory_says_what_to_give(tmp_path: Path) -> None:
    fails_with(StorageUnavailableError, tmp_path / "nowhere", "journal.sqlite")
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_without_a_journal_says_so(tmp_path: Path) -> None:
    fails_with(StorageUnavailableError, tmp_path, "no journal in it")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "the file is empty"), (b"not a database, but long enough to be looked at" * 50, "no SQLite database")],
)
def test_a_file_that_is_no_journal_is_told_apart(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "journal.sqlite").write_bytes(content)

    fails_with(StorageCorruptionError, tmp_path, found)
    assert (tmp_path / "journal.sqlite").read_bytes() == content


def test_another_application_s_database_is_told_apart(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "journal.sqlite")
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.close()

    fails_with(MigrationError, tmp_path, "no agentlayers journal")


def test_a_truncated_journal_is_corrupt(directory: Path) -> None:
    path = directory / "journal.sqlite"
    os.truncate(path, path.stat().st_size // 2)

    fails_with(StorageCorruptionError, directory, "damaged")


def test_a_journal_of_a_newer_release_is_refused(directory: Path) -> None:
    connection = sqlite3.connect(directory / "journal.sqlite")
    connection.execute("PRAGMA user_version=999")
    connection.commit()
    connection.close()

    fails_with(MigrationError, directory, "schema version 999")
