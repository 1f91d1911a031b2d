"""Files of a key-value store: names, modes, crashes at every step, damage, and disks that refuse."""
# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentlayers.errors import MigrationError, StorageCorruptionError, StorageUnavailableError
from agentlayers.key_value import Delete, FileSystemKeyValueStore, Put
from agentlayers.key_value.file_lock import locked
from agentlayers.key_value.file_name import IS_NAME, file_name, key_of, prefix_of
from agentlayers.testing.contracts.key_value_store import read_all
from helpers import key_value_crash, small_disk

KEYS = st.binary(max_size=4) | st.sampled_from([b"x" * size for size in (119, 120, 121, 500, 4096)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


def value_files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "values").rglob("*") if path.is_file())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[small_disk.SmallDisk]:
    with small_disk.mounted(tmp_path / "disk", size="4m") as disk:
        yield disk


# -- names -------------------------------------------------------------------------------------------------
@given(KEYS)
def test_a_name_fits_every_file_system_and_is_ours(key: bytes) -> None:
    name = file_name(key)

    assert len(name) <= 242
    assert name == name.lower()
    assert name.isascii()
    assert IS_NAME(name)


@given(KEYS)
@example(b"")
def test_a_name_gives_the_key_or_its_beginning_back(key: bytes) -> None:
    found = key_of(file_name(key))

    assert found == key if len(key) <= 120 else found is None
    assert key.startswith(prefix_of(file_name(key)))


@given(KEYS, KEYS)
@example(b"x" * 4096, b"x" * 4095)
def test_different_keys_have_different_names(one: bytes, other: bytes) -> None:
    assert (one == other) == (file_name(one) == file_name(other))


# -- files -------------------------------------------------------------------------------------------------
async def test_directories_and_files_are_for_this_user_alone(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"key", b"value")
        await store.batch([Put(b"a", b"1"), Put(b"b", b"2")])
        modes = {(path.is_dir(), oct(stat.S_IMODE(path.stat().st_mode))) for path in [root, *root.rglob("*")]}

    assert modes == {(True, "0o700"), (False, "0o600")}


