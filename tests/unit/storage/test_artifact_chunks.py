"""Large artifacts: stored once, read in any order of arrival, dropped when nothing needs them, flat in memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentlayers.errors import StorageUnavailableError, UsageError
from agentlayers.journal.compaction import ByAge, BySize
from agentlayers.journal.entry import Entry
from agentlayers.journal.entry_id import next_entry_id
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.limits import ARTIFACT_CHUNK_BYTES, ARTIFACT_CHUNK_WAIT_SECONDS, ARTIFACT_INLINE_BYTES_MAX
from agentlayers.protocol.payload import encode_payload
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifact_chunk import ARTIFACT_CHUNK, CONTENT_STORE, chunk_key, recut
from agentlayers.storage.storage_config import ArtifactRetention, Retention, StorageConfig
from agentlayers.storage.verify import verify
from helpers.store_replica import Clock, Replica, open_replica

SIZE = ARTIFACT_INLINE_BYTES_MAX + 1000
CHUNKS = -(-SIZE // ARTIFACT_CHUNK_BYTES)
DAY = 86_400.0


def content(seed: int = 0, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def artifact(name: str, data: str | bytes = b"", **fields: object) -> ArtifactRecord:
    return ArtifactRecord(id=name, session_id="s", kind="file", content=data, **fields)  # type: ignore[arg-type]


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def chunks_held(replica: Replica) -> int:
    entries = await replica.journal.entries(CONTENT_STORE, entries_max=10_000)
    return sum(stored.entry.event == ARTIFACT_CHUNK for stored in entries)


async def read(replica: Replica, name: str) -> bytes:
    return b"".join([piece async for piece in replica.artifacts.open(name)])


def keeping(**bounds: object) -> StorageConfig:
    none = {"max_artifacts": None, "max_artifact_bytes": None, "max_age_seconds": None}
    return StorageConfig(retention=Retention(artifacts=ArtifactRetention(**{**none, **bounds})))  # type: ignore[arg-type]


# -- storing --------------------------------------------------------------------------------------


async def test_equal_content_is_stored_once_and_equal_pieces_of_other_content_too(journal: EventJournal) -> None:
    async with open_replica(journal) as replica:
        await replica.artifacts.put(artifact("a", content()))
        await replica.artifacts.put(artifact("b", content()))
        after_equal = await chunks_held(replica)
        longer = content() + b"tail"
        await replica.artifacts.put_stream(artifact("c"), stream(longer))

        assert after_equal == CHUNKS
        assert await chunks_held(replica) == CHUNKS + 1  # the last piece differs
        assert await read(replica, "c") == longer


async def test_text_that_is_streamed_comes_back_as_text(journal: EventJournal) -> None:
    text = "äö\n" * (SIZE // 4)
    encoded = text.encode()
    async with open_replica(journal) as replica:
        await replica.artifacts.put_stream(
            artifact("a", ""), stream(*[encoded[i : i + 777] for i in range(0, len(encoded), 777)])
        )
        got = await replica.artifacts.get("a")

        assert got is not None
        assert got.content == text


@pytest.mark.parametrize("pieces", [(b"\xff",), (b"ok", b"\xc3")])
async def test_a_stream_that_is_no_text_is_refused_for_text(pieces: tuple[bytes, ...]) -> None:
    async with open_replica() as replica:
        with pytest.raises(UsageError, match="expected UTF-8"):
            await replica.artifacts.put_stream(artifact("a", ""), stream(*pieces))

        assert await replica.artifacts.list("s") == []


async def test_a_stream_that_fails_shows_nothing_and_is_dropped_by_a_later_cleanup() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield content(size=2 * SIZE)
        raise ConnectionResetError

    clock = Clock()
    async with open_replica(clock=clock) as replica:
        with pytest.raises(ConnectionResetError):
            await replica.artifacts.put_stream(artifact("a"), failing())
        shown, left = await replica.artifacts.list("s"), await chunks_held(replica)
        await replica.artifacts.cleanup()
        kept_for_now = await chunks_held(replica)
        clock.now += ARTIFACT_CHUNK_WAIT_SECONDS + 1
        report = await replica.artifacts.cleanup()

        assert shown == []
        assert left == kept_for_now > 0
        assert await chunks_held(replica) == 0
        assert report is not None
        assert (report.dropped, report.events) == (left, (ARTIFACT_CHUNK,))


async def test_what_was_listed_can_be_put_again_with_its_content() -> None:
    async with open_replica() as replica:
        await replica.artifacts.put(artifact("a", content()))
        (listed,) = await replica.artifacts.list("s")
        loaded = await replica.artifacts.get("a")
        assert loaded is not None
        for record in (listed, loaded):
            await replica.artifacts.put(record)

            assert await read(replica, "a") == content()
        assert await chunks_held(replica) == CHUNKS


@pytest.mark.parametrize("large", [True, False])
async def test_metadata_that_would_be_taken_for_a_list_of_chunks_is_refused(large: bool) -> None:
    chunks = {"sizeBytes": 3, "sha256": ["00" * 32]}
    async with open_replica() as replica:
        with pytest.raises(UsageError, match="use another name"):
            await replica.artifacts.put(artifact("a", content() if large else b"", metadata={"chunks": chunks}))
        kept = await replica.artifacts.put(artifact("b", b"small", metadata={"chunks": chunks}))

        assert await replica.artifacts.get("b") == kept


async def test_content_given_twice_and_an_unknown_name_are_refused() -> None:
    async with open_replica() as replica:
        with pytest.raises(UsageError, match="given twice"):
            await replica.artifacts.put_stream(artifact("a", "text"), stream(b"more"))
        with pytest.raises(UsageError, match="there is none to open"):
            await read(replica, "a")


async def test_recut_keeps_bytes_whatever_the_pieces() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        pieces = [chance.randbytes(chance.randrange(9)) for _ in range(chance.randrange(9))]
        cut = [piece async for piece in recut(stream(*pieces), 4)]

        assert b"".join(cut) == b"".join(pieces)
        assert all(len(piece) == 4 for piece in cut[:-1])
        assert all(cut)


# -- among replicas -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_content_is_complete_once_all_of_it_arrived_in_whatever_order(seed: int, tmp_path: Path) -> None:
    """Batches of any size, entries twice, the record first, last or in between."""
    chance = random.Random(seed)
    async with open_replica() as a, open_replica(SQLiteJournal(tmp_path) if seed % 2 else None) as b:
        await a.artifacts.put(artifact("a", content(1)))
        await a.artifacts.put(artifact("b", content(1)[: SIZE - 500]))  # shares all but the last piece
        entries = await a.synced("artifacts")
        chance.shuffle(entries)
        arrived: set[str] = set()
        while set(arrived) != {entry.primary_key for entry in entries}:
            batch = chance.sample(entries, chance.randint(1, 3))
            await b.take(a, "artifacts", batch)
            arrived |= {entry.primary_key for entry in batch}
            for name in ("a", "b"):
                sent = await a.artifacts.get(name)
                got = await b.artifacts.get(name)
                assert sent is not None
                assert sent.chunks is not None
                if f"s:{name}" not in arrived:
                    assert got is None
                    continue
                assert got is not None
                assert got.is_complete == all(chunk_key(digest) in arrived for digest in sent.chunks.digests)
                if got.is_complete:
                    assert got == sent
                else:
                    assert (got.content, got.size_bytes) == (b"", sent.size_bytes)
                    with pytest.raises(StorageUnavailableError, match="not all of its content has arrived"):
                        await read(b, name)

        assert await b.artifacts.get("a") == await a.artifacts.get("a")
        assert [one.is_complete for one in await b.artifacts.list("s")] == [True, True]


async def test_chunks_that_arrive_before_their_record_wait_for_it() -> None:
    clock = Clock()
    async with open_replica() as a, open_replica(clock=clock) as b:
        await a.artifacts.put(artifact("a", content()))
        *chunks, record = await a.synced("artifacts")
        clock.now += 100 * DAY  # written long ago by a replica that was offline
        await b.take(a, "artifacts", chunks)
        await b.artifacts.cleanup()
        await b.compact("artifacts", ByAge(DAY))
        await b.take(a, "artifacts", [record])

        assert await read(b, "a") == content()


async def test_two_replicas_that_put_the_same_content_at_once_agree() -> None:
    async with open_replica(clock=Clock(1_000.0)) as a, open_replica(clock=Clock(2_000.0)) as b:
        await a.artifacts.put(artifact("a", content()))
        await b.artifacts.put(artifact("b", content()))
        await a.take_all(b)
        await b.take_all(a, reverse=True)
        for replica in (a, b):
            await replica.artifacts.delete("a")
            await replica.artifacts.cleanup()

            assert await read(replica, "b") == content()
        await a.artifacts.delete("b")
        await a.acknowledge_all("artifacts", b.remote_id)
        await a.artifacts.cleanup()
        assert await chunks_held(a) == 0


async def test_a_chunk_that_is_not_what_its_key_says_hides_no_good_one() -> None:
    async with open_replica() as a, open_replica() as peer:
        await a.artifacts.put(artifact("a", content()))
        key = (await a.synced("artifacts"))[0].primary_key
        payload = encode_payload({"sha256": key.removeprefix("sha256:"), "data": b"forged"})
        forged = [
            Entry(next_entry_id(1_000, b"", 1), ARTIFACT_CHUNK, key, payload),
            Entry(next_entry_id(1_000, b"", 2), ARTIFACT_CHUNK, "sha256:xyz", payload),
        ]
        await a.take(peer, "artifacts", forged)
        unapplied = await a.journal.read(lambda tx: tx.unapplied(CONTENT_STORE))
        await a.compact("artifacts", ByAge(DAY))

        assert ["is not what its key says" in entry.error for entry in unapplied] == [True, True]
        assert await read(a, "a") == content()


# -- dropping -------------------------------------------------------------------------------------


async def test_a_deletion_drops_what_no_other_artifact_consists_of(journal: EventJournal) -> None:
    async with open_replica(journal) as replica:
        await replica.artifacts.put(artifact("a", content(1)))
        await replica.artifacts.put(artifact("b", content(1)))
        await replica.artifacts.put(artifact("c", content(2)))
        await replica.artifacts.delete("a")
        await replica.artifacts.cleanup()
        while_shared = await chunks_held(replica)
        await replica.artifacts.delete("b")
        report = await replica.artifacts.cleanup()

        assert while_shared == 2 * CHUNKS
        assert await chunks_held(replica) == CHUNKS
        assert report is not None
        assert report.dropped == CHUNKS
        assert await read(replica, "c") == content(2)
        assert await replica.artifacts.cleanup() is None


async def test_content_that_was_replaced_is_dropped_and_its_version_says_so() -> None:
    async with open_replica() as replica:
        await replica.artifacts.put(artifact("a", content(1)))
        await replica.artifacts.put(artifact("a", content(2)))
        before = [one.record.is_complete for one in await replica.artifacts.versions("a") if one.record]
        await replica.artifacts.cleanup()
        after = [one.record.is_complete for one in await replica.artifacts.versions("a") if one.record]

        assert (before, after) == ([True, True], [False, True])
        assert await chunks_held(replica) == CHUNKS


async def test_the_content_of_a_losing_head_stays_until_the_conflict_is_settled() -> None:
    async with open_replica(clock=Clock(1_000.0)) as a, open_replica(clock=Clock(2_000.0)) as b:
        await a.artifacts.put(artifact("a", content(1)))
        await b.artifacts.put(artifact("a", content(2)))
        await a.take_all(b)
        await a.artifacts.cleanup()
        versions = await a.artifacts.versions("a")

        assert [one.record.is_complete for one in versions if one.record] == [True, True]
        assert await read(a, "a") == content(2)
        await a.artifacts.put(artifact("a", "settled"))
        await a.acknowledge_all("artifacts", b.remote_id)
        await a.artifacts.cleanup()
        assert await chunks_held(a) == 0


async def test_what_a_remote_has_not_acknowledged_is_not_dropped() -> None:
    async with open_replica() as replica:
        await replica.meet_remote("artifacts")
        await replica.artifacts.put(artifact("a", content()))
        await replica.artifacts.delete("a")
        await replica.artifacts.cleanup()
        before = await chunks_held(replica)
        await replica.acknowledge_all("artifacts")
        await replica.artifacts.cleanup()

        assert (before, await chunks_held(replica)) == (CHUNKS, 0)


async def test_what_was_dropped_does_not_come_back_from_a_remote_but_can_be_put_again() -> None:
    async with open_replica() as a, open_replica() as b:
        await a.artifacts.put(artifact("a", content()))
        await b.take_all(a)
        await a.artifacts.delete("a")
        await a.artifacts.cleanup()
        await a.take_all(b)
        after_sync = await chunks_held(a)
        await a.artifacts.put(artifact("again", content()))
        await b.take_all(a)

        assert after_sync == 0
        for replica in (a, b):
            assert await read(replica, "again") == content()


@pytest.mark.parametrize("strategy", [ByAge(DAY), BySize(100)], ids=["by_age", "by_size"])
async def test_compaction_drops_no_chunk_that_a_kept_artifact_consists_of(strategy: ByAge | BySize) -> None:
    clock = Clock()
    async with open_replica(clock=clock) as replica:
        await replica.artifacts.put(artifact("old", content(1)))
        clock.now += 2 * DAY
        if isinstance(strategy, ByAge):
            await replica.artifacts.put(artifact("new", content(1)))
        else:
            strategy = BySize(SIZE + 100_000)
            await replica.artifacts.put(artifact("new", content(1)))
        await replica.compact("artifacts", strategy)

        assert [one.id for one in await replica.artifacts.list("s")] == ["new"]
        assert await read(replica, "new") == content(1)
        clock.now += 2 * DAY
        await replica.compact("artifacts", ByAge(DAY))
        await replica.artifacts.cleanup()
        assert await chunks_held(replica) == 0


async def test_retention_by_bytes_counts_what_is_in_chunks(journal: EventJournal) -> None:
    async with open_replica(journal, config=keeping(max_artifact_bytes=2 * SIZE)) as replica:
        for number in range(3):
            await replica.artifacts.put(artifact(str(number), content(number), created_at_ms=number))
        await replica.artifacts.cleanup()

        assert [one.id for one in await replica.artifacts.list("s")] == ["1", "2"]
        assert await chunks_held(replica) == 2 * CHUNKS


async def test_read_models_are_those_of_a_replay(tmp_path: Path) -> None:
    async with open_replica(SQLiteJournal(tmp_path)) as replica, open_replica() as other:
        for number, name in enumerate("abca"):
            await replica.artifacts.put(artifact(name, content(number % 3)))
        await other.artifacts.put(artifact("d", content(7)))
        await replica.take(other, "artifacts", (await other.synced("artifacts"))[1:])
        await replica.artifacts.delete("b")
        await replica.artifacts.cleanup()
        report = verify(tmp_path, now_ms=int(Clock().now * 1000))

    assert [finding.text for finding in report.findings] == []


# -- asking for what was dropped ------------------------------------------------------------------


async def quiet(replica: Replica) -> None:
    """Let reactions to commits run to their end."""
    exchange = replica.artifacts._exchange
    assert exchange is not None
    while exchange._task is not None:
        await exchange._task


async def dropped_here_put_there(a: Replica, b: Replica) -> None:
    """Replica a drops content that b has, and that b puts again without knowing."""
    await a.artifacts.put(artifact("one", content()))
    await b.take_all(a)
    await a.artifacts.delete("one")
    await a.artifacts.cleanup()
    await b.artifacts.put(artifact("two", content()))
    await a.take_all(b)
    await quiet(a)


async def test_content_that_was_dropped_here_and_is_shared_there_is_asked_for_and_given(tmp_path: Path) -> None:
    async with open_replica() as a, open_replica(SQLiteJournal(tmp_path)) as b:
        await dropped_here_put_there(a, b)
        before = await a.artifacts.get("two")
        await b.take_all(a)
        await quiet(b)
        await a.take_all(b)
        await quiet(a)

        assert before is not None
        assert not before.is_complete
        assert await read(a, "two") == content()
        held = await chunks_held(b)
        for _ in range(2):
            await b.take_all(a)
            await b.artifacts.cleanup()
        assert await chunks_held(b) == held == 2 * CHUNKS  # what it had, and what it wrote anew


async def test_another_replica_gives_at_its_cleanup_what_the_writer_has_not_given() -> None:
    async with open_replica() as a, open_replica() as b, open_replica() as c:
        await dropped_here_put_there(a, b)
        await c.take_all(b)
        await c.take_all(a)
        await quiet(c)
        before = await chunks_held(c)
        await c.artifacts.cleanup()
        await a.take_all(c)
        await b.take_all(c, reverse=True)
        await b.take_all(a)
        await b.artifacts.cleanup()

        assert (before, await chunks_held(c)) == (CHUNKS, 2 * CHUNKS)
        assert await read(a, "two") == content()
        assert await chunks_held(b) == 2 * CHUNKS  # c was first, so b gives nothing


async def test_what_was_asked_while_nobody_reacted_is_asked_at_the_next_cleanup(journal: EventJournal) -> None:
    off = StorageConfig.from_mapping({"enabled": {"artifacts": False}})
    async with open_replica() as b:
        async with open_replica(journal) as a:
            await a.artifacts.put(artifact("one", content()))
            await b.take_all(a)
            await a.artifacts.delete("one")
            await a.artifacts.cleanup()
        await b.artifacts.put(artifact("two", content()))
        async with open_replica(journal, config=off) as a:
            await a.take_all(b)
        async with open_replica(journal) as a:
            await a.artifacts.cleanup()
            await b.take_all(a)
            await quiet(b)
            await a.take_all(b)

            assert await read(a, "two") == content()


# -- memory ---------------------------------------------------------------------------------------

_MEMORY = """
import asyncio, hashlib, json, random, resource, sys
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifacts import ArtifactStore

