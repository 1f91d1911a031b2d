"""Whatever was done to a replica, a replay of its entries gives the read models it has; what is damaged shows."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlayers.journal.compaction import ByAge, ByCount, ByKey, BySize
from agentlayers.journal.conflict_policy import FirstWriteWins
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.rebuild import rebuild
from agentlayers.storage.replay import read_model_digest
from agentlayers.storage.snapshot import open_snapshot
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.storage.verify import Severity, VerifyReport, verify
from helpers.store_replica import STORES, Clock, Replica, open_replica

ACTIONS = (
    "append", "append", "put", "put", "delete", "audit", "purge_chat", "purge_artifacts", "meet", "acknowledge",
    "take", "take_back", "by_count", "by_age", "by_size", "by_key", "touch", "forget",
)  # fmt: skip


async def act(action: str, which: int, replica: Replica, other: Replica, clock: Clock) -> None:
    session, artifact = f"s{which % 2}", f"a{which % 3}"
    clock.now += which % 4
    match action:
        case "append":
            await replica.chat.append_all(session, [{"n": number} for number in range(1 + which % 3)])
        case "put":
            await replica.artifacts.put(
                ArtifactRecord(id=artifact, session_id=session, kind="file", content="x" * which)
            )
        case "delete":
            await replica.artifacts.delete(artifact, session)
        case "audit":
            await replica.audit.hook_event(hook="Stop", outcome="success", session_id=session)
        case "purge_chat":
            await replica.chat.purge(session)
        case "purge_artifacts":
            await replica.artifacts.purge_session(session)
        case "meet":
            await replica.meet_remote(STORES[which % 3])
        case "acknowledge":
            await replica.acknowledge_all(STORES[which % 3])
        case "take":
            await other.chat.append(session, {"from": "other"})
            await other.artifacts.put(ArtifactRecord(id=artifact, session_id=session, kind="file", content="other"))
            await replica.take_all(other, reverse=which % 2 == 0)
        case "take_back":
            await other.take_all(replica)
        case "touch":
            await replica.index.touch(session, updated_at_ms=1_700_000_000_000 + which)
        case "forget":
            await replica.index.remove(session)
        case strategy:
            keep = {
                "by_count": ByCount(which % 4),
                "by_age": ByAge(which),
                "by_size": BySize(which * 30),
                "by_key": ByKey(),
            }
            await replica.journal.compact(STORES[which % 3], keep[strategy])


def verified(path: Path) -> VerifyReport:
    return verify(path, now_ms=int(time.time() * 1000) + 10**12)


def faults(path: Path) -> list[str]:
    return [finding.text for finding in verified(path).findings if finding.severity is Severity.FAULT]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), max_size=18), st.integers(0, 3))
def test_a_replica_is_good_whatever_was_done_to_it(steps: list[tuple[str, int]], seed: int) -> None:
    async def story(directory: Path) -> None:
        clock = Clock()
        config = StorageConfig() if seed == 3 else None
        journal = SQLiteJournal(directory, clock=clock, random=random.Random(seed), durability="normal")
        async with (
            open_replica(journal, config=config, clock=clock) as replica,
            open_replica(seed=9, clock=clock) as other,
        ):
            for action, which in steps:
                await act(action, which, replica, other, clock)
            beside = faults(directory)
        assert beside == []

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(story(Path(name)))

        assert faults(Path(name)) == []
        before = verified(Path(name))
        (rebuilt,) = asyncio.run(rebuild(Path(name)))
        assert rebuilt.before == rebuilt.after == before.files[0].read_models
        assert verified(Path(name)).digest == before.digest


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    clock = Clock()
    async with (
        open_replica(SQLiteJournal(tmp_path / "replica"), clock=clock) as replica,
        open_replica(seed=5, clock=clock) as other,
    ):
        for number, action in enumerate(("append", "put", "audit", "put", "append", "take", "audit", "put")):
            await act(action, number, replica, other, clock)
    return tmp_path / "replica"


def change(directory: Path, *statements: str) -> None:
    connection = sqlite3.connect(directory / "journal.sqlite", isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount != 0
    connection.close()


DAMAGE = {
    "a row is missing": "DELETE FROM value WHERE key = (SELECT min(key) FROM value)",
    "a row is too many": "INSERT INTO value SELECT CAST(key || x'00' AS BLOB), value FROM value "
    "WHERE instr(key, CAST('audit' AS BLOB)) = 1 LIMIT 1",
    "rows differ": "UPDATE value SET value = x'00' WHERE instr(key, CAST('artifacts' AS BLOB)) = 1",
    "all is missing": "DELETE FROM value",
    "a head is missing": "DELETE FROM key_state WHERE primary_key = (SELECT min(primary_key) FROM key_state)",
    "heads differ": "UPDATE key_state SET state = x'93908080', head_count = 0",
    "heads are no heads": "UPDATE key_state SET state = x'c1'",
    "a sequence is lost": "UPDATE value SET value = zeroblob(16) "
    "WHERE instr(key, CAST('chat_history' AS BLOB)) = 1 AND length(value) > 16",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
async def test_damage_of_read_models_is_found_and_repaired(directory: Path, statement: str) -> None:
    whole = verified(directory)
    assert whole.is_good
    change(directory, statement)
    assert faults(directory) != []
    (rebuilt,) = await rebuild(directory)
    again = verified(directory)

    assert rebuilt.repaired > 0
    assert faults(directory) == []
    assert (again.digest, again.files[0].read_models) == (whole.digest, whole.files[0].read_models)


FAULTS = {
    "payload": ("UPDATE entry SET payload = x'c1' WHERE position = 1", "entry"),
    "id": ("UPDATE entry SET id = x'00' WHERE position = 1", "an id of 1 bytes"),
    "origin": ("UPDATE entry SET origin = 77 WHERE position = 1", "a remote that is not noted"),
    "outbound": ("UPDATE entry SET outbound = 1 WHERE origin > 0", "not this replica's to send"),
    "keyed": ("UPDATE entry SET keyed = 0 WHERE keyed", "noted as a version"),
    "compacted": ("INSERT INTO horizon SELECT store, id, 1 FROM entry WHERE position = 1", "though it was compacted"),
    "watermark": ("UPDATE remote SET watermark = 999", "were never here"),
    "unapplied": ("INSERT INTO unapplied SELECT position, store, 'Oops', 1 FROM entry WHERE position = 1", "Oops"),
}


@pytest.mark.parametrize(("statement", "text"), FAULTS.values(), ids=FAULTS)
async def test_a_fault_of_the_entries_is_told(directory: Path, statement: str, text: str) -> None:
    change(directory, statement)

    assert any(text in fault for fault in faults(directory)), faults(directory)


async def test_flipped_bytes_in_the_file_are_found(directory: Path) -> None:
    path = directory / "journal.sqlite"
    data = bytearray(path.read_bytes())
    for at in range(4096 * 4, len(data), 517):
        data[at] ^= 0x5A
    path.write_bytes(data)

    assert any("SQLite" in text or "damaged" in text for text in faults(directory))


async def test_a_session_that_is_not_listed_is_a_note_and_is_listed_again(directory: Path) -> None:
    change(directory, "DELETE FROM value WHERE instr(key, CAST('session_index' AS BLOB)) = 1")
    report = verified(directory)
    await rebuild(directory)

    assert report.is_good
    assert {finding.check for finding in report.findings} == {"session_index"}
    assert verified(directory).findings == []


async def test_another_policy_shows_other_artifacts_and_has_to_be_told(tmp_path: Path) -> None:
    clock = Clock()
    async with (
        open_replica(SQLiteJournal(tmp_path / "r"), clock=clock, policy=FirstWriteWins()) as replica,
        open_replica(seed=5, clock=clock) as other,
    ):
        await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="first"))
        clock.now += 5
        await other.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="a later one"))
        await replica.take_all(other)
    report = verify(tmp_path / "r", now_ms=2 * 10**12, policy=FirstWriteWins())

    assert report.findings == []
    assert not verify(tmp_path / "r", now_ms=2 * 10**12).is_good


async def test_a_replica_that_is_written_to_meanwhile_is_rebuilt_all_the_same(directory: Path) -> None:
    change(directory, "DELETE FROM value WHERE instr(key, CAST('chat_history' AS BLOB)) = 1")
    async with open_replica(SQLiteJournal(directory)) as replica:
        writing = asyncio.create_task(append_often(replica))
        await rebuild(directory)
        written = await writing
        messages = await replica.chat.list("live")

    assert [event.message["n"] for event in messages] == list(range(written))
    assert faults(directory) == []


async def test_what_a_dropped_key_had_seen_counts_for_a_version_that_arrives_late(tmp_path: Path) -> None:
    clock = Clock()
    async with (
        open_replica(SQLiteJournal(tmp_path / "r"), clock=clock) as replica,
        open_replica(seed=5, clock=clock) as other,
    ):
        for content in ("early", "late"):
            await other.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content=content))
        early, late = await other.synced("artifacts")
        await replica.take(other, "artifacts", [late])
        await replica.journal.compact("artifacts", ByCount(0))
        await replica.take(other, "artifacts", [early])

        assert await replica.artifacts.get("a") is None
    assert faults(tmp_path / "r") == []


async def append_often(replica: Replica) -> int:
    for number in range(60):
        await replica.chat.append("live", {"n": number})
        await asyncio.sleep(0.002)
    return 60


def test_the_digest_of_read_models_depends_on_keys_and_values(directory: Path) -> None:
    def digest() -> str:
        with open_snapshot(directory / "journal.sqlite") as snapshot:
            return read_model_digest(snapshot.tx, snapshot.known_stores)

    first = digest()
    change(directory, "UPDATE value SET value = CAST(value || x'00' AS BLOB) WHERE key = (SELECT min(key) FROM value)")

    assert digest() != first
