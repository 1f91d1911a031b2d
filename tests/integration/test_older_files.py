"""Files that earlier releases wrote are read as they are, and opened with everything in them."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentlayers import limits
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.quarantine import UnreadableEntry
from agentlayers.journal.sqlite import JOURNAL_FILE, SQLiteJournal
from agentlayers.journal.sqlite.schema import JOURNAL_FORMAT
from agentlayers.key_value import Put, SQLiteKeyValueStore
from agentlayers.key_value.sqlite_file import FILE_NAME as KEY_VALUE_FILE
from agentlayers.key_value.sqlite_file import KEY_VALUE_FORMAT
from agentlayers.protocol.sequence_digest import EMPTY_DIGEST, extend_digest
from agentlayers.server import SQLiteServerStorage
from agentlayers.server.sqlite_file import FILE_NAME as SERVER_FILE
from agentlayers.server.sqlite_file import SERVER_FORMAT
from agentlayers.sqlite_file import SQLiteFormat
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.export import export_lines
from agentlayers.storage.verify import verify
from agentlayers.testing.contracts.key_value_store import numbered, read_all
from agentlayers.testing.contracts.server_storage import sealed_entries
from helpers.older_file import make_older, version_of
from helpers.store_replica import STORES, Clock, Replica, open_replica

REMOTE = b"remote-1--------"
EVERYTHING: dict[str, Any] = {"entries_max": 100_000, "bytes_max": 1 << 30}


def versions(file_format: SQLiteFormat) -> list[int]:
    return list(range(1, file_format.schema_version + 1))


# -- the journal --------------------------------------------------------------------------------------------
async def write_replica(directory: Path) -> None:
    """Everything a journal keeps: sessions, a conflict, a remote that lacks some, what was compacted and set aside."""
    clock = Clock(time.time())
    async with (
        open_replica(SQLiteJournal(directory, clock=clock), clock=clock) as replica,
        open_replica(clock=clock, seed=7) as other,
    ):
        await replica.chat.append_all("one", [{"text": f"word {number}"} for number in range(12)])
        await replica.journal.compact("chat_history", ByCount(9))
        for store in STORES:
            await replica.meet_remote(store, REMOTE)
        await replica.journal.transact(lambda tx: tx.remember_remote("chat_history", REMOTE, url="ws://sync.invalid"))
        await replica.acknowledge_all("chat_history", REMOTE)
        await replica.chat.append("two", {"text": "late word", "data": b"\x00\xff"})
        await replica.artifacts.put(ArtifactRecord(id="a", session_id="one", kind="file", content="mine"))
        await other.artifacts.put(ArtifactRecord(id="a", session_id="one", kind="file", content="theirs"))
        await replica.take_all(other)
        await replica.audit.tool_use(session_id="one", tool_name="run_command", status="success")
        strange = RemoteEntry(1, Entry(b"\x01" * 16, "artifact_record", "one:x", b"\x90"))
        await replica.journal.write_from_remote("artifacts", REMOTE, [strange], through=2)


async def seen(replica: Replica) -> dict[str, Any]:
    """Return what a user sees of it."""

    def inside(tx: Any) -> dict[str, Any]:
        names = ("artifacts", "chat_history")
        return {
            "remotes": {name: [(one.remote_id, one.url, one.state) for one in tx.remotes(name)] for name in names},
            "quarantined": tx.quarantined("artifacts"),
            "pending": [one.entry.id for one in tx.uncommitted("chat_history", REMOTE, **EVERYTHING)],
            "entries": tx.entries(entries_max=1000),
        }

    return {
        "chat": {name: await replica.chat.list(name) for name in ("one", "two")},
        "artifact": await replica.artifacts.get("one", "a"),
        "conflicts": await replica.artifacts.conflicts("one"),
        "audit": await replica.audit.entries(),
        "index": await replica.index.list(),
        "found": [match.event.entry_id for match in (await replica.chat.search("word")).items],
        "replica_id": replica.journal.replica_id,
        **await replica.journal.read(inside),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written")
    asyncio.run(write_replica(directory))
    return directory


@pytest.fixture(params=versions(JOURNAL_FORMAT))
def older(written: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The same replica, as the release with that version left it."""
    tmp_path.joinpath(JOURNAL_FILE).write_bytes((written / JOURNAL_FILE).read_bytes())
    make_older(tmp_path / JOURNAL_FILE, JOURNAL_FORMAT, request.param)
    assert version_of(tmp_path / JOURNAL_FILE) == request.param
    return tmp_path


def test_tools_read_an_older_journal_and_leave_it_as_it_is(written: Path, older: Path) -> None:
    before, now_ms = (older / JOURNAL_FILE).read_bytes(), int(time.time() * 1000)
    reports = [verify(directory, now_ms=now_ms) for directory in (written, older)]

    assert [report.is_good for report in reports] == [True, True]
    assert reports[0].digest == reports[1].digest
    assert reports[0].files[0].read_models == reports[1].files[0].read_models
    assert list(export_lines(older)) == list(export_lines(written))
    assert (older / JOURNAL_FILE).read_bytes() == before


