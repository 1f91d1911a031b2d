"""A journal that was copied, or put back from a copy, notices it by what its files do not share with a copy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from agentlayers.file_mark import file_mark, is_same_mark
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.journal.registry import _HOME
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.key_value import FileSystemKeyValueStore, KeyValueStore, Put, RedisKeyValueStore, SQLiteKeyValueStore
from helpers import redis_server

Open = Callable[[Path], AbstractAsyncContextManager[EventJournal]]


def over(make: Callable[[Path], KeyValueStore]) -> Open:
    """Keep the journal in a key-value store."""

    @asynccontextmanager
    async def opened(directory: Path) -> AsyncIterator[EventJournal]:
        async with make(directory) as store, KeyValueJournal(store) as journal:
            yield journal

    return opened


@pytest.fixture(params=["sqlite", "key-value files", "key-value sqlite"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Open a journal in a directory."""
    ways: dict[str, Open] = {
        "sqlite": lambda directory: SQLiteJournal(directory, durability="normal"),
        "key-value files": over(FileSystemKeyValueStore),
        "key-value sqlite": over(SQLiteKeyValueStore),
    }
    return ways[request.param]


async def name_in(directory: Path, opened: Open) -> str:
    async with opened(directory) as journal:
        return journal.replica_id


async def test_a_copied_directory_is_another_replica_and_the_original_stays_the_same(
    tmp_path: Path, opened: Open
) -> None:
    name = await name_in(tmp_path / "a", opened)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    names = [await name_in(tmp_path / where, opened) for where in "abcabc"]

    assert name == names[0]
    assert 3 == len(set(names[:3]))
    assert names[:3] == names[3:]


async def test_a_moved_directory_is_the_same_replica(tmp_path: Path, opened: Open) -> None:
    name = await name_in(tmp_path / "a", opened)
    (tmp_path / "a").rename(tmp_path / "b")

    assert name == await name_in(tmp_path / "b", opened)


async def test_a_backup_that_takes_the_place_of_the_directory_it_was_made_of_is_another_replica(
    tmp_path: Path, opened: Open
) -> None:
    if "born" not in file_mark(tmp_path):
        pytest.skip("this file system does not tell when a file was made, and may give a new one an old number")
    name = await name_in(tmp_path / "a", opened)
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "backup", tmp_path / "a")
    restored = await name_in(tmp_path / "a", opened)

    assert name != restored == await name_in(tmp_path / "a", opened)


async def test_a_file_that_is_replaced_by_a_copy_of_itself_is_another_replica(tmp_path: Path) -> None:
    """What the page on servers says to do after a snapshot of a whole machine."""
    async with SQLiteJournal(tmp_path) as journal:
        name, path = journal.replica_id, journal.path
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").rename(path)
    async with SQLiteJournal(tmp_path) as journal:
        assert name != journal.replica_id


async def test_a_journal_of_an_earlier_release_keeps_its_name_and_learns_when_its_file_was_born(tmp_path: Path) -> None:
    async with SQLiteJournal(tmp_path) as journal:
        name, mark = journal.replica_id, file_mark(journal.path)
        await journal.transact(lambda tx: tx.put_setting(_HOME, mark.partition(" born")[0].encode()))
    async with SQLiteJournal(tmp_path) as journal:
        kept = journal.replica_id
        learnt = await journal.read(lambda tx: tx.get_setting(_HOME))

    assert (name, mark.encode()) == (kept, learnt)


# -- marks ----------------------------------------------------------------------------------------------
def test_a_mark_stays_when_the_file_is_written_and_renamed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    mark = file_mark(path)
    path.write_text("two")
    path = path.rename(tmp_path / "b")

    assert mark == file_mark(path)
    assert not is_same_mark(mark, file_mark(Path(shutil.copy2(path, tmp_path / "c"))))


@pytest.mark.parametrize(
    ("kept", "found", "same"),
    [
        ("inode 1 born 2.5", "inode 1 born 2.5", True),
        ("inode 1", "inode 1 born 2.5", True),
        ("inode 1 born 2.5", "inode 1", True),
        ("inode 1 born 2.5", "inode 1 born 2.6", False),
        ("inode 1", "inode 12", False),
        ("inode 1", "inode 12 born 2.5", False),
        ("redis cache:6379/0 agentlayers", "redis cache:6379/0 agentlayers", True),
        ("redis cache:6379/0 agentlayers", "redis cache:6379/0 agentlayers blue", False),
    ],
)
def test_marks_are_compared_by_what_both_know(kept: str, found: str, same: bool) -> None:
    assert same is is_same_mark(kept, found)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_file_system_that_knows_no_births_gives_the_number_alone() -> None:
    assert file_mark(Path("/proc/self/status")).startswith("inode ")
    assert "born" not in file_mark(Path("/proc/self/status"))


# -- Redis ----------------------------------------------------------------------------------------------
@pytest.fixture
def servers() -> Iterator[list[redis_server.RedisServer]]:
    with redis_server.running() as one, redis_server.running() as two:
        yield [one, two]


async def redis_name(url: str, **options: str) -> str:
    async with RedisKeyValueStore(url, **options) as store, KeyValueJournal(store) as journal:
        return journal.replica_id


async def test_data_that_goes_on_at_another_server_or_is_called_another_copy_is_another_replica(
    servers: list[redis_server.RedisServer],
) -> None:
    one, two = (server.url for server in servers)
    name = await redis_name(one)
    async with RedisKeyValueStore(one) as source, RedisKeyValueStore(two) as target:
        async for page in source.scan():
            await target.batch([Put(*pair) for pair in page])
    elsewhere = await redis_name(two)
    # What only its operator knows: a dump that was put back at the same address.
    put_back = await redis_name(one, place="after the fire")

    assert 3 == len({name, elsewhere, put_back})
    assert [elsewhere, put_back] == [await redis_name(two), await redis_name(one, place="after the fire")]


async def test_a_restart_of_the_server_and_another_way_to_log_in_change_no_name(
    servers: list[redis_server.RedisServer],
) -> None:
    server = servers[0]
    name = await redis_name(server.url)
    server.command("SAVE")
    server.kill()
    server.start()

    assert name == await redis_name(server.url.replace("unix://", "unix://default@"))
