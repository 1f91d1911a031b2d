"""Whatever was done to a replica, a replay of its entries gives the read models it has; what is damaged shows."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlayers.eventlog.event import Event, EventGroup
from agentlayers.eventlog.typed_event import TypedEntry
from agentlayers.journal.compaction import ByAge, ByCount, ByKey, BySize
from agentlayers.journal.conflict_policy import FirstWriteWins
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key, prefix_end
from agentlayers.limits import ARTIFACT_INLINE_BYTES_MAX
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.declared_handler import projects, reacts
from agentlayers.storage.event_store import EventStore
from agentlayers.storage.rebuild import rebuild, rebuild_open
from agentlayers.storage.replay import read_model_digest
from agentlayers.storage.snapshot import open_snapshot
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.storage.verify import Severity, VerifyReport, verify
from helpers.store_replica import IDENTITY, STORES, Clock, Replica, open_replica

noted = Event("noted", lambda fields: str(fields["text"]))
titled = Event("titled", lambda fields: str(fields["text"]))

ACTIONS = (
    "append", "append", "put", "put", "delete", "audit", "purge_chat", "purge_artifacts", "meet", "acknowledge",
    "take", "take_back", "by_count", "by_age", "by_size", "by_key", "touch", "forget", "say", "search", "put_large",
    "take_large", "cleanup",
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
        case "say":
            await replica.chat.append(session, {"role": "user", "content": f"word{which} and more"})
        case "search":
            await replica.chat.search(f"word{which}")
        case "put_large":
            content = bytes([which % 2]) * (ARTIFACT_INLINE_BYTES_MAX + 1 + which % 3)
            await replica.artifacts.put(ArtifactRecord(id=artifact, session_id=session, kind="file", content=content))
        case "take_large":
            content = b"\x01" * (ARTIFACT_INLINE_BYTES_MAX + 1)
            await other.artifacts.put(ArtifactRecord(id=artifact, session_id=session, kind="file", content=content))
            await replica.take_all(other, reverse=which % 2 == 0)
        case "cleanup":
            await replica.artifacts.cleanup()
            await replica.chat.cleanup()
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
        for number, action in enumerate(("append", "put", "audit", "say", "put", "append", "take", "audit", "put")):
            await act(action, number, replica, other, clock)
        # What there is goes into the index, and one text waits beside it.
        await replica.chat.search("word3", order="best")
        await act("say", 4, replica, other, clock)
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
    "a waiting text is lost": "DELETE FROM text_waiting",
    "an indexed text is lost": "DELETE FROM text_index WHERE rowid = (SELECT min(rowid) FROM text_index)",
    "a text is another": "UPDATE text_waiting SET text = 'other'",
    "a text is in another session": "UPDATE text_waiting SET scope = 'other'",
    "a text is too many": "INSERT INTO text_waiting SELECT position, 'x', store, '' FROM entry "
    "WHERE event = 'chat_event' AND position NOT IN "
    "(SELECT position FROM text_waiting UNION SELECT rowid FROM text_index)",
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


async def test_an_event_that_is_not_known_is_a_note_and_no_fault(directory: Path) -> None:
    """It is kept until a release knows it."""
    async with open_replica(SQLiteJournal(directory)) as replica:
        await replica.journal.write("chat_history", "chat_pinned", "s:1", {"sessionId": "s"})
    report = verified(directory)

    assert report.is_good
    assert [(finding.check, "'chat_pinned'" in finding.text) for finding in report.findings] == [
        ("not_understood", True)
    ]
    assert (await rebuild(directory))[0].repaired == 0


# -- an open journal --------------------------------------------------------------------------------------------
async def lose_everything(journal: EventJournal) -> None:
    """Damage the read models of an open journal as no store can."""

    def work(tx: JournalTransaction) -> None:
        for store in STORES:
            start = pack_key(store)
            for key, _value in list(tx.scan(start, prefix_end(start))):
                tx.delete(key)

    await journal.transact(work)


async def test_open_stores_are_rebuilt_from_their_journal(journal: EventJournal) -> None:
    """Chunks and search included; equal before and after where nothing was wrong."""
    clock = Clock()
    async with open_replica(journal, clock=clock) as replica, open_replica(seed=5, clock=clock) as other:
        for number, action in enumerate(("say", "put_large", "audit", "take", "put", "delete", "take_large", "say")):
            await act(action, number, replica, other, clock)
        healthy = await rebuild_open(journal)
        messages, artifacts = await replica.chat.list("s1"), await replica.artifacts.list("s1")
        await lose_everything(journal)
        lost = await replica.chat.list("s1")
        rebuilt = await rebuild_open(journal)

        assert (healthy.repaired, healthy.before) == (0, healthy.after)
        assert (lost, rebuilt.repaired > 0) == ([], True)
        assert rebuilt.after == healthy.after != rebuilt.before
        assert messages
        assert (await replica.chat.list("s1"), await replica.artifacts.list("s1")) == (messages, artifacts)
        assert [match.event for match in (await replica.chat.search("word7")).items] == messages[-1:]
        await replica.chat.append("s1", {"n": 1})
        assert len(await replica.chat.list("s1")) == len(messages) + 1


async def test_a_store_that_an_application_declared_is_rebuilt_too(journal: EventJournal) -> None:
    """Through the store, with what its projections wrote; its reactions see nothing twice."""

    class Notes(EventStore):
        name: ClassVar[str] = "notes"
        groups = (EventGroup.append_only(noted), EventGroup.keyed(titled))
        handled: ClassVar[list[str]] = []

        @projects(noted)
        def count(self, tx: JournalTransaction, entry: TypedEntry[dict[str, str]]) -> None:
            tx.put(self.row_key("seen", entry.value["text"]), b"")

        @reacts(noted)
        async def handle(self, entry: TypedEntry[dict[str, str]]) -> None:
            self.handled.append(entry.value["text"])

    async with journal, Notes(journal, IDENTITY) as notes:
        for text in ("a", "b"):
            await notes.write(noted, {"text": text})
            await notes.write(titled, {"text": text})
        await notes.reaction("handle").caught_up()

        def damage(tx: JournalTransaction) -> None:
            tx.delete(notes.row_key("seen", "a"))
            tx.put(notes.row_key("seen", "z"), b"")
            tx.delete(pack_key("notes", "k", "b"))

        await journal.transact(damage)
        done = await notes.rebuild()
        rows = await notes.log.read(lambda tx: [tx.get(notes.row_key("seen", text)) for text in "abz"])
        await notes.write(noted, {"text": "c"})
        await notes.reaction("handle").caught_up()

        assert (done.repaired, done.entries) == (3, 4)
        assert rows == [b"", b"", None]
        assert await notes.keys() == ["a", "b"]
        assert notes.handled == ["a", "b", "c"]


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
