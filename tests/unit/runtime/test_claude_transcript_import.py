"""Importing transcripts: nothing is lost, nothing comes twice, on one replica or on several that sync."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.entry import Entry, RemoteEntry
from agentlayers.journal.memory import MemoryJournal
from agentlayers.runtime.claude_transcript_entries import EntryMaker, artifact_entries
from agentlayers.runtime.claude_transcript_files import TranscriptFile, find_transcripts
from agentlayers.runtime.claude_transcript_import import FileImport, TranscriptImporter
from agentlayers.runtime.claude_transcript_preview import TranscriptPreview
from agentlayers.runtime.claude_transcript_reader import ReadLine, read_lines
from agentlayers.runtime.claude_transcript_stores import TranscriptStores, open_transcript_stores
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.runtime.session_transcript import Transcript
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.session_index import SessionIndexStore
from helpers.claude_transcripts import BEGAN, SESSION, TranscriptWriter

REMOTE = b"r" * 16
AGENT = "subagents/agent-a1"


@asynccontextmanager
async def memory_stores() -> AsyncIterator[TranscriptStores]:
    """The stores of a replica that is gone afterwards."""
    identity = Identity.generate()
    async with (
        MemoryJournal() as journal,
        SessionIndexStore(journal) as index,
        ChatHistoryStore(journal, identity, session_index=index) as chat,
        ArtifactStore(journal, identity, session_index=index) as artifacts,
        AgentSessionStore(journal, identity, session_index=index) as sessions,
    ):
        yield TranscriptStores(chat, artifacts, sessions)


@pytest.fixture
async def stores() -> AsyncIterator[TranscriptStores]:
    async with memory_stores() as opened:
        yield opened


@pytest.fixture
def writer(tmp_path: Path) -> TranscriptWriter:
    made = TranscriptWriter(tmp_path / "projects")
    made.conversation()
    return made


async def take_all(stores: TranscriptStores, projects: Path, *, go_on: bool = False) -> list[FileImport]:
    importer = TranscriptImporter(stores)
    return [await importer.take(file, go_on=go_on) for file in find_transcripts(projects)]


async def entries_of(stores: TranscriptStores) -> list[Any]:
    found = await stores.chat.journal.entries(entries_max=100_000)
    return [(stored.store, stored.entry) for stored in found]


async def give(source: TranscriptStores, target: TranscriptStores) -> None:
    """Hand everything over, as a server would."""
    for store, entry in await entries_of(source):
        await target.chat.journal.write_from_remote(store, REMOTE, [RemoteEntry(0, entry)], through=0)


def chat_of(stores: TranscriptStores) -> ChatHistoryStore:
    assert isinstance(stores.chat, ChatHistoryStore)
    return stores.chat


def sessions_of(stores: TranscriptStores) -> AgentSessionStore:
    assert isinstance(stores.sessions, AgentSessionStore)
    return stores.sessions


def artifacts_of(stores: TranscriptStores) -> ArtifactStore:
    assert isinstance(stores.artifacts, ArtifactStore)
    return stores.artifacts


async def load(
    stores: TranscriptStores, subpath: str = "", project: str = "-home-me-app"
) -> list[dict[str, Any]] | None:
    return await sessions_of(stores).load({"project_key": project, "session_id": SESSION, "subpath": subpath})


def counts(report: FileImport) -> tuple[int, int, int, int]:
    return report.lines, report.new_lines, report.messages, report.artifacts


# -- what an import brings ----------------------------------------------------------------------------------
async def test_every_line_is_kept_as_it_is_and_in_order(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    (report,) = await take_all(stores, writer.projects)

    assert (8, 8, 4, 1) == counts(report)
    assert writer.made == await load(stores)


async def test_messages_are_in_the_chat_history_in_the_words_of_a_running_agent(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    await take_all(stores, writer.projects)
    prompt, call, result, answer = await chat_of(stores).list(SESSION)

    assert "Where is the fault?\nPlease look." == prompt.message["message"]["content"]
    assert ["user", "assistant", "user", "assistant"] == [one.message["type"] for one in (prompt, call, result, answer)]
    assert int(BEGAN.timestamp() * 1000) + 1000 == prompt.timestamp_ms
    assert (SESSION, None, "replay") == (
        prompt.message["session_id"], prompt.message["parent_tool_use_id"], prompt.source
    )  # fmt: skip
    assert "1 failed" == result.message["tool_use_result"]["stdout"]
    assert not {"sessionId", "toolUseResult", "cwd"} & result.message.keys()


async def test_a_tools_result_is_an_artifact_with_the_name_of_its_tool(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    await take_all(stores, writer.projects)
    record = await artifacts_of(stores).get("toolu_1", SESSION)

    assert record is not None
    assert ("Bash", "toolu_1", "tool_result") == (record.tool_name, record.tool_use_id, record.kind)
    assert "1 failed" == json.loads(record.data)["stdout"]
    assert int(BEGAN.timestamp() * 1000) + 3000 == record.created_at_ms


async def test_the_session_index_says_what_a_session_is_about(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    await take_all(stores, writer.projects)
    meta = await SessionIndexStore(stores.chat.journal).get(SESSION)

    assert meta is not None
    assert ("Find the fault", "/home/me/app", "main") == (meta.title, meta.project, meta.branch)
    assert int(BEGAN.timestamp() * 1000) + 1000 == meta.created_at_ms
    assert int(BEGAN.timestamp() * 1000) + 4000 == meta.updated_at_ms


async def test_a_subagent_speaks_in_its_session_in_the_place_where_it_did(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    sub = TranscriptWriter(writer.projects, subpath=AGENT, now=BEGAN)
    sub.prompt("look at the parser")
    sidecar = {"agentType": "general-purpose", "toolUseId": "toolu_1"}
    sub.path.with_name("agent-a1.meta.json").write_text(json.dumps(sidecar))

    await take_all(stores, writer.projects)
    messages = await chat_of(stores).list(SESSION)
    (of_sub,) = [event for event in messages if event.message["parent_tool_use_id"] == "toolu_1"]

    assert "look at the parser" == of_sub.message["message"]["content"]
    assert of_sub in messages[:2]  # it was said in the first second, as the prompt was
    lines = await load(stores, AGENT)
    assert lines is not None
    assert {**sidecar, "type": "agent_metadata"} in lines
    assert [AGENT] == await sessions_of(stores).list_subkeys({"project_key": "-home-me-app", "session_id": SESSION})


async def test_large_results_are_kept_whole_and_in_pieces(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    large = "".join(f"{number} ü\n" for number in range(200_000))
    writer.call("Read", {"path": "x"}, call="toolu_2")
    writer.result(large, call="toolu_2")
    await take_all(stores, writer.projects)
    record = await artifacts_of(stores).get("toolu_2", SESSION)

    assert record is not None
    assert record.chunks is not None
    assert large == record.content


NESTED: list[Any] = []
for _ in range(250):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "fields",
    [
        {"message": {"role": "user", "content": "half \ud83d of it"}},
        {"message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "\ud83d"}]}},
        {"message": {"role": "user", "content": 2**80}},
        {"message": {"role": "user", "content": "deep", "nested": NESTED}},
        {"message": None},
        {"message": [1]},
        {"message": {"content": [None, 1, "x", {"type": 7}]}, "timestamp": 7},
        {"timestamp": "9999-12-31T23:59:59Z", "message": {"role": "user", "content": "far"}},
        {"timestamp": "1900-01-01T00:00:00Z", "message": {"role": "user", "content": "old"}},
        {"timestamp": "never", "uuid": "\ud800", "message": {"role": "user", "content": "odd"}},
    ],
    ids=range(10),
)
async def test_odd_lines_do_no_harm(tmp_path: Path, stores: TranscriptStores, fields: dict[str, Any]) -> None:
    writer = TranscriptWriter(tmp_path)
    record = writer.prompt("before") | fields
    writer.raw(json.dumps(record | {"uuid": "u"} | fields))
    writer.say("after")
    (report,) = await take_all(stores, tmp_path)

    assert [] == report.broken
    assert 3 == report.new_lines == len(await load(stores) or ())
    assert "after" in str((await chat_of(stores).list(SESSION))[-1].message)
    assert [] == await stores.chat.log.unapplied()
    assert [] == await stores.sessions.log.unapplied()


async def test_a_broken_line_is_told_and_the_rest_imported(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    writer.raw("{nope}")
    writer.say("after")
    (report,) = await take_all(stores, writer.projects)

    assert [(9, "it is not JSON")] == [(line.number, line.reason) for line in report.broken]
    assert 9 == report.new_lines


async def test_a_line_still_being_written_is_left_for_later(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    writer.raw('{"type":"user","mess', end="")
    (report,) = await take_all(stores, writer.projects)
    writer.raw('age":{"role":"user","content":"now whole"},"uuid":"w"}')
    (later,) = await take_all(stores, writer.projects)

    assert (8, []) == (report.new_lines, report.broken)
    assert (1, []) == (later.new_lines, later.broken)


async def test_a_file_that_is_gone_is_told(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    (file,) = find_transcripts(writer.projects)
    writer.path.unlink()

    assert "No such file or directory" == (await TranscriptImporter(stores).take(file)).unreadable


# -- nothing twice ------------------------------------------------------------------------------------------
async def test_importing_again_adds_nothing(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    await take_all(stores, writer.projects)
    before = await entries_of(stores)
    (again,) = await take_all(stores, writer.projects)

    assert (8, 0, 0, 0) == counts(again)
    assert before == await entries_of(stores)


async def test_a_transcript_that_grew_adds_what_is_new(writer: TranscriptWriter, stores: TranscriptStores) -> None:
    await take_all(stores, writer.projects)
    writer.prompt("and now?")
    (again,) = await take_all(stores, writer.projects)

    assert (9, 1, 1, 0) == counts(again)
    assert writer.made == await load(stores)


async def test_two_replicas_that_import_the_same_file_hold_the_same_entries(writer: TranscriptWriter) -> None:
    async with memory_stores() as one, memory_stores() as other:
        writer.result("x" * 2_000_000, call="toolu_9")
        await take_all(one, writer.projects)
        writer.say("more")
        await take_all(other, writer.projects)
        await give(one, other)
        await give(other, one)
        ours, theirs = await entries_of(one), await entries_of(other)

        assert sorted(ours) == sorted(theirs)
        assert 10 == len(await load(one) or ())
        assert (
            6
            == len(await chat_of(one).list(SESSION))
            == len({event.entry_id for event in await chat_of(one).list(SESSION)})
        )
        assert [] == await artifacts_of(one).conflicts()


async def test_the_same_session_in_another_home_is_one_conversation(tmp_path: Path, stores: TranscriptStores) -> None:
    for project in ("-home-me-app", "-srv-me-app"):
        TranscriptWriter(tmp_path, project=project).conversation()
    await take_all(stores, tmp_path)

    assert 4 == len(await chat_of(stores).list(SESSION))
    assert await load(stores) == await load(stores, project="-srv-me-app")


async def test_what_an_agent_recorded_here_is_not_imported_again(tmp_path: Path, stores: TranscriptStores) -> None:
    writer = TranscriptWriter(tmp_path, now=datetime.now(UTC) + timedelta(seconds=10))
    writer.conversation()
    prompt, *rest = [line for line in writer.made if line["type"] in ("user", "assistant")]
    live = {"type": "user", "message": prompt["message"], "uuid": "given by the recorder", "session_id": SESSION}
    await chat_of(stores).append(SESSION, live, source="external")
    await chat_of(stores).append_all(SESSION, rest[:2])
    await sessions_of(stores).append({"project_key": "-home-me-app", "session_id": SESSION}, writer.made[:5])
    (report,) = await take_all(stores, writer.projects)

    assert (8, 3, 1, 1) == counts(report)
    assert writer.made == await load(stores)
    assert 4 == len(await chat_of(stores).list(SESSION))


async def test_the_same_prompt_given_twice_is_imported_twice(tmp_path: Path, stores: TranscriptStores) -> None:
    writer = TranscriptWriter(tmp_path)
    for _ in range(2):
        writer.prompt("go on")
        writer.line(type="last-prompt", lastPrompt="go on")
    live = {"type": "user", "message": {"role": "user", "content": "go on"}, "uuid": "r"}
    await chat_of(stores).append(SESSION, live, source="external")
    (report,) = await take_all(stores, tmp_path)

    assert (4, 4, 1, 0) == counts(report)
    assert 2 == len(await chat_of(stores).list(SESSION))


async def test_a_file_that_was_written_anew_adds_no_message_twice(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    await take_all(stores, writer.projects)
    kept = [line for line in writer.made if line["type"] != "queue-operation"]
    writer.path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    (again,) = await take_all(stores, writer.projects)

    assert 0 == again.messages
    assert 4 == len(await chat_of(stores).list(SESSION))


async def test_what_was_purged_or_deleted_does_not_come_back(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    await take_all(stores, writer.projects)
    await chat_of(stores).purge(SESSION)
    await artifacts_of(stores).delete("toolu_1", SESSION)
    await sessions_of(stores).delete({"project_key": "-home-me-app", "session_id": SESSION})
    await take_all(stores, writer.projects)

    assert [] == await chat_of(stores).list(SESSION)
    assert await artifacts_of(stores).get("toolu_1", SESSION) is None
    assert await load(stores) is None


async def test_a_message_said_here_after_an_import_sorts_behind_it(
    writer: TranscriptWriter, stores: TranscriptStores
) -> None:
    await take_all(stores, writer.projects)
    await chat_of(stores).append(SESSION, {"type": "user", "message": {"role": "user", "content": "here"}})

    assert "here" == (await chat_of(stores).list(SESSION))[-1].message["message"]["content"]


STEPS = st.lists(st.sampled_from(["import", "say", "line", "import", "call", "result", "broken"]), max_size=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, go_on=st.sampled_from([True, True, False]))
@example(steps=["say", "import", "line"], go_on=True)
async def test_however_often_a_growing_file_is_imported_the_entries_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], *, go_on: bool
) -> None:
    projects = tmp_path_factory.mktemp("growing")
    writer = TranscriptWriter(projects)
    writer.line(type="queue-operation")
    async with memory_stores() as often, memory_stores() as once:
        for step in [*steps, "import"]:
            if step == "import":
                await take_all(often, projects, go_on=go_on)
            else:
                _write(writer, step)
        await take_all(once, projects)

        assert sorted(await entries_of(once)) == sorted(await entries_of(often))
        assert writer.made == await load(often)


def _write(writer: TranscriptWriter, step: str) -> None:
    match step:
        case "call":
            writer.call("Bash", {}, call=f"toolu_{writer.lines % 3}")
        case "result":
            writer.result("out", call=f"toolu_{writer.lines % 3}")
        case "line":
            writer.line(type="last-prompt", lastPrompt="x")
        case "broken":
            writer.raw("{")
        case _:
            getattr(writer, step)("text")


def test_ids_follow_the_lines_and_not_their_times(tmp_path: Path) -> None:
    writer = TranscriptWriter(tmp_path)
    writer.line(type="summary", summary="timeless")
    for seconds in (5, 3, 3, 9, 1):
        writer.now = BEGAN.replace(second=seconds)
        writer.say("x")
    maker = EntryMaker(Transcript("p", SESSION))
    made = [maker.entries_of(line) for line in read_lines(writer.path) if isinstance(line, ReadLine)]
    ids = [line.line.id for line in made]

    assert sorted(ids) == ids
    assert 6 == len(set(ids))
    assert all(line.chat is None or line.chat.id not in ids for line in made)


def test_one_id_never_stands_for_two_things(tmp_path: Path) -> None:
    writer = TranscriptWriter(tmp_path)
    writer.conversation()
    lines = [line for line in read_lines(writer.path) if isinstance(line, ReadLine)]
    entries = set[Entry]()
    for parent in (None, "toolu_x"):
        for project in ("a", "b"):
            maker = EntryMaker(Transcript(project, SESSION), parent)
            for line in lines:
                made = maker.entries_of(line)
                records = [artifact_entries(draft)[0] for draft in made.artifacts]
                entries.update(entry for entry in (made.line, made.chat, *records) if entry is not None)

    assert len(entries) == len({entry.id for entry in entries})


# -- a replica on disk --------------------------------------------------------------------------------------
async def test_a_preview_tells_what_an_import_would_do(writer: TranscriptWriter, tmp_path: Path) -> None:
    directory = tmp_path / "replica"
    (file,) = find_transcripts(writer.projects)

    def preview(file: TranscriptFile) -> FileImport:
        with TranscriptPreview(directory) as opened:
            return opened.take(file)

    fresh = preview(file)
    assert not directory.exists()
    async with open_transcript_stores(directory) as stores:
        done = await TranscriptImporter(stores).take(file)
    writer.say("more")
    grown = preview(file)

    assert asdict(done) == asdict(fresh)
    assert (9, 1, 1, 0) == counts(grown)


async def test_a_store_with_a_file_of_its_own_gets_its_part(writer: TranscriptWriter, tmp_path: Path) -> None:
    from agentlayers.journal.sqlite import SQLiteJournal

    directory = tmp_path / "replica"
    async with SQLiteJournal(directory / "chat_history.sqlite"):
        pass
    (file,) = find_transcripts(writer.projects)
    async with open_transcript_stores(directory) as stores:
        done = await TranscriptImporter(stores).take(file)
        again = await TranscriptImporter(stores).take(file)

        assert 2 == len(stores.by_journal())
        assert 4 == len(await chat_of(stores).list(SESSION))
    assert ((8, 8, 4, 1), (8, 0, 0, 0)) == (counts(done), counts(again))
