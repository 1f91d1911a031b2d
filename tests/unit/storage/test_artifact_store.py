"""Artifacts among replicas: conflicts under each policy, retention, and quirks of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentlayers.journal.conflict_policy import (
    ConflictPolicy,
    FirstWriteWins,
    LastWriteWins,
    Merge,
    Reject,
)
from agentlayers.journal.entry import Entry
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.limits import ARTIFACT_INLINE_BYTES_MAX
from agentlayers.protocol.payload import encode_payload
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.statistics import journal_statistics
from agentlayers.storage.storage_config import ArtifactRetention, Retention, StorageConfig
from helpers.store_replica import Clock, Replica, open_replica

DAY = 86_400.0


def artifact(name: str, content: str = "text", **fields: Any) -> ArtifactRecord:
    return ArtifactRecord(id=name, session_id="s", kind="file", content=content, **fields)


def keeping(**bounds: object) -> StorageConfig:
    none = {"max_artifacts": None, "max_artifact_bytes": None, "max_age_seconds": None}
    artifacts = ArtifactRetention(**{**none, **bounds})  # type: ignore[arg-type]
    return StorageConfig(retention=Retention(artifacts=artifacts))


def concatenate(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**values[0], "content": "+".join(value["content"] for value in values)}


async def conflict_between(a: Replica, b: Replica) -> None:
    """Both write artifact ``a`` without knowing of each other, then both know both."""
    await a.artifacts.put(artifact("a", "first", created_at_ms=1))
    await b.artifacts.put(artifact("a", "second", created_at_ms=2))
    await a.take_all(b)
    await b.take_all(a)


def names(records: list[ArtifactRecord]) -> list[str]:
    return [record.id for record in records]


# -- conflicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "content", "outcome"),
    [
        (LastWriteWins(), "second", "accept"),
        (FirstWriteWins(), "first", "accept"),
        (Reject("too late"), "first", "reject"),
        (Merge(concatenate), "first+second", "merge"),
    ],
)
async def test_the_configured_policy_decides_on_both_replicas(
    policy: ConflictPolicy, content: str, outcome: str
) -> None:
    """Fault R4: the configured policy was ignored."""
    async with (
        open_replica(policy=policy, clock=Clock(1_000.0)) as a,
        open_replica(policy=policy, clock=Clock(2_000.0)) as b,
    ):
        await conflict_between(a, b)
        for replica in (a, b):
            shown = await replica.artifacts.get("a")
            (conflict,) = await replica.artifacts.conflicts()

            assert shown is not None
            assert (shown.content, shown.id, shown.session_id) == (content, "a", "s")
            assert [record.content for record in await replica.artifacts.list("s")] == [content]
            assert (conflict.session_id, conflict.artifact_id) == ("s", "a")
            assert conflict.resolution.outcome == outcome
            assert len(conflict.heads) == 2


async def test_the_losing_version_stays_readable() -> None:
    async with open_replica(clock=Clock(1_000.0)) as a, open_replica(clock=Clock(2_000.0)) as b:
        await conflict_between(a, b)
        versions = await a.artifacts.versions("a")

        assert [v.record.content for v in versions if v.record] == ["first", "second"]
        assert [version.is_head for version in versions] == [True, True]
        assert {version.replica for version in versions} == {
            a.journal.replica_id,
            b.journal.replica_id,
        }


async def test_the_next_put_settles_a_conflict_everywhere() -> None:
    async with open_replica() as a, open_replica() as b:
        await conflict_between(a, b)
        await b.artifacts.put(artifact("a", "settled"))
        await a.take_all(b)
        for replica in (a, b):
            shown = await replica.artifacts.get("a")

            assert shown is not None
            assert shown.content == "settled"
            assert await replica.artifacts.conflicts() == []


@pytest.mark.parametrize("content", ["listed", "x" * (ARTIFACT_INLINE_BYTES_MAX + 1)], ids=["inline", "in pieces"])
async def test_the_same_result_recorded_here_and_imported_there_is_no_conflict(tmp_path: Path, content: str) -> None:
    """Neither when each was made nor where its pieces lie is anything to settle."""
    made = artifact("a", content, tool_name="Bash")
    async with (
        open_replica(SQLiteJournal(tmp_path / "a")) as a,
        open_replica(SQLiteJournal(tmp_path / "b")) as b,
    ):
        for at, replica in enumerate((a, b)):
            await replica.artifacts.put(replace(made, created_at_ms=at))
        for one, other in ((a, b), (b, a)):
            await one.take_all(other)
        conflicts = [await replica.artifacts.conflicts() for replica in (a, b)]
        heads = await a.journal.read(lambda tx: tx.heads("artifacts", "s:a"))
        observed = [entry for replica in (a, b) for entry in await replica.audit.entries()]
        told = {store.name: store.conflicts for file in journal_statistics(tmp_path / "a") for store in file.stores}

        assert (conflicts, len(heads), observed) == ([[], []], 2, [])
        assert told["artifacts"] == 0


@pytest.mark.parametrize("later", ["put", "delete"])
async def test_a_delete_and_a_put_at_once_conflict(later: str) -> None:
    """Quirk: in the reference they have different tags and so never conflict."""
    put_at, delete_at = (2_000.0, 1_900.0) if later == "put" else (1_900.0, 2_000.0)
    async with open_replica(clock=Clock(1_000.0)) as a, open_replica(clock=Clock(1_000.0)) as b:
        await a.artifacts.put(artifact("a", "old"))
        await b.take_all(a)
        a.journal._registry.clock.now = put_at  # type: ignore[attr-defined]
        b.journal._registry.clock.now = delete_at  # type: ignore[attr-defined]
        await a.artifacts.put(artifact("a", "new"))
        await b.artifacts.delete("a")
        await a.take_all(b)
        await b.take_all(a)
        for replica in (a, b):
            shown = await replica.artifacts.get("a")

            assert (None if shown is None else shown.content) == ("new" if later == "put" else None)
            assert len(await replica.artifacts.list("s")) == (1 if later == "put" else 0)
            assert len(await replica.artifacts.conflicts()) == 1


async def test_a_late_put_of_a_replica_that_saw_the_put_before_does_not_resurrect() -> None:
    """Quirk R8: in the reference a late put resurrects what was deleted after it."""
    async with open_replica() as a, open_replica() as b:
        await a.artifacts.put(artifact("a", "old"))
        late = await a.synced("artifacts")
        await a.artifacts.delete("a")
        deletion = (await a.synced("artifacts"))[-1]
        await b.take(a, "artifacts", [deletion])
        await b.take(a, "artifacts", late)

        assert await b.artifacts.get("a") is None
        assert await b.artifacts.conflicts() == []


async def test_a_policy_that_is_exchanged_shows_what_the_new_one_decides(
    journal: EventJournal,
) -> None:
    async with open_replica(clock=Clock(2_000.0)) as b:
        await b.artifacts.put(artifact("a", "second"))
        async with open_replica(journal) as a:
            await a.artifacts.put(artifact("a", "first"))
            await a.take_all(b)
        contents = []
        for policy in (LastWriteWins(), FirstWriteWins(), Merge(concatenate)):
            async with open_replica(journal, policy=policy) as a:
                shown = await a.artifacts.get("a")
                contents.append(None if shown is None else shown.content)

    assert contents == ["first", "second", "second+first"]


async def test_a_malformed_version_of_a_peer_hides_no_good_one() -> None:
    async with open_replica() as a, open_replica() as peer:
        await a.artifacts.put(artifact("a", "good"))
        payload = encode_payload({"id": "a", "sessionId": "s", "kind": "video"})
        # A stock peer's entry, so that it supersedes nothing that has a higher id.
        bad = Entry(bytes(6) + b"\x70" + bytes(9), "artifact_record", "s:a", payload)
        later = Entry(b"\x01\xff" + bytes(14), "artifact_record", "s:b", payload)
        await a.take(peer, "artifacts", [bad, later])
        shown = await a.artifacts.get("a")

        assert shown is not None
        assert shown.content == "good"
        assert names(await a.artifacts.list("s")) == ["a"]
        assert len(await a.artifacts.versions("a")) == 1
        await a.artifacts.put(artifact("b", "now good"))
        assert names(await a.artifacts.list("s")) == ["a", "b"]


async def test_a_merge_function_that_fails_loses_nothing() -> None:
    def fail(values: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        raise ZeroDivisionError

    async with open_replica(policy=Merge(fail)) as a, open_replica(policy=Merge(fail)) as b:
        await conflict_between(a, b)
        unapplied = await a.journal.read(lambda tx: tx.unapplied("artifacts"))

        assert ["ZeroDivisionError" in entry.error for entry in unapplied] == [True]
        assert len(await a.artifacts.versions("a", "s")) == 2


# -- retention ------------------------------------------------------------------------------------


async def test_retention_by_count_keeps_the_newest_of_each_session(journal: EventJournal) -> None:
    async with open_replica(journal, config=keeping(max_artifacts=2)) as replica:
        for number in range(5):
            await replica.artifacts.put(artifact(str(number), created_at_ms=number))
        await replica.artifacts.put(
            ArtifactRecord(id="other", session_id="t", kind="file", content="x", created_at_ms=0)
        )

        assert names(await replica.artifacts.list("s")) == ["3", "4"]
        assert names(await replica.artifacts.list("t")) == ["other"]
        assert len(await replica.journal.entries("artifacts")) == 3


async def test_retention_by_size_skips_what_does_not_fit(journal: EventJournal) -> None:
    async with open_replica(journal) as replica:
        for name, size in (("a", 4), ("b", 9), ("c", 5)):
            await replica.artifacts.put(artifact(name, "x" * size, created_at_ms=ord(name)))
    async with open_replica(journal, config=keeping(max_artifact_bytes=10)) as replica:
        await replica.artifacts.cleanup()
        after_cleanup = names(await replica.artifacts.list("s"))
        await replica.artifacts.put(artifact("d", "x" * 6, created_at_ms=ord("d")))

        assert after_cleanup == ["a", "c"]
        assert names(await replica.artifacts.list("s")) == ["a", "d"]


async def test_retention_by_age_goes_by_the_time_of_creation() -> None:
    clock = Clock()
    now_ms = int(clock.now * 1000)
    async with open_replica(clock=clock, config=keeping(max_age_seconds=DAY)) as replica:
        await replica.artifacts.put(artifact("old", created_at_ms=now_ms - int(2 * DAY * 1000)))
        await replica.artifacts.put(artifact("young"))
        report = await replica.artifacts.cleanup()

        assert names(await replica.artifacts.list("s")) == ["young"]
        assert report is not None
        assert report.dropped == 1
        assert await replica.artifacts.cleanup() is None


async def test_overwriting_counts_once_and_drops_all_versions_together() -> None:
    async with open_replica(config=keeping(max_artifacts=1)) as replica:
        for number in range(3):
            await replica.artifacts.put(artifact("a", str(number), created_at_ms=1))
        kept = names(await replica.artifacts.list("s"))
        await replica.artifacts.put(artifact("b", created_at_ms=2))

        assert kept == ["a"]
        assert names(await replica.artifacts.list("s")) == ["b"]
        assert len(await replica.journal.entries("artifacts")) == 1


async def test_retention_deletes_nothing_on_other_replicas_and_nothing_comes_back() -> None:
    async with open_replica(config=keeping(max_artifacts=1)) as a, open_replica() as b:
        await a.artifacts.put(artifact("old", created_at_ms=1))
        await b.take_all(a)
        await a.artifacts.put(artifact("new", created_at_ms=2))
        await a.take_all(b)
        await b.take_all(a)

        assert names(await a.artifacts.list("s")) == ["new"]
        assert names(await b.artifacts.list("s")) == ["old", "new"]


async def test_retention_waits_for_what_a_remote_has_not_acknowledged() -> None:
    async with open_replica(config=keeping(max_artifacts=1)) as replica:
        await replica.meet_remote("artifacts")
        for number in range(3):
            await replica.artifacts.put(artifact(str(number), created_at_ms=number))
        before = names(await replica.artifacts.list("s"))
        await replica.acknowledge_all("artifacts")
        await replica.artifacts.cleanup()

        assert before == ["0", "1", "2"]
        assert names(await replica.artifacts.list("s")) == ["2"]


async def test_a_session_without_artifacts_leaves_the_index() -> None:
    async with open_replica(config=keeping(max_artifacts=0)) as replica:
        await replica.artifacts.put(artifact("a"))

        assert await replica.artifacts.list("s") == []
        assert await replica.index.list_ids() == []


# -- the rest -------------------------------------------------------------------------------------


async def test_quirk_purging_a_journaled_session_takes_it_out_of_the_index() -> None:
    """The reference touches the session instead."""
    async with open_replica() as a, open_replica() as b:
        await a.artifacts.put(artifact("a"))
        await b.take_all(a)
        await a.artifacts.purge_session("s")
        await b.take_all(a)

        assert await a.index.list_ids() == []
        assert await b.artifacts.list("s") == []


async def test_a_store_that_is_switched_off_takes_nothing_and_stays_readable(
    journal: EventJournal,
) -> None:
    async with open_replica(journal) as replica:
        await replica.artifacts.put(artifact("a"))
    off = StorageConfig.from_mapping({"enabled": {"artifacts": False}})
    async with open_replica(journal, config=off) as replica:
        record = await replica.artifacts.put(artifact("b"))

        assert record.entry_id == b""
        assert await replica.artifacts.delete("a") is False
        assert await replica.artifacts.purge_session("s") == 0
        assert names(await replica.artifacts.list("s")) == ["a"]


async def test_the_page_size_of_the_settings_is_the_default_limit() -> None:
    config = StorageConfig.from_mapping({"pagination": {"artifact_page_size": 2}})
    async with open_replica(config=config) as replica:
        for name in "abc":
            await replica.artifacts.put(artifact(name, created_at_ms=1))

        assert names(await replica.artifacts.list("s")) == ["a", "b"]


async def test_received_artifacts_touch_the_session_index() -> None:
    async with open_replica() as a, open_replica() as b:
        await a.artifacts.put(artifact("a", created_at_ms=7))
        await b.take_all(a)

        assert [meta.updated_at_ms for meta in await b.index.list()] == [7]
