"""``agentlayers journal``: every command on one prepared replica, beside a running one, and on bad days."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.quarantine import UnreadableEntry
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.limits import QUARANTINE_BYTES_MAX
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.chat_history import ChatHistoryStore
from helpers.store_replica import Clock, open_replica

REMOTE = b"r" * 16
PASSPHRASE = "correct horse"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "agentlayers", "journal", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AGENTLAYERS_")}
    return kept | {"COLUMNS": "100"} | changes


def run(*arguments: str | Path, status: int = 0, **variables: str) -> str:
    outcome = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=environment(**variables),
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert PASSPHRASE not in outcome.stdout + outcome.stderr
    return outcome.stdout if status in (0, 1) else outcome.stderr


def fails(status: int, *arguments: str | Path) -> str:
    text = run(*arguments, status=status)
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    return text


def parsed(*arguments: str | Path) -> Any:
    return json.loads(run(*arguments, "--json"))


def lines_of(*arguments: str | Path) -> list[Any]:
    return [json.loads(line) for line in run(*arguments, "--json").splitlines()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions, a conflict, a remote that lacks some, and something quarantined."""
    directory = tmp_path_factory.mktemp("prepared") / "replica"
    asyncio.run(_prepare(directory))
    return directory


async def _prepare(directory: Path) -> None:
    Identity.load_or_create(directory / "identity")
    clock = Clock(1_780_000_000.0)
    async with (
        open_replica(SQLiteJournal(directory, clock=clock), clock=clock) as replica,
        open_replica(clock=clock, seed=7) as other,
    ):
        for number in range(12):
            clock.now += 60
            await replica.chat.append("one", {"role": "user", "text": f"Message NUMBER {number} about Straße"})
        await replica.meet_remote("chat_history", REMOTE)
        await replica.journal.transact(
            lambda tx: tx.remember_remote("chat_history", REMOTE, url="ws://sync.invalid/event-log")
        )
        await replica.acknowledge_all("chat_history", REMOTE)
        clock.now += 3600
        for number in range(3):
            await replica.chat.append("two", {"text": f"late \x1b[31m{number}", "data": b"\x00\x01"})
        await replica.artifacts.put(ArtifactRecord(id="note", session_id="one", kind="file", content="first"))
        await replica.artifacts.put(ArtifactRecord(id="note", session_id="one", kind="file", content="second"))
        clock.now += 1
        await other.artifacts.put(ArtifactRecord(id="note", session_id="one", kind="file", content="elsewhere"))
        await replica.take_all(other)
        await replica.audit.tool_use(session_id="one", tool_name="run_command", status="success")
        strange = RemoteEntry(1, Entry(b"\x01" * 16, "artifact_record", "one:x", b"\x90"))
        await replica.journal.write_from_remote("artifacts", REMOTE, [strange], through=2)


@pytest.fixture
def replica(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "replica"))


def change(directory: Path, statement: str) -> None:
    connection = sqlite3.connect(directory / "journal.sqlite", isolation_level=None)
    assert connection.execute(statement).rowcount != 0
    connection.close()


# -- looking ------------------------------------------------------------------------------------------------
def test_stats_tells_what_is_there_and_what_went_wrong(prepared: Path) -> None:
    (file,) = parsed("stats", prepared)["files"]
    stores = {store["store"]: store for store in file["stores"]}
    remotes = {remote["store"]: remote for remote in file["remotes"]}
    text = run("stats", prepared)

    assert file["schema_version"] >= 1
    assert file["bytes"] == (prepared / "journal.sqlite").stat().st_size
    assert (stores["chat_history"]["entries"], stores["chat_history"]["sessions"]) == (15, 2)
    assert (stores["artifacts"]["entries"], stores["artifacts"]["local"]) == (3, 2)
    assert stores["artifacts"]["conflicts"] == 1
    assert stores["artifacts"]["quarantined"][0]["id"] == "01" * 16
    assert stores["audit_log"]["sessions"] == 1
    assert remotes["chat_history"]["pending"] == 3
    assert remotes["chat_history"]["url"] == "ws://sync.invalid/event-log"
    assert "quarantined: artifacts " + "01" * 16 in text
    assert "ws://sync.invalid/event-log" in text


