"""Following transcripts: what is added is imported, once, whatever happens to the files and to us."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from agentlayers.journal.transaction import JournalTransaction
from agentlayers.key_value.keys import pack_key
from agentlayers.runtime.claude_transcript_cursor import TranscriptCursor
from agentlayers.runtime.claude_transcript_files import find_transcripts
from agentlayers.runtime.claude_transcript_import import TranscriptImporter
from agentlayers.runtime.claude_transcript_stores import TranscriptStores, open_transcript_stores
from agentlayers.runtime.claude_transcript_watch import TranscriptWatcher
from helpers.claude_transcripts import TranscriptWriter


@pytest.fixture
def writer(tmp_path: Path) -> TranscriptWriter:
    made = TranscriptWriter(tmp_path / "projects")
    made.conversation()
    return made


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[TranscriptStores]:
    async with open_transcript_stores(tmp_path / "replica") as opened:
        yield opened


def watcher_of(stores: TranscriptStores, writer: TranscriptWriter) -> TranscriptWatcher:
    return TranscriptWatcher(writer.projects, TranscriptImporter(stores))


async def looked(watcher: TranscriptWatcher) -> tuple[int, int]:
    """Look, and count the lines that were read and those that were new."""
    reports = await watcher.look()
    return sum(report.lines for report in reports), sum(report.new_lines for report in reports)


async def test_only_what_was_added_is_read(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    watcher = watcher_of(stores, writer)

    assert (8, 8) == await looked(watcher)
    assert (0, 0) == await looked(watcher)
    writer.say("more")
    assert (1, 1) == await looked(watcher)
    assert 1 == watcher.files


async def test_new_sessions_projects_and_subagents_are_found(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    watcher = watcher_of(stores, writer)
    await watcher.look()
    TranscriptWriter(writer.projects, project="-new", session="00000000-0000-4000-8000-000000000001").prompt("x")
    TranscriptWriter(writer.projects, subpath="subagents/agent-a").prompt("y")

    assert (2, 2) == await looked(watcher)
    assert 3 == watcher.files


async def test_what_is_said_of_a_subagent_later_is_noticed(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    watcher, sub = watcher_of(stores, writer), TranscriptWriter(writer.projects, subpath="subagents/agent-a")
    sub.prompt("x")
    sidecar = sub.path.with_name("agent-a.meta.json")
    for said in ({"agentType": "a"}, {"agentType": "a", "finished": True}):
        sidecar.write_text(json.dumps(said))
        await watcher.look()
        await watcher.look()
    lines = await stores.sessions.load(  # type: ignore[attr-defined]
        {"project_key": writer.project, "session_id": writer.session, "subpath": "subagents/agent-a"}
    )

    assert [None, True] == [line.get("finished") for line in lines if line["type"] == "agent_metadata"]


async def test_a_line_is_imported_when_it_is_whole(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    watcher = watcher_of(stores, writer)
    await watcher.look()
    writer.raw('{"type":"last-', end="")

    assert (0, 0) == await looked(watcher)
    writer.raw('prompt"}')
    assert (1, 1) == await looked(watcher)


async def test_another_watcher_goes_on_where_the_last_one_was(tmp_path: Path, writer: TranscriptWriter) -> None:
    async with open_transcript_stores(tmp_path / "replica") as stores:
        await watcher_of(stores, writer).look()
    writer.result("late", call="toolu_1")
    async with open_transcript_stores(tmp_path / "replica") as stores:
        assert (1, 1) == await looked(watcher_of(stores, writer))


async def test_an_import_is_where_a_watcher_begins(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    (file,) = find_transcripts(writer.projects)
    await TranscriptImporter(stores).take(file)

    assert (0, 0) == await looked(watcher_of(stores, writer))


async def test_a_tool_that_was_called_before_a_restart_is_known_after_it(
    tmp_path: Path, writer: TranscriptWriter
) -> None:
    writer.call("Grep", {}, call="toolu_5")
    async with open_transcript_stores(tmp_path / "replica") as stores:
        await watcher_of(stores, writer).look()
    writer.result("found", call="toolu_5")
    async with open_transcript_stores(tmp_path / "replica") as stores:
        await watcher_of(stores, writer).look()
        record = await stores.artifacts.get("toolu_5")  # type: ignore[attr-defined]

    assert "Grep" == record.tool_name


async def test_a_file_that_was_cut_off_is_read_from_its_beginning(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    watcher = watcher_of(stores, writer)
    await watcher.look()
    writer.path.write_text("".join(writer.path.read_text().splitlines(keepends=True)[:3]))
    writer.now += timedelta(hours=1)
    writer.say("another end")

    assert (4, 1) == await looked(watcher)


async def test_a_file_that_was_replaced_is_read_from_its_beginning(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    watcher = watcher_of(stores, writer)
    await watcher.look()
    size = writer.path.stat().st_size
    writer.path.rename(writer.path.with_suffix(".old"))
    other = TranscriptWriter(writer.projects, now=writer.now + timedelta(days=1))
    while other.lines == 0 or other.path.stat().st_size <= size:
        other.say(f"a new beginning {other.lines}")
    other.made.clear()

    lines, new = await looked(watcher)
    assert lines == new == other.lines


async def test_a_file_that_was_copied_is_not_read_again(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    watcher = watcher_of(stores, writer)
    await watcher.look()
    copy = writer.path.with_suffix(".copy")
    shutil.copy(writer.path, copy)
    copy.replace(writer.path)
    writer.say("more")

    assert (1, 1) == await looked(watcher)


async def test_a_broken_line_is_told_once(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    watcher = watcher_of(stores, writer)
    writer.raw("{nope}")
    told = [report.broken for report in await watcher.look()]
    writer.say("more")
    later = [report.broken for report in await watcher.look()]

    assert [[9]] == [[line.number for line in broken] for broken in told]
    assert [[]] == later


async def test_files_that_vanish_and_a_directory_that_is_not_there_yet_are_nothing_special(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    watcher = watcher_of(stores, writer)
    await watcher.look()
    shutil.rmtree(writer.projects)

    assert (0, 0) == await looked(watcher)
    assert 0 == watcher.files
    writer.path.parent.mkdir(parents=True)
    writer.now += timedelta(hours=1)
    writer.say("again")
    assert (1, 1) == await looked(watcher)


async def test_a_kept_place_of_another_release_is_no_place(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    (file,) = find_transcripts(writer.projects)
    await watcher_of(stores, writer).look()
    journal, key = stores.sessions.journal, pack_key("claude_transcripts", "cursor", str(file.path).encode())
    kept = await journal.read(lambda tx: tx.get(key))
    for value in (b"nonsense", b'{"unknown": 1}', b"[]"):
        await journal.transact(partial(JournalTransaction.put, key=key, value=value))
        cursor = await journal.read(lambda tx: TranscriptCursor.load(tx, file))
        assert 0 == cursor.offset

    assert kept is not None
    assert (8, 0) == await looked(watcher_of(stores, writer))