async def test_there_is_one_file_for_each_key_and_none_for_a_deleted_one(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.batch([Put(b"a", b"1"), Put(b"b", b"2"), Put(b"c", b"3")])
        await store.put(b"a", b"again")
        await store.delete(b"b")

        assert {path.name for path in value_files(root)} == {file_name(b"a"), file_name(b"c")}


async def test_keys_with_a_common_prefix_spread_over_the_directories(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.batch([Put(b"chat_history\x00%06d" % number, b"") for number in range(200)])

        assert len(list((root / "values").iterdir())) > 100


async def test_what_others_put_into_the_directory_is_no_key(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"key", b"value")
        shard = value_files(root)[0].parent
        (shard / ".DS_Store").write_bytes(b"x")
        (shard / "kABC").write_bytes(b"x")
        (root / "values" / "notes.txt").write_bytes(b"x")

        assert await read_all(store) == [(b"key", b"value")]


async def test_a_reader_that_comes_while_a_batch_waits_queues_behind_it(root: Path) -> None:
    """So readers in a loop, each beginning before the last has ended, never keep a batch out."""
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"a", b"old")
        with locked(root / "reader.lock", exclusive=False):
            batch = asyncio.create_task(store.batch([Put(b"a", b"new"), Put(b"b", b"new")]))
            while not (root / "intents" / "ready").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # Time for the writer to get from its intent to the lock.
            await asyncio.sleep(0.2)
            reader = asyncio.create_task(read_all(store))
            await asyncio.sleep(0.2)

            assert not batch.done()
            assert not reader.done()
        await batch

        assert await reader == [(b"a", b"new"), (b"b", b"new")]


# -- durability --------------------------------------------------------------------------------------------
class Trace:
    """What was done to files, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.steps: list[str] = []
        self._root = root
        real: dict[str, Any] = {name: getattr(os, name) for name in ("fsync", "rename", "unlink")}

        def fsync(descriptor: int) -> None:
            self.steps.append(f"sync {self._name(Path(f'/proc/self/fd/{descriptor}').readlink())}")
            real["fsync"](descriptor)

        def rename(source: Path, target: Path) -> None:
            self.steps.append(f"move {self._name(source)} {self._name(target)}")
            real["rename"](source, target)

        def unlink(path: Path) -> None:
            self.steps.append(f"unlink {self._name(path)}")
            real["unlink"](path)

        for name, replacement in (("fsync", fsync), ("rename", rename), ("unlink", unlink)):
            monkeypatch.setattr(os, name, replacement)

    def _name(self, path: object) -> str:
        parts = Path(str(path)).relative_to(self._root).parts
        return "values" if parts[0] == "values" and len(parts) == 2 else "/".join(parts[:2])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are named through /proc")
class TestOrder:
    async def test_a_put_is_synced_before_it_replaces_and_its_directory_after(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with FileSystemKeyValueStore(root) as store:
            await store.put(b"key", b"old")
            trace = Trace(monkeypatch, root.resolve())
            await store.put(b"key", b"new")
            monkeypatch.undo()
        shard = value_files(root)[0].parent.name

        assert trace.steps == ["sync temporary/0", f"move temporary/0 values/{shard}", "sync values"]

    async def test_a_deletion_is_synced(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with FileSystemKeyValueStore(root) as store:
            await store.put(b"key", b"old")
            shard = value_files(root)[0].parent.name
            trace = Trace(monkeypatch, root.resolve())
            await store.delete(b"key")
            monkeypatch.undo()

        assert trace.steps == [f"unlink values/{shard}", "sync values"]

    async def test_a_batch_is_announced_durably_before_it_begins_and_forgotten_after_it_is_durable(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with FileSystemKeyValueStore(root) as store:
            await store.put(b"a", b"old")
            await store.put(b"b", b"old")
            a, b = (root / "values" / path.parent.name for path in value_files(root))
            trace = Trace(monkeypatch, root.resolve())
            await store.batch([Put(b"a", b"new"), Delete(b"b")])
            monkeypatch.undo()

        assert sorted(trace.steps[6:8]) == sorted([f"move temporary/0 values/{a.name}", f"unlink values/{b.name}"]) or (
            sorted(trace.steps[6:8]) == sorted([f"move temporary/0 values/{b.name}", f"unlink values/{a.name}"])
        )
        assert trace.steps[:6] + trace.steps[8:] == [
            "sync temporary/0",
            "sync temporary/intent",
            "sync temporary",
            "move temporary/intent intents/ready",
            "sync intents",
            "move intents/ready intents/applying",
            "move intents/applying intents/applied",
            "sync values",
            "sync values",
            "unlink intents/applied",
            "sync intents",
        ]


# -- crashes -----------------------------------------------------------------------------------------------
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("extent", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_a_crash_before_any_change_to_a_file_leaves_all_or_nothing(extent: str) -> None:
    # In memory where there is such a place: a kill shows the same there, and nothing has to wait for a disk.
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as scratch:
        done = subprocess.run(
            [sys.executable, key_value_crash.__file__, scratch, extent],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["first openings"] > 10
    for name in ("batch", "put", "new key", "delete"):
        # In the order of the crashes: first nothing, from some step on everything.
        assert report[name] == sorted(report[name], key=["before", "after"].index)
        assert {"before", "after"} == set(report[name])
    assert len(report["batch"]) > (200 if extent == "all" else 40)


async def test_what_a_crash_left_half_written_is_swept_up(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"key", b"value")
    (root / "temporary" / "0").write_bytes(b"ALKV half")
    (root / "temporary" / "intent").write_bytes(b"half")
    async with FileSystemKeyValueStore(root) as store:
        assert await read_all(store) == [(b"key", b"value")]
        assert list((root / "temporary").iterdir()) == []


# -- damage ------------------------------------------------------------------------------------------------
async def test_a_flipped_byte_anywhere_is_noticed_and_spares_the_other_keys(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"key", b"a value")
        await store.put(b"other", b"value")
        path = next(path for path in value_files(root) if path.name == file_name(b"key"))
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(StorageCorruptionError) as caught:
                await store.get(b"key")
            with pytest.raises(StorageCorruptionError):
                await read_all(store)

            assert caught.value.path == str(path)
            assert await store.get(b"other") == b"value"


async def test_a_truncated_file_is_noticed(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"key", b"a value")
        await store.put(b"l" * 500, b"a long key")
        for path in value_files(root):
            whole = path.read_bytes()
            for size in range(len(whole)):
                path.write_bytes(whole[:size])
                with pytest.raises(StorageCorruptionError):
                    await read_all(store)
            path.write_bytes(whole)


async def test_a_file_under_the_name_of_another_key_is_noticed(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"one", b"1")
        await store.put(b"two", b"2")
        one, two = value_files(root)
        one.write_bytes(two.read_bytes())

        with pytest.raises(StorageCorruptionError, match="another key"):
            await read_all(store)


async def test_a_damaged_key_can_be_written_again(root: Path) -> None:
    async with FileSystemKeyValueStore(root) as store:
        await store.put(b"key", b"value")
        value_files(root)[0].write_bytes(b"damage")
        await store.put(b"key", b"again")

        assert await store.get(b"key") == b"again"


@pytest.mark.parametrize(
    "damage", [b"", b"half", b"0" * 64 + b"\n{}\n", b"\xff\xfe"], ids=["empty", "half", "digest", "no text"]
)
async def test_a_damaged_intent_is_reported_and_kept(root: Path, damage: bytes) -> None:
    async with FileSystemKeyValueStore(root):
        pass
    (root / "intents" / "ready").write_bytes(damage)
    with pytest.raises(StorageCorruptionError, match="intents/ready"):
        async with FileSystemKeyValueStore(root):
            pass

    assert (root / "intents" / "ready").read_bytes() == damage


async def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MigrationError, match="a directory of its own"):
        async with FileSystemKeyValueStore(tmp_path):
            pass

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


async def test_a_store_of_a_newer_release_is_refused(root: Path) -> None:
    async with FileSystemKeyValueStore(root):
        pass
    (root / "FORMAT").write_bytes(b"agentlayers key-value store 2\n")
    with pytest.raises(MigrationError, match="newer agentlayers"):
        async with FileSystemKeyValueStore(root):
            pass


async def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailableError, match="cannot open"):
        async with FileSystemKeyValueStore(tmp_path / "file"):
            pass


# -- disks that refuse -------------------------------------------------------------------------------------
async def test_a_read_only_disk_can_be_read_but_not_written(disk: small_disk.SmallDisk) -> None:
    async with FileSystemKeyValueStore(disk.path / "store") as store:
        await store.put(b"key", b"value")
        disk.change("ro")
        with pytest.raises(StorageUnavailableError, match=r"read-only|Read-only"):
            await store.put(b"key", b"new")
        with pytest.raises(StorageUnavailableError):
            await store.delete(b"key")

        assert await store.get(b"key") == b"value"
        assert await read_all(store) == [(b"key", b"value")]
    with pytest.raises(StorageUnavailableError, match="cannot open"):
        async with FileSystemKeyValueStore(disk.path / "new"):
            pass
    async with FileSystemKeyValueStore(disk.path / "store") as store:
        assert await store.get(b"key") == b"value"


async def test_a_full_disk_leaves_no_temporary_file(disk: small_disk.SmallDisk) -> None:
    async with FileSystemKeyValueStore(disk.path / "store") as store:
        with pytest.raises(StorageUnavailableError, match="No space"):
            await store.batch([Put(b"%d" % number, bytes(1 << 20)) for number in range(8)])

        assert list((disk.path / "store" / "temporary").iterdir()) == []
        assert value_files(disk.path / "store") == []