def test_what_there_was_no_room_to_keep_aside_is_counted(replica: Path) -> None:
    """By every command that tells of what was."""

    async def receive() -> None:
        junk = [UnreadableEntry(b"\x02" * 16, 2, bytes(QUARANTINE_BYTES_MAX + 1), "cannot decrypt")]
        async with SQLiteJournal(replica) as journal:
            await journal.transact(lambda tx: tx.quarantine("artifacts", REMOTE, junk, key_check=b"key"))

    asyncio.run(receive())
    (file,) = parsed("stats", replica)["files"]
    (artifacts,) = [store for store in file["stores"] if store["store"] == "artifacts"]

    assert (len(artifacts["quarantined"]), artifacts["not_kept"]) == (1, 1)
    assert "quarantined: artifacts: 1 more were not kept" in run("stats", replica)
    assert "1 kept aside, 1 not kept" in run("verify", replica)


def test_list_shows_entries_by_store_session_event_and_time(prepared: Path) -> None:
    def count(*options: str) -> int:
        return len(lines_of("list", prepared, "--limit", "0", *options))

    assert count() == 20
    assert count("--store", "chat_history") == 15
    assert count("--session", "two") == 3
    assert count("--event", "tool_use") == 1
    assert count("--store", "chat_history", "--since", "2026-05-28T20:50:00") == 3
    assert count("--since", "1 second") == 0
    assert [entry["position"] for entry in lines_of("list", prepared, "--newest", "--limit", "2")] == [20, 19]
    assert "no such entries" in run("list", prepared, "--event", "other")


def test_list_goes_on_where_it_stopped(prepared: Path) -> None:
    positions, after = list[int](), 0
    for _page in range(4):
        page = lines_of("list", prepared, "--limit", "7", "--after", str(after))
        positions += [entry["position"] for entry in page]
        after = positions[-1]
    text = run("list", prepared, "--limit", "7")

    assert positions == sorted(set(positions))
    assert len(positions) == 20
    assert text.rstrip().endswith("more: --after 7")
    assert len(text.splitlines()) == 10


def test_what_a_peer_wrote_cannot_steer_the_terminal(prepared: Path) -> None:
    found = run("search", prepared, "late")
    shown = run("show", prepared, "@13")

    assert "\x1b" not in found + shown
    assert "\\x1b[31m" in found


def test_show_tells_everything_of_an_entry(prepared: Path) -> None:
    first, last = lines_of("list", prepared, "--store", "chat_history", "--limit", "0")[::14]
    shown = parsed("show", prepared, first["id"])
    text = run("show", prepared, f"@{last['position']}")

    assert shown["payload"]["message"]["text"] == "Message NUMBER 0 about Straße"
    assert [one["state"] for one in shown["remotes"]] == ["acknowledged"]
    assert parsed("show", prepared, last["id"])["remotes"][0]["state"] == "pending"
    assert last["id"] in text
    assert '"$bytes": "AAE="' in text


def test_show_tells_what_a_version_had_seen_and_which_one_is_shown(prepared: Path) -> None:
    entries = lines_of("list", prepared, "--store", "artifacts")
    shown = parsed("show", prepared, entries[1]["id"])
    first, second, third = shown["versions"]
    other = parsed("show", prepared, entries[1]["id"], "--policy", "first_write_wins")

    assert [one["head"] for one in shown["versions"]] == [False, True, True]
    assert second["seen"] == {first["replica"]: first["id"]}
    assert [one["shown"] for one in shown["versions"]] == [False, False, True]
    assert [one["shown"] for one in other["versions"]] == [False, True, False]
    assert third["replica"] != first["replica"]
    assert "superseded" in run("show", prepared, entries[1]["id"])


