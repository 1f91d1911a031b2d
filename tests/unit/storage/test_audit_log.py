"""The audit log among replicas: nothing collapses, observations stay local, retention prunes."""

from __future__ import annotations

import asyncio

import pytest

from agentlayers.errors import UsageError
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_event import AuditEntry
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.digest import journal_digest
from agentlayers.storage.storage_config import AuditRetention, Retention, StorageConfig
from helpers.store_replica import IDENTITY, Clock, open_replica

DAY = 86_400.0


def keeping(**bounds: object) -> StorageConfig:
    audit = AuditRetention(**{"max_entries": None, "max_age_seconds": None, **bounds})  # type: ignore[arg-type]
    return StorageConfig(retention=Retention(audit=audit))


def tools(entries: list[AuditEntry]) -> list[str]:
    return [entry.payload["toolName"] for entry in entries]


async def test_quirk_equal_uses_of_a_tool_on_two_replicas_are_all_kept() -> None:
    """Fault R13: the reference's keys would collapse if the audit log were synced."""
    async with open_replica() as a, open_replica() as b:
        for replica in (a, b):
            for _use in range(2):
                await replica.audit.tool_use(session_id="s", tool_name="Bash", status="start")
        await a.take_all(b)
        await b.take_all(a, reverse=True)

        assert len(await a.audit.entries()) == 4
        assert await b.audit.entries() == await a.audit.entries()
        assert await b.audit.entries("s", "tool_use") == await a.audit.entries("s")


async def test_a_conflict_is_recorded_where_it_was_seen(journal: EventJournal) -> None:
    async with open_replica(journal) as a, open_replica() as b:
        for content, replica in (("x", a), ("y", b)):
            await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content=content))
        await a.take_all(b)
        await a.take_all(b)
        (entry,) = await a.audit.entries(event="sync_conflict")

        assert entry.payload["primaryKey"] == "s:a"
        assert entry.payload["remoteId"] == b.remote_id.hex()
        assert entry.payload["conflictCount"] == 1
        assert entry.payload["resolution"] == "accept"
        assert await b.audit.entries(event="sync_conflict") == []


async def test_what_was_observed_is_neither_synced_nor_part_of_the_digest() -> None:
    async with open_replica() as a, open_replica() as b:
        for content, replica in (("x", a), ("y", b)):
            await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content=content))
        await a.take_all(b)
        before = await journal_digest(b.journal)
        await a.meet_remote("audit_log")
        pending = await a.journal.uncommitted("audit_log", b"r" * 16, entries_max=100, bytes_max=1 << 20)
        await b.take_all(a)

        assert len(await a.audit.entries()) == 1
        assert pending == []
        assert (await journal_digest(b.journal)).entries == before.entries + 1
        assert await journal_digest(a.journal) == await journal_digest(b.journal)


async def test_a_compaction_is_recorded_with_what_it_dropped() -> None:
    clock = Clock()
    ages = {"chat": {"max_age": "1 hour"}, "artifacts": {"max_age": "1 hour"}}
    config = StorageConfig.from_mapping({"retention": ages})
    async with open_replica(clock=clock, config=config) as replica:
        await replica.chat.append_all("s", [{"number": number} for number in range(3)])
        await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="x"))
        clock.now += DAY
        await replica.chat.cleanup()
        await replica.artifacts.cleanup()
        await replica.chat.append("t", {"number": 4})
        await replica.chat.purge("t")
        entries = await replica.audit.entries(event="sync_compaction")

        assert [(e.payload["before"], e.payload["after"], e.payload["events"]) for e in entries] == [
            (3, 0, ["chat_event"]),
            (1, 0, ["artifact_record"]),
            (1, 0, ["chat_event"]),
        ]


async def test_nothing_is_observed_after_the_store_was_closed() -> None:
    async with MemoryJournal() as journal:
        async with AuditEventStore(journal, IDENTITY):
            pass
        async with ArtifactStore(journal, IDENTITY, compaction=ByCount(0)) as artifacts:
            await artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="x"))
            await artifacts.cleanup()

        assert await journal.entries("audit_log") == []


async def test_quirk_local_entries_are_pruned_by_count(journal: EventJournal) -> None:
    """The reference prunes only when entries arrive from a remote."""
    async with open_replica(journal, config=keeping(max_entries=3)) as replica:
        for number in range(8):
            await replica.audit.tool_use(session_id="s", tool_name=str(number), status="start")
        report = await replica.audit.cleanup()
        kept = await replica.audit.entries(event="tool_use")

        assert tools(kept) == ["5", "6", "7"]
        assert await replica.audit.entries("s") == kept
        assert report is not None
        assert report.dropped == 5


async def test_quirk_local_entries_are_pruned_by_age() -> None:
    clock = Clock()
    async with open_replica(clock=clock, config=keeping(max_age_seconds=DAY)) as replica:
        await replica.audit.tool_use(session_id="s", tool_name="old", status="start")
        clock.now += DAY + 1
        await replica.audit.tool_use(session_id="s", tool_name="young", status="start")
        await replica.audit.cleanup()

        assert tools(await replica.audit.entries(event="tool_use")) == ["young"]


async def test_an_audit_log_that_is_switched_off_records_nothing() -> None:
    off = StorageConfig.from_mapping(
        {
            "enabled": {"audit_log": False},
            "retention": {"chat": {"max_age": 0}},
        }
    )
    async with open_replica(config=off) as replica:
        written = await replica.audit.tool_use(session_id="s", tool_name="a", status="start")
        await replica.chat.append("s", {"observed": "not"})
        await replica.chat.cleanup()

        assert written is None
        assert await replica.audit.entries() == []


async def test_a_written_entry_comes_back_with_time_cursor_and_position() -> None:
    async with open_replica(clock=Clock(1_000.5)) as replica:
        first = await replica.audit.tool_use(session_id="s", tool_name="a", status="start")
        second = await replica.audit.hook_event(hook="Stop", outcome="success")
        assert first is not None
        assert second is not None
        following = replica.audit.follow(after=first.position)
        async with asyncio.timeout(10):
            followed = await anext(following)
        await following.aclose()

        assert followed == second
        assert (first.timestamp_ms, first.session_id, second.session_id) == (1_000_500, "s", None)
        assert first.written_at.isoformat() == "1970-01-01T00:16:40.500000+00:00"
        assert await replica.audit.entries(cursor=first.cursor) == [second]
        with pytest.raises(UsageError, match="cursor"):
            await replica.audit.entries(cursor="AAAA")
