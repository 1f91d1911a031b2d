"""A disk that is full, read-only or damaged: one clear error each, nothing else lost, and on it goes afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from agentlayers.errors import AgentLayersError, StorageCorruptionError, StorageError, StorageUnavailableError
from agentlayers.journal.compaction import ByCount
from agentlayers.journal.sqlite import JOURNAL_FILE, SQLiteJournal
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.export import export_lines
from agentlayers.storage.import_ import import_export
from agentlayers.storage.verify import VerifyReport
from agentlayers.storage.verify import verify as verify_replica
from helpers.small_disk import SmallDisk, mounted
from helpers.store_replica import Replica, open_replica


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", size="2m") as disk:
        yield disk


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("written")
    asyncio.run(write_replica(directory))
    return directory


async def write_replica(directory: Path, count: int = 120) -> None:
    async with open_replica(SQLiteJournal(directory, durability="normal")) as replica:
        for number in range(count):
            await replica.chat.append(f"s{number % 3}", {"text": f"message {number} {'x' * 300}"})
            if number % 4 == 0:
                content = "c" * 500
                record = ArtifactRecord(id=f"a{number % 7}", session_id="s1", kind="file", content=content)
                await replica.artifacts.put(record)
            if number % 5 == 0:
                await replica.audit.hook_event(hook="Stop", outcome="success", session_id="s1")


async def use(directory: Path) -> None:
    """Read everything through the stores, and append."""
    async with open_replica(SQLiteJournal(directory, durability="normal")) as replica:
        for session in ("s0", "s1", "s2"):
            await replica.chat.list(session, limit=1000)
        await replica.audit.entries()
        await replica.artifacts.list("s1")
        await replica.journal.entries(entries_max=10_000)
        await replica.chat.append("s1", {"text": "more"})


def verify(directory: Path) -> VerifyReport:
    return verify_replica(directory, now_ms=int(time.time() * 1000))


async def messages(replica: Replica, session: str = "s") -> list[bytes]:
    return [event.entry_id for event in await replica.chat.list(session, limit=100_000)]


async def until_full(append: Callable[[], Awaitable[object]]) -> StorageUnavailableError:
    """Append until the disk is full and emptying the log did not help."""
    errors = list[StorageUnavailableError]()
    while len(errors) < 3:
        try:
            await append()
            errors.clear()
        except StorageUnavailableError as error:
            errors.append(error)
    return errors[-1]


def take_all_room(disk: SmallDisk) -> Path:
    filler = disk.path / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass
    return filler


def command(*arguments: str | Path, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    line = [*before, sys.executable, "-m", "agentlayers", "journal", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def is_refused(outcome: subprocess.CompletedProcess[str], *words: str) -> bool:
    """Tell whether a command ended with one error line that has these words, and the status of storage."""
    lines = outcome.stderr.strip().splitlines()
    is_clear = len(lines) == 1 and lines[0].startswith("error: ") and all(word in lines[0] for word in words)
    return outcome.returncode == 4 and is_clear


# -- a full disk --------------------------------------------------------------------------------------------
async def test_a_full_disk_refuses_and_the_same_process_goes_on_when_there_is_room(disk: SmallDisk) -> None:
    told = list[bytes]()
    async with open_replica(SQLiteJournal(disk.path / "replica")) as replica:

        async def append() -> None:
            told.append((await replica.chat.append("s", {"text": "x" * 2000})).entry_id)

        error = await until_full(append)
        assert "full" in str(error)
        with pytest.raises(StorageUnavailableError, match="full"):
            await replica.artifacts.put(ArtifactRecord(id="a", session_id="s", kind="file", content="c" * 300_000))
        meanwhile = await messages(replica)
        disk.change("size=64m")
        await append()
        after = await messages(replica)
    report = verify(disk.path / "replica")

    assert error.retryable
    assert error.path == str(disk.path / "replica" / JOURNAL_FILE)
    assert len(told) > 20
    assert meanwhile == told[:-1]
    assert after == told
    assert report.findings == []


async def test_of_appends_that_share_a_commit_on_a_full_disk_none_is_told_wrongly(disk: SmallDisk) -> None:
    told, refused = list[bytes](), 0
    async with open_replica(SQLiteJournal(disk.path / "replica")) as replica:
        while not refused:
            appends = [replica.chat.append("s", {"text": "x" * 5000}) for _ in range(16)]
            for result in await asyncio.gather(*appends, return_exceptions=True):
                if isinstance(result, BaseException):
                    assert isinstance(result, StorageUnavailableError), result
                    refused += 1
                else:
                    told.append(result.entry_id)
        held = await messages(replica)

    assert sorted(held) == sorted(told)
    assert verify(disk.path / "replica").findings == []


@pytest.mark.parametrize("is_new", [False, True], ids=["there", "new"])
async def test_a_replica_does_not_open_on_a_full_disk_but_does_later(
    disk: SmallDisk, written: Path, is_new: bool
) -> None:
    directory = disk.path / "replica"
    if not is_new:
        shutil.copytree(written, directory)
    filler = take_all_room(disk)
    with pytest.raises(StorageUnavailableError) as caught:
        await use(directory)
    status = command("import", directory, disk.path / "filler").returncode
    filler.unlink()
    await use(directory)

    assert caught.value.path == str(directory / JOURNAL_FILE)
    assert status == 4
    assert verify(directory).files[0].entries == (1 if is_new else verify(written).files[0].entries + 1)


async def test_an_import_that_ran_out_of_room_is_finished_by_the_next(disk: SmallDisk, tmp_path: Path) -> None:
    await write_replica(tmp_path / "source", 3000)
    export = tmp_path / "export.jsonl"
    export.write_text("".join(f"{line}\n" for line in export_lines(tmp_path / "source")), encoding="utf-8")
    with pytest.raises(StorageUnavailableError, match="full"):
        await import_export(disk.path / "replica", export)
    part = verify(disk.path / "replica")
    disk.change("size=64m")
    await import_export(disk.path / "replica", export)

    assert part.findings == []
    assert 0 < part.files[0].entries < 3000
    assert verify(disk.path / "replica").digest == verify(tmp_path / "source").digest


async def test_compaction_makes_room_as_soon_as_there_is_a_little(disk: SmallDisk) -> None:
    async with open_replica(SQLiteJournal(disk.path / "replica")) as replica:
        await until_full(lambda: replica.chat.append("s", {"text": "x" * 2000}))
        disk.change("size=4m")
        report = await replica.journal.compact("chat_history", ByCount(10))
        for _ in range(10):
            await replica.chat.append("s", {"text": "x" * 2000})

    assert report.after == 10
    assert verify(disk.path / "replica").findings == []


# -- what may not be written or read ------------------------------------------------------------------------
async def test_a_replica_on_a_read_only_medium_is_not_opened_but_can_be_looked_at(
    disk: SmallDisk, written: Path
) -> None:
    directory = disk.path / "replica"
    directory.mkdir()
    shutil.copy(written / JOURNAL_FILE, directory)
    disk.change("ro")
    with pytest.raises(StorageUnavailableError, match="writable") as caught:
        await use(directory)
    looked = command("verify", directory, "--json")
    refused = command("compact", directory, "--keep-count", "5", "--yes")
    lines = list(export_lines(directory))
    disk.change("rw")
    await use(directory)

    assert caught.value.path == str(directory / JOURNAL_FILE)
    assert json.loads(looked.stdout)["good"], looked.stderr
    assert is_refused(refused, "writable", str(directory)), refused.stderr
    assert lines == list(export_lines(written))


@pytest.fixture
def as_any_user() -> list[str]:
    """What to start a command with so that it has to obey the modes of files, which root need not."""
    if os.geteuid() != 0:
        return []
    powers = "-dac_override,-dac_read_search"
    prefix = ["setpriv", "--bounding-set", powers, "--inh-caps", powers]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], check=False).returncode != 0:
        pytest.skip("root cannot be made to obey the modes of files here")
    return prefix


@pytest.mark.parametrize(
    ("mode", "directory_mode", "arguments"),
    [
        (0o000, 0o700, ["stats"]),
        (0o400, 0o700, ["compact", "--keep-count", "5", "--yes"]),
        (0o600, 0o500, ["compact", "--keep-count", "5", "--yes"]),
    ],
    ids=["file unreadable", "file read-only", "directory read-only"],
)
def test_what_the_user_may_not_touch_is_said_and_works_afterwards(
    written: Path, tmp_path: Path, as_any_user: list[str], mode: int, directory_mode: int, arguments: list[str]
) -> None:
    directory = tmp_path / "replica"
    directory.mkdir()
    shutil.copy(written / JOURNAL_FILE, directory)
    content = (directory / JOURNAL_FILE).read_bytes()
    (directory / JOURNAL_FILE).chmod(mode)
    directory.chmod(directory_mode)
    refused = command(arguments[0], directory, *arguments[1:], before=as_any_user)
    unchanged = (directory / JOURNAL_FILE).read_bytes() == content
    directory.chmod(0o700)
    (directory / JOURNAL_FILE).chmod(0o600)
    allowed = command(arguments[0], directory, *arguments[1:], before=as_any_user)

    assert is_refused(refused, str(directory)), refused.stderr
    assert unchanged
    assert allowed.returncode == 0, allowed.stderr


# -- damage -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [0, 1, 15, 60, 100, 512, 4095, 4096, 4097, 0.3, 0.6, -8192, -4096, -1])
async def test_a_truncated_file_is_refused_and_a_backup_of_it_opens(written: Path, tmp_path: Path, keep: float) -> None:
    directory = Path(shutil.copytree(written, tmp_path / "replica"))
    path = directory / JOURNAL_FILE
    whole = path.read_bytes()
    size = int(len(whole) * keep if 0 < keep < 1 else keep + (len(whole) if keep < 0 else 0))
    os.truncate(path, size)
    with pytest.raises(StorageCorruptionError) as caught:
        await use(directory)
    after = path.read_bytes()
    by_command = command("stats", directory) if keep in (0, 100, 0.6) else None
    path.write_bytes(whole)
    await use(directory)

    assert "restore it from a backup" in str(caught.value)
    assert after == whole[:size]
    assert by_command is None or is_refused(by_command, str(path)), by_command.stderr


async def test_what_is_left_of_a_cut_log_is_a_whole_beginning(tmp_path: Path) -> None:
    """A log that lost its end, as a power failure can leave it, gives the commits before the cut and no part of one."""
    source = tmp_path / "source"
    async with open_replica(SQLiteJournal(source, durability="normal")) as replica:
        for number in range(20):
            await replica.chat.append_all("s", [{"text": f"{number}"}] * 3)
        expected = await messages(replica)
        log = (source / f"{JOURNAL_FILE}-wal").read_bytes()
        content = (source / JOURNAL_FILE).read_bytes()
    counts, chance = list[int](), random.Random(1)
    places = sorted(chance.randrange(len(log)) for _ in range(25))
    for number, place in enumerate([*places, len(log)]):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / JOURNAL_FILE).write_bytes(content)
        (directory / f"{JOURNAL_FILE}-wal").write_bytes(log[:place])
        async with open_replica(SQLiteJournal(directory, durability="normal")) as replica:
            held = await messages(replica)
        assert verify(directory).is_good
        assert held == expected[: len(held)]
        counts.append(len(held))

    assert counts == sorted(counts)
    assert all(count % 3 == 0 for count in counts)
    assert counts[-1] == 60
    assert len(set(counts)) > 5


def flip(source: Path, directory: Path, chance: random.Random, *, checksums: bool) -> None:
    """Copy a replica and flip one bit, sometimes near the start, where the headers are."""
    directory.mkdir()
    path = directory / JOURNAL_FILE
    shutil.copy(source / JOURNAL_FILE, path)
    if not checksums:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE entry SET checksum = NULL")
    data = bytearray(path.read_bytes())
    data[chance.randrange(200 if chance.random() < 0.2 else len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def flip_outcome(directory: Path, digest: str) -> str:
    """Verify a replica, then use it; return what that told of it."""
    try:
        report = verify(directory)
        told = "fault" if not report.is_good else ("good" if report.digest.hex == digest else "altered")
    except StorageError as error:
        told = type(error).__name__
    try:
        asyncio.run(use(directory))
    except AgentLayersError as error:
        return f"{told}, {type(error).__name__}" if isinstance(error, StorageError) else f"unclear: {error!r}"
    return told


def flips(source: Path, scratch: Path, count: int, *, checksums: bool) -> Counter[str]:
    digest, chance, told = verify(source).digest.hex, random.Random(3), Counter[str]()
    for number in range(count):
        directory = scratch / f"{number}-{checksums}"
        flip(source, directory, chance, checksums=checksums)
        told[flip_outcome(directory, digest)] += 1
        shutil.rmtree(directory)
    return told


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_flipped_bit_is_told_wherever_it_is(written: Path, tmp_path: Path, count: int) -> None:
    """By a storage error, or by ``journal verify``; what neither notices changed no entry and no read model."""
    told = flips(written, tmp_path, count, checksums=True)

    assert not [what for what in told if "altered" in what or "unclear" in what], told
    assert told["fault, StorageCorruptionError"] > 5


def test_without_checksums_a_flipped_bit_can_alter_an_entry_unseen(written: Path, tmp_path: Path) -> None:
    """So the test above can fail."""
    told = flips(written, tmp_path, 60, checksums=False)

    assert [what for what in told if "altered" in what or "unclear" in what]


async def told_or_read(directory: Path) -> list[object]:
    """Read what the read models show; a read that tells of damage and what to do about it stands as "told"."""
    found = list[object]()
    async with open_replica(SQLiteJournal(directory)) as replica:
        for read in (
            lambda: replica.chat.list("s1", limit=1000),
            replica.chat.sessions,
            lambda: replica.artifacts.list("s1"),
            lambda: replica.artifacts.get("a0", session_id="s1"),
            replica.index.list,
            lambda: replica.index.list(order_by="created_at"),
            replica.index.list_ids,
            lambda: replica.index.get("s1"),
        ):
            try:
                found.append(await read())
            except StorageCorruptionError as error:
                found.append("told" if "rebuild" in str(error) else str(error))
    return found


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("CAST(substr(value, 1, length(value) - 1) || x'b2' AS BLOB)", id="other bytes"),
        pytest.param("substr(value, 1, length(value) / 2)", id="half is gone"),
        pytest.param("x''", id="all is gone"),
    ],
)
async def test_a_damaged_read_model_is_told_and_made_anew(written: Path, tmp_path: Path, damage: str) -> None:
    directory = Path(shutil.copytree(written, tmp_path / "replica"))
    before = await told_or_read(directory)
    with closing(sqlite3.connect(directory / JOURNAL_FILE, isolation_level=None)) as connection:
        connection.execute(f"UPDATE value SET value = {damage} WHERE length(value) > 1")
    damaged = await told_or_read(directory)
    rebuilt = command("rebuild", directory)

    assert "told" in damaged
    assert [what for what in damaged if isinstance(what, str) and what != "told"] == []
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert await told_or_read(directory) == before
    assert verify(directory).is_good


async def test_a_damaged_entry_is_named_and_the_others_are_read(written: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(written, tmp_path / "replica"))
    with closing(sqlite3.connect(directory / JOURNAL_FILE, isolation_level=None)) as connection:
        where = "event = 'chat_event' AND primary_key LIKE 's1:%' ORDER BY position LIMIT 1"
        (name, payload) = connection.execute(f"SELECT hex(id), payload FROM entry WHERE {where}").fetchone()
        damaged = payload.replace(b"message", b"massage")
        connection.execute("UPDATE entry SET payload = ? WHERE id = ?", (damaged, bytes.fromhex(name)))
    async with open_replica(SQLiteJournal(directory)) as replica:
        others = await replica.chat.list("s0", limit=1000)
        with pytest.raises(StorageCorruptionError, match=name.lower()):
            await replica.journal.entries(entries_max=1000)
        await replica.chat.append("s1", {"text": "more"})
    shown = command("verify", directory)
    exported = command("export", directory, "-o", tmp_path / "export.jsonl")

    assert len(others) == 40
    assert shown.returncode == 1
    assert f"entry {name.lower()}" in shown.stdout
    assert is_refused(exported, name.lower()), exported.stderr