def test_an_entry_has_to_be_named_so_that_it_is_one(prepared: Path) -> None:
    entry_id = lines_of("list", prepared, "--limit", "1")[0]["id"]
    dashed = f"{entry_id[:8]}-{entry_id[8:12]}-{entry_id[12:]}".upper()

    assert parsed("show", prepared, dashed)["id"] == entry_id
    assert entry_id in fails(2, "show", prepared, entry_id[:6])
    assert "@POSITION" in fails(2, "show", prepared, "@99")
    assert "@POSITION" in fails(2, "show", prepared, "hello")


def test_search_finds_texts_in_any_case(prepared: Path) -> None:
    found = lines_of("search", prepared, "number 1")

    assert [entry["payload"]["sequence"] for entry in found] == [2, 11, 12]
    assert found[0]["field"] == "message.text"
    assert len(lines_of("search", prepared, "STRASSE", "--limit", "5")) == 5
    assert "run_command" in run("search", prepared, "RUN_", "--store", "audit_log")
    assert run("search", prepared, "nowhere", status=1) == ""
    assert run("search", prepared, "number", "--store", "artifacts", status=1) == ""


def test_conflicts_tells_all_versions_and_the_one_that_is_shown(prepared: Path) -> None:
    (conflict,) = lines_of("conflicts", prepared)
    (other,) = lines_of("conflicts", prepared, "--policy", "first_write_wins")

    assert [one["value"]["content"] for one in conflict["versions"]] == ["second", "elsewhere"]
    assert conflict["winner"] == conflict["versions"][1]["id"]
    assert other["winner"] == other["versions"][0]["id"]
    assert "shown" in run("conflicts", prepared)
    assert "no open conflicts" in run("conflicts", prepared, "--store", "chat_history")


def test_looking_changes_nothing(prepared: Path) -> None:
    before = (prepared / "journal.sqlite").read_bytes()
    for arguments in (("stats",), ("list",), ("conflicts",), ("verify",), ("remotes", "list")):
        run(*arguments, prepared)

    assert (prepared / "journal.sqlite").read_bytes() == before


# -- verify and rebuild -------------------------------------------------------------------------------------
def test_verify_says_that_a_whole_replica_is_good(prepared: Path) -> None:
    report = parsed("verify", prepared)

    assert report["good"]
    assert report["synced_entries"] == 19
    assert [finding["check"] for finding in report["findings"]] == ["quarantine"]
    assert report["digest"] in run("verify", prepared)


def test_verify_says_what_is_wrong_and_rebuild_repairs_it(replica: Path) -> None:
    whole = parsed("verify", replica)
    (untouched,) = parsed("rebuild", replica)["files"]
    change(replica, "DELETE FROM value WHERE key = (SELECT min(key) FROM value)")
    change(replica, "UPDATE key_state SET state = x'93908080', head_count = 0")
    text = run("verify", replica, status=1)
    (rebuilt,) = parsed("rebuild", replica)["files"]

    assert untouched["before"] == untouched["after"] == whole["files"][0]["read_models"]
    assert untouched["repaired"] == 0
    assert "fault: journal.sqlite: heads: artifacts" in text
    assert "fault: journal.sqlite: read_model: artifacts" in text
    assert "not good" in text
    assert rebuilt["repaired"] == 2
    assert parsed("verify", replica) == whole


def test_verify_finds_a_damaged_file_and_leaves_it_alone(replica: Path) -> None:
    path = replica / "journal.sqlite"
    data = bytearray(path.read_bytes())
    for at in range(4096 * 5, len(data), 503):
        data[at] ^= 0x5A
    path.write_bytes(data)
    text = run("verify", replica, status=1)

    assert "fault: journal.sqlite: file" in text
    assert path.read_bytes() == bytes(data)


