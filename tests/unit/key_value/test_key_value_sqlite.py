"""The SQLite file of a key-value store: mode, group commit, damage, and disks that refuse."""
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlayers.errors import MigrationError, StorageCorruptionError, StorageError, StorageUnavailableError
from agentlayers.key_value import Put, SQLiteKeyValueStore
from agentlayers.key_value.expectation import Expectation
from agentlayers.key_value.key_value_store import Changes
from agentlayers.key_value.sqlite_file import FILE_NAME, KEY_VALUE_FORMAT
from agentlayers.testing.contracts.key_value_store import numbered, read_all
from helpers import small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[small_disk.SmallDisk]:
    with small_disk.mounted(tmp_path / "disk", size="4m") as disk:
        yield disk


async def fill(directory: Path, count: int = 500) -> Path:
    async with SQLiteKeyValueStore(directory) as store:
        await store.batch([Put(key, value) for key, value in numbered(count, size=300).items()])
    return directory / FILE_NAME


async def opening(directory: Path) -> StorageError:
    with pytest.raises(StorageError) as caught:
        async with SQLiteKeyValueStore(directory):
            pass
    return caught.value


async def test_directory_and_files_are_for_this_user_alone(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "store"
    async with SQLiteKeyValueStore(directory) as store:
        await store.put(b"key", b"value")
        modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in directory.iterdir()}

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert modes == dict.fromkeys((FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"), "0o600")


async def test_the_file_is_in_wal_mode_and_every_commit_is_synced(tmp_path: Path) -> None:
    connection = KEY_VALUE_FORMAT.open(tmp_path / FILE_NAME)

    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


async def test_closing_leaves_one_file(tmp_path: Path) -> None:
    await fill(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


async def test_concurrent_writes_share_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteKeyValueStore(tmp_path) as store:
        medium = store._medium
        sizes: list[int] = []
        write = medium.write

        def counted(changes: Changes, expected: Expectation) -> None:
            sizes.append(len(changes))
            write(changes, expected)

        monkeypatch.setattr(medium, "write", counted)
        await asyncio.gather(*(store.put(key, value) for key, value in numbered(400).items()))

        assert sum(sizes) == 400
        assert len(sizes) < 40


async def test_of_writes_that_share_a_commit_the_last_one_wins(tmp_path: Path) -> None:
    async with SQLiteKeyValueStore(tmp_path) as store:
        await asyncio.gather(*(store.put(b"key", b"%d" % number) for number in range(50)))

        assert await store.get(b"key") == b"49"


async def test_a_file_cut_short_is_reported(tmp_path: Path) -> None:
    path = await fill(tmp_path)
    whole = path.read_bytes()
    for size in (0, 100, 4096, len(whole) // 2):
        path.write_bytes(whole[:size])
        error = await opening(tmp_path)

        assert isinstance(error, StorageCorruptionError), size
        assert FILE_NAME in str(error)
        assert path.read_bytes() == whole[:size]


async def test_flipped_bytes_never_become_a_wrong_value(tmp_path: Path) -> None:
    path = await fill(tmp_path, 60)
    whole = path.read_bytes()
    expected = numbered(60, size=300)
    noticed = 0
    for position in range(3, len(whole), 997):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            async with SQLiteKeyValueStore(tmp_path) as store:
                found = dict(await read_all(store))
                assert found.items() <= expected.items()
        except StorageError:
            noticed += 1

    assert noticed > 5


async def test_one_damaged_value_spares_the_other_keys(tmp_path: Path) -> None:
    path = await fill(tmp_path, 3)
    whole = path.read_bytes()
    position = whole.index(b"1:" + b"v" * 20)
    path.write_bytes(whole[:position] + b"?" + whole[position + 1 :])
    async with SQLiteKeyValueStore(tmp_path) as store:
        with pytest.raises(StorageCorruptionError, match="key:000001"):
            await store.get(b"key:000001")
        with pytest.raises(StorageCorruptionError, match="key:000001"):
            await read_all(store)

        assert await store.get(b"key:000002") == numbered(3, size=300)[b"key:000002"]


async def test_a_file_that_is_no_database_is_reported_and_kept(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"my notes " * 100)

    assert isinstance(await opening(tmp_path), StorageCorruptionError)
    assert (tmp_path / FILE_NAME).read_bytes() == b"my notes " * 100


async def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE pair (mine)")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    error = await opening(tmp_path)

    assert isinstance(error, MigrationError)
    assert "no agentlayers key-value store" in str(error)
    assert (tmp_path / FILE_NAME).read_bytes() == before


async def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = await fill(tmp_path, 1)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    error = await opening(tmp_path)

    assert isinstance(error, MigrationError)
    assert "a newer agentlayers" in str(error)


async def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert isinstance(await opening(tmp_path / "file"), StorageUnavailableError)


async def test_a_file_that_another_process_keeps_locked_is_an_error_that_may_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlayers.sqlite_file.BUSY_SECONDS_MAX", 0.1)
    async with SQLiteKeyValueStore(tmp_path) as store:
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailableError, match="another process") as caught:
            await store.put(b"key", b"value")
        other.execute("ROLLBACK")
        other.close()
        await store.put(b"key", b"value")

        assert caught.value.retryable
        assert await store.get(b"key") == b"value"


async def test_a_read_only_disk_is_an_error_that_harms_nothing(disk: small_disk.SmallDisk) -> None:
    async with SQLiteKeyValueStore(disk.path / "store") as store:
        await store.put(b"key", b"value")
    disk.change("ro")

    assert isinstance(await opening(disk.path / "store"), StorageUnavailableError)
    assert isinstance(await opening(disk.path / "new"), StorageUnavailableError)
    disk.change("rw")
    async with SQLiteKeyValueStore(disk.path / "store") as store:
        assert await store.get(b"key") == b"value"


async def test_a_page_costs_the_event_loop_no_turn_for_each_row(tmp_path: Path) -> None:
    """Each row step gives up the interpreter lock; beside busy Python code that would take seconds."""
    await fill(tmp_path, 5_000)
    async with SQLiteKeyValueStore(tmp_path) as store:
        is_done = False

        async def be_busy() -> None:
            while not is_done:
                sum(range(1_000))
                await asyncio.sleep(0)

        busy = asyncio.create_task(be_busy())
        async with asyncio.timeout(5):
            found = await read_all(store)
        is_done = True
        await busy

        assert len(found) == 5_000
