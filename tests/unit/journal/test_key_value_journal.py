"""A journal in a key-value store: one writer at a time, and nothing acknowledged is lost with the process."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentlayers.errors import LayerError, MigrationError, StateError
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.journal.key_value.fence import Owner
from agentlayers.journal.key_value.keys import OWNER
from agentlayers.key_value import KeyValueCapabilities, MemoryKeyValueStore
from agentlayers.key_value.keys import pack_key
from helpers import key_value_journal_writer
from helpers.key_value_journal_check import check_indexes
from helpers.key_value_journal_writer import KEYED, store_of

MEDIA = ("files", "sqlite")


class NoConditions(MemoryKeyValueStore):
    """A medium that cannot make a write depend on what is there."""

    capabilities: ClassVar[KeyValueCapabilities] = KeyValueCapabilities(
        ordered_scans=True,
        atomic_batches=True,
        conditional_batches=False,
        durable=False,
        shared_between_processes=False,
    )


async def write(journal: KeyValueJournal, text: str) -> bytes:
    return (await journal.write("notes", "saved", text, {"text": text})).id


async def ids(journal: KeyValueJournal) -> set[bytes]:
    return {stored.entry.id for stored in await journal.entries("notes", entries_max=100_000)}


def test_a_medium_that_is_too_weak_is_refused_before_it_is_opened() -> None:
    with pytest.raises(LayerError, match=r"a journal cannot be kept in .* choose another key-value store"):
        KeyValueJournal(NoConditions())


@pytest.mark.parametrize("medium", MEDIA)
async def test_what_was_written_is_there_when_it_is_opened_again(medium: str, tmp_path: Path) -> None:
    written = set[bytes]()
    for opening in range(3):
        async with store_of(medium, tmp_path) as store, KeyValueJournal(store) as journal:
            await journal.register(KEYED)
            assert await ids(journal) == written
            written.add(await write(journal, f"opening {opening}"))
    async with store_of(medium, tmp_path) as store:
        assert len(await check_indexes(store)) == 3


async def test_a_journal_that_is_opened_again_is_taken_over_and_loses_nothing() -> None:
    async with MemoryKeyValueStore() as store, KeyValueJournal(store) as first:
        await first.register(KEYED)
        written = {await write(first, "by the first")}
        async with KeyValueJournal(store) as second:
            await second.register(KEYED)
            with pytest.raises(StateError, match=r"was taken over by .* one writer at a time"):
                await write(first, "too late")
            written.add(await write(second, "by the second"))

            assert await ids(second) == written
        await check_indexes(store)


@pytest.mark.parametrize("medium", MEDIA)
async def test_another_process_takes_a_journal_over(medium: str, tmp_path: Path) -> None:
    async with store_of(medium, tmp_path) as store, KeyValueJournal(store) as journal:
        await journal.register(KEYED)
        written = {await write(journal, "here")}
        with started(medium, tmp_path) as writer:
            assert await asyncio.to_thread(line_of, writer) == "open"
            written.add(bytes.fromhex(await asyncio.to_thread(line_of, writer)))
            with pytest.raises(StateError, match="was taken over by"):
                await write(journal, "too late")
            writer.kill()
            written |= acknowledged(writer)
    async with store_of(medium, tmp_path) as store, KeyValueJournal(store) as journal:
        await journal.register(KEYED)
        assert written <= await ids(journal)
        await check_indexes(store)


@pytest.mark.parametrize(
    ("medium", "kills"),
    [
        ("files", 4),
        ("sqlite", 4),
        pytest.param("files", 100, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param("sqlite", 100, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_a_killed_process_loses_nothing_it_was_told_is_durable(medium: str, kills: int, tmp_path: Path) -> None:
    chance, told = random.Random(kills), set[bytes]()
    for _ in range(kills):
        with started(medium, tmp_path) as writer:
            assert line_of(writer) == "open"
            told |= {bytes.fromhex(line_of(writer)) for _ in range(chance.randint(1, 30))}
            writer.kill()
            told |= acknowledged(writer)
        held = asyncio.run(whole(medium, tmp_path))
        assert told <= held
        assert len(held) <= len(told) + 4 * kills  # those that were under way when it was killed


async def whole(medium: str, directory: Path) -> set[bytes]:
    """Open what a killed process left, check it, and return the ids of its entries."""
    async with store_of(medium, directory) as store, KeyValueJournal(store) as journal:
        await journal.register(KEYED)
        rows = await check_indexes(store)
        found = await ids(journal)
    assert {row.id for row in rows} == found
    assert len(rows) == len(found)
    return found


async def test_a_journal_of_a_newer_release_is_refused() -> None:
    async with MemoryKeyValueStore() as store:
        await store.put(pack_key("journal", "journal") + OWNER, Owner(b"t", "somebody", 0, version=2).encode())
        with pytest.raises(MigrationError, match="format version 2"):
            await KeyValueJournal(store).__aenter__()


async def test_journals_of_different_names_share_a_store() -> None:
    async with (
        MemoryKeyValueStore() as store,
        KeyValueJournal(store, name="a") as first,
        KeyValueJournal(store, name="b") as second,
    ):
        await first.register(KEYED)
        await second.register(KEYED)
        written = {await write(first, "one")}

        assert (await ids(first), await ids(second)) == (written, set())
        await second.destroy()
        assert await ids(first) == written


# -- the other process --------------------------------------------------------------------------------------
def started(medium: str, directory: Path) -> subprocess.Popen[str]:
    program = str(Path(key_value_journal_writer.__file__))
    return subprocess.Popen([sys.executable, program, medium, str(directory)], stdout=subprocess.PIPE, text=True)


def line_of(writer: subprocess.Popen[Any]) -> str:
    assert writer.stdout is not None
    return str(writer.stdout.readline().strip())


def acknowledged(writer: subprocess.Popen[Any]) -> set[bytes]:
    """Return what a killed process had been told and nobody has read yet; a torn line was not told."""
    assert writer.stdout is not None
    lines = writer.stdout.read().splitlines(keepends=True)
    return {bytes.fromhex(line.strip()) for line in lines if line.endswith("\n")}