# -- compact ------------------------------------------------------------------------------------------------
def test_compact_drops_what_is_told_and_the_read_models_follow(replica: Path) -> None:
    before = (replica / "journal.sqlite").read_bytes()
    tried = parsed("compact", replica, "--store", "chat_history", "--keep-count", "2", "--dry-run")
    assert (replica / "journal.sqlite").read_bytes() == before
    done = parsed("compact", replica, "--store", "chat_history", "--keep-count", "2")
    left = lines_of("list", replica, "--store", "chat_history")

    assert tried["files"][0]["stores"] == done["files"][0]["stores"]
    assert done["files"][0]["stores"]["chat_history"] == {
        "before": 15, "after": 5, "dropped": 10, "held_back": 1, "events": ["chat_event"],
    }  # fmt: skip
    assert [entry["payload"]["sequence"] for entry in left] == [11, 12, 1, 2, 3]
    assert parsed("verify", replica)["good"]
    assert [e["event"] for e in lines_of("list", replica, "--event", "sync_compaction")] == ["sync_compaction"]


def test_a_forgotten_remote_no_longer_holds_compaction_back(replica: Path) -> None:
    forgot = run("remotes", "forget", replica, "ws://sync.invalid/event-log")
    done = parsed("compact", replica, "--store", "chat_history", "--keep-count", "2")
    (chat,) = lines_of("remotes", "list", replica, "--store", "chat_history")

    assert REMOTE.hex() in forgot
    assert done["files"][0]["stores"]["chat_history"]["held_back"] == 0
    assert chat["retired"]


def test_compacting_superseded_versions_changes_nothing_that_is_shown(replica: Path) -> None:
    conflict = lines_of("conflicts", replica)
    held_back = parsed("compact", replica, "--superseded", "--store", "artifacts")
    for remote in lines_of("remotes", "list", replica, "--store", "artifacts"):
        run("remotes", "forget", replica, remote["remote"][:6], "--store", "artifacts")
    done = parsed("compact", replica, "--superseded", "--store", "artifacts")

    assert held_back["files"][0]["stores"]["artifacts"]["held_back"] == 1
    assert done["files"][0]["stores"]["artifacts"]["dropped"] == 1
    assert lines_of("conflicts", replica) == conflict


# -- export and import --------------------------------------------------------------------------------------
def test_an_export_makes_the_same_replica_and_twice_changes_nothing(prepared: Path, tmp_path: Path) -> None:
    run("export", prepared, "-o", tmp_path / "plain")
    first = parsed("import", tmp_path / "new", tmp_path / "plain")
    digest = parsed("verify", tmp_path / "new")
    second = parsed("import", tmp_path / "new", tmp_path / "plain")

    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o600
    assert {name: one["imported"] for name, one in first["stores"].items()} == {
        "chat_history": 15, "artifacts": 3, "audit_log": 2,
    }  # fmt: skip
    assert all(one["imported"] == 0 for one in second["stores"].values())
    assert digest["digest"] == parsed("verify", prepared)["digest"]
    assert parsed("verify", tmp_path / "new") == digest