async def test_an_older_journal_opens_with_everything_and_goes_on(written: Path, older: Path) -> None:
    async with open_replica(SQLiteJournal(written)) as replica:
        expected = await seen(replica)
    async with open_replica(SQLiteJournal(older)) as replica:
        found = await seen(replica)
        event = await replica.chat.append("two", {"text": "new word"})
        pending = await replica.journal.uncommitted("chat_history", REMOTE, **EVERYTHING)
        matches = (await replica.chat.search("word")).items

    assert found.pop("replica_id") != expected.pop("replica_id")  # a copy goes on under a name of its own
    assert found == expected
    assert [one.entry.id for one in pending] == [*expected["pending"], event.entry_id]
    assert len(matches) == len(expected["found"]) + 1
    assert version_of(older / JOURNAL_FILE) == JOURNAL_FORMAT.schema_version
    assert verify(older, now_ms=int(time.time() * 1000)).is_good


async def test_what_an_older_journal_compacted_does_not_come_back(written: Path, older: Path) -> None:
    with closing(sqlite3.connect(written / JOURNAL_FILE)) as connection:
        gone = [entry_id for (entry_id,) in connection.execute("SELECT id FROM horizon")]
    async with open_replica(SQLiteJournal(older)) as replica:
        back = [RemoteEntry(9, Entry(entry_id, "chat_event", "one:1", b"\x80")) for entry_id in gone]
        result = await replica.journal.write_from_remote("chat_history", REMOTE, back)

    assert len(gone) == 3
    assert (result.duplicates, result.written) == (3, ())


async def test_what_an_older_release_kept_aside_takes_its_part_of_the_room(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had no bound, and did not count."""
    with closing(sqlite3.connect(older / JOURNAL_FILE)) as connection, connection:
        connection.execute("DELETE FROM setting WHERE name LIKE 'quarantine%'")
    monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 3)
    junk = [UnreadableEntry(bytes([9, at]) * 8, at, b"sealed", "cannot decrypt") for at in range(4)]
    async with SQLiteJournal(older) as journal:
        result = await journal.transact(lambda tx: tx.quarantine("artifacts", REMOTE, junk, key_check=b"key"))
        kept = await journal.read(lambda tx: tx.quarantined("artifacts"))

    assert (len(result.kept), len(result.not_kept), len(kept)) == (2, 2, 3)


# -- the server ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", versions(SERVER_FORMAT))
async def test_an_older_file_of_a_server_opens_with_everything_and_goes_on(tmp_path: Path, version: int) -> None:
    entries = sealed_entries(12)
    async with SQLiteServerStorage(tmp_path) as storage:
        tenant = await storage.tenant("tenant")
        for name, key in (("tenant", "key"), ("tenant", "other"), ("second", "key")):
            await storage.append(name, key, entries[:10])
    make_older(tmp_path / SERVER_FILE, SERVER_FORMAT, version)
    async with SQLiteServerStorage(tmp_path) as storage:
        appended = await storage.append("tenant", "key", entries[9:])
        read = await storage.read("tenant", "key", 0, **EVERYTHING)
        others = [await storage.head(name, key) for name, key in (("tenant", "other"), ("second", "key"))]
        same_tenant = await storage.tenant("tenant")
        await storage._filling  # of what the older release did not keep
        digest = await storage.digest("tenant", "key", 12)

    assert list(appended.sequences) == [9, 10, 11]
    assert [(one.sequence, one.entry_id, one.iv, one.ciphertext) for one in read] == [
        (at, entry.entry_id, entry.iv, entry.ciphertext) for at, entry in enumerate(entries)
    ]
    assert others == [10, 10]
    assert same_tenant == tenant
    assert digest == extend_digest(EMPTY_DIGEST, 0, [entry.entry_id for entry in entries])[-1]
    assert version_of(tmp_path / SERVER_FILE) == SERVER_FORMAT.schema_version


# -- key-value stores ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", versions(KEY_VALUE_FORMAT))
async def test_an_older_key_value_file_opens_with_everything_and_goes_on(tmp_path: Path, version: int) -> None:
    pairs = numbered(50, size=300)
    async with SQLiteKeyValueStore(tmp_path) as store:
        await store.batch([Put(key, value) for key, value in pairs.items()])
    make_older(tmp_path / KEY_VALUE_FILE, KEY_VALUE_FORMAT, version)
    async with SQLiteKeyValueStore(tmp_path) as store:
        found = await read_all(store)
        await store.put(b"new", b"value")
        new = await store.get(b"new")

    assert dict(found) == pairs
    assert new == b"value"
    assert version_of(tmp_path / KEY_VALUE_FILE) == KEY_VALUE_FORMAT.schema_version


# -- frozen -------------------------------------------------------------------------------------------------
def script_digest(statements: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(statements).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("file_format", "released"),
    [
        (JOURNAL_FORMAT, ["deba1530d468da32", "851befd871f32473", "31f940f8c9de439b"]),
        (SERVER_FORMAT, ["9d68d0c988364701", "437b0c7162d1ab02"]),
        (KEY_VALUE_FORMAT, ["9853c1a2744bded8"]),
    ],
    ids=["journal", "server", "key_value"],
)
def test_a_migration_is_never_edited(file_format: SQLiteFormat, released: list[str]) -> None:
    """A file that took a step must not differ from one that takes it later; add a step, and its digest here."""
    digests = [script_digest(statements) for statements in file_format.migrations]

    assert digests[: len(released)] == released