def rss():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

async def main(directory, size):
    async with SQLiteJournal(directory) as journal, ArtifactStore(journal, Identity("t", bytes(32))) as artifacts:
        await artifacts.put(ArtifactRecord(id="warm", session_id="s", kind="file", content=bytes(3_000_000)))
        await artifacts.get("warm")
        before, chance, sent, got = rss(), random.Random(1), hashlib.sha256(), hashlib.sha256()

        async def stream():
            for start in range(0, size, 100_000):
                piece = chance.randbytes(min(100_000, size - start))
                sent.update(piece)
                yield piece

        await artifacts.put_stream(ArtifactRecord(id="a", session_id="s", kind="file", content=b""), stream())
        async for piece in artifacts.open("a"):
            got.update(piece)
        await artifacts.delete("a")
        report = await artifacts.cleanup()
        equal = sent.digest() == got.digest()
        print(json.dumps({"extra": rss() - before, "equal": equal, "dropped": report.dropped}))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.parametrize("size", [90_000_000, pytest.param(200_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_content(size: int, tmp_path: Path) -> None:
    """Put, read back, delete and drop, in a process of its own; less than 64 MB more than before."""
    command = [sys.executable, "-c", _MEMORY, str(tmp_path), str(size)]
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert done["equal"]
    assert done["dropped"] == -(-size // ARTIFACT_CHUNK_BYTES)
    assert done["extra"] < 64_000_000