def test_a_sealed_export_opens_with_its_identity_alone(prepared: Path, tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    run("export", prepared, "--encrypted", "--output", sealed)
    assert b"Message" not in sealed.read_bytes()
    assert "identity" in fails(2, "import", tmp_path / "new", sealed)
    Identity.generate().save(tmp_path / "stranger")
    assert "sealed with the identity" in fails(
        4, "import", tmp_path / "new", sealed, "--identity", tmp_path / "stranger"
    )
    assert not (tmp_path / "new").exists()
    run("import", tmp_path / "new", sealed, "--identity", prepared / "identity")

    assert parsed("verify", tmp_path / "new")["digest"] == parsed("verify", prepared)["digest"]


def test_a_passphrase_seals_too(prepared: Path, tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text(PASSPHRASE + "\n")
    sealed = run("export", prepared, "--passphrase", AGENTLAYERS_PASSPHRASE=PASSPHRASE)
    (tmp_path / "sealed").write_text(sealed)
    run("import", tmp_path / "new", tmp_path / "sealed", "--passphrase-file", secret)

    assert parsed("verify", tmp_path / "new")["digest"] == parsed("verify", prepared)["digest"]
    assert "no terminal" in fails(2, "export", prepared, "--passphrase")
    assert "no terminal" in fails(2, "import", tmp_path / "new", tmp_path / "sealed")
    assert "one secret" in fails(2, "export", prepared, "--passphrase", "--encrypted")


def test_a_cut_export_changes_nothing(prepared: Path, tmp_path: Path) -> None:
    whole = run("export", prepared).encode()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    text = fails(4, "import", tmp_path / "new", tmp_path / "cut")

    assert "nothing was imported" in text
    assert not (tmp_path / "new").exists()


def test_an_export_that_cannot_be_written_leaves_no_half_of_one(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    assert "missing" in fails(4, "export", prepared, "-o", tmp_path / "missing" / "file")
    fails(4, "export", tmp_path, "-o", tmp_path / "old")

    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "kept"


# -- beside a running replica -------------------------------------------------------------------------------
async def test_all_of_it_is_safe_beside_a_running_replica(replica: Path, tmp_path: Path) -> None:
    identity = Identity.load(replica / "identity")
    stop = asyncio.Event()
    appended = 0

    async with SQLiteJournal(replica) as journal, ChatHistoryStore(journal, identity) as chat:

        async def append() -> None:
            nonlocal appended
            while not stop.is_set():
                await chat.append("live", {"n": appended})
                appended += 1
                await asyncio.sleep(0.003)

        appending = asyncio.create_task(append())
        statuses = [
            await _status(*arguments)
            for arguments in (
                ("verify", replica), ("stats", replica), ("export", replica, "-o", tmp_path / "export"),
                ("rebuild", replica), ("compact", replica, "--superseded"),
                ("import", replica, tmp_path / "export"), ("verify", replica), ("search", replica, "late"),
            )
        ]  # fmt: skip
        stop.set()
        await appending
        messages = await chat.list("live")

    assert statuses == [0] * 8
    assert [event.message["n"] for event in messages] == list(range(appended))
    assert appended > 20
    assert (await asyncio.to_thread(parsed, "verify", replica))["good"]


async def _status(*arguments: str | Path) -> int:
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=environment()
    )
    async with asyncio.timeout(60):
        _out, errors = await process.communicate()
    assert not errors, errors.decode()
    return process.returncode or 0


# -- bad days -----------------------------------------------------------------------------------------------
READING = [("stats",), ("list",), ("show", "@1"), ("search", "x"), ("conflicts",), ("remotes", "list"), ("rebuild",),
           ("compact", "--keep-count", "1"), ("export",)]  # fmt: skip


def in_place(arguments: tuple[str, ...], directory: Path) -> list[str | Path]:
    at = 2 if arguments[0] == "remotes" else 1
    return [*arguments[:at], directory, *arguments[at:]]


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: arguments[0])
def test_a_directory_that_is_none_is_named(arguments: tuple[str, ...], tmp_path: Path) -> None:
    text = fails(4, *in_place(arguments, tmp_path / "nowhere"))

    assert "nowhere" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: arguments[0])
def test_a_corrupt_journal_is_named_and_left_alone(arguments: tuple[str, ...], tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    journal.write_bytes(b"not a database" * 500)
    text = fails(4, *in_place(arguments, tmp_path))

    assert "journal.sqlite" in text
    assert journal.read_bytes() == b"not a database" * 500


def test_a_newer_journal_is_refused(replica: Path) -> None:
    change(replica, "PRAGMA user_version = 99")

    for arguments in (("stats",), ("verify",), ("rebuild",)):
        assert "schema version 99" in fails(4, *arguments, replica)


def test_options_that_make_no_sense_are_told(replica: Path) -> None:
    assert "--older-than" in fails(2, "compact", replica)
    assert "30 days" in fails(2, "compact", replica, "--older-than", "long")
    assert "chat_history" in fails(2, "compact", replica, "--keep-count", "1", "--store", "chat")
    assert "chat_history" in fails(2, "list", replica, "--store", "chat")
    assert "2 hours" in fails(2, "list", replica, "--since", "yesterday")
    assert "last_write_wins" in fails(2, "verify", replica, "--policy", "newest")
    assert REMOTE.hex() in fails(2, "remotes", "forget", replica, "ws://other")
