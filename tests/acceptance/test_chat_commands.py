"""``agentlayers chat``: every command on one prepared replica, beside a running one, and on bad days."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.runtime.claude_transcript_files import find_transcripts
from agentlayers.runtime.claude_transcript_import import TranscriptImporter
from agentlayers.runtime.claude_transcript_stores import open_transcript_stores
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.session_index import SessionIndexStore
from helpers.claude_transcripts import SESSION, TranscriptWriter

OTHER = "5c0-other"
SAID = "# Heading\n```\nfence ````\n<b>kept</b>\n```\n`<i>` <b>disarmed</b>\n~~~\nopen"
HOSTILE = "<script>alert(1)</script> & ![x](http://evil.invalid/x.png) \x1b[31mred\u202e"


def run(*arguments: str | Path, status: int = 0) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AGENTLAYERS_")}
    outcome = subprocess.run(
        [sys.executable, "-m", "agentlayers", "chat", *map(str, arguments)], capture_output=True, text=True, timeout=60,
        check=False, env=kept | {"COLUMNS": "100"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome.stdout if status == 0 else outcome.stderr


def fails(status: int, *arguments: str | Path) -> str:
    text = run(*arguments, status=status)
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    return text


def lines_of(*arguments: str | Path) -> list[Any]:
    return [json.loads(line) for line in run(*arguments).splitlines()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported session with a tool and a subagent, and one of an application with odd messages."""
    base = tmp_path_factory.mktemp("chat")
    asyncio.run(_prepare(base))
    return base / "replica"


async def _prepare(base: Path) -> None:
    writer = TranscriptWriter(base / "projects")
    writer.conversation()
    writer.event("user", isMeta=True, message={"role": "user", "content": "an aside for the model"})
    sub = TranscriptWriter(base / "projects", subpath="subagents/agent-a", now=writer.now)
    sub.say("said below")
    async with open_transcript_stores(base / "replica") as stores:
        for file in find_transcripts(base / "projects"):
            await TranscriptImporter(stores).take(file)
    identity = Identity.load_or_create(base / "replica" / "identity")
    async with (
        SQLiteJournal(base / "replica") as journal,
        ChatHistoryStore(journal, identity, session_index=SessionIndexStore(journal)) as chat,
    ):
        await chat.append(OTHER, {"role": "user", "text": HOSTILE}, source="external")
        thought = {"type": "thinking", "thinking": "hm"}
        failed = {"type": "tool_result", "content": [{"type": "text", "text": "no to"}], "is_error": True}
        odd: list[dict[str, Any]] = [
            {"type": "stream_event", "event": {"delta": "a piece"}},
            {"type": "system", "subtype": "init", "cwd": "/srv", "model": "m"},
            {"type": "assistant", "message": {"content": [thought, {"type": "image"}, 7, "s"]}},
            {"type": "user", "message": {"content": [failed]}},
            {"type": "result", "subtype": "success", "num_turns": 3, "duration_ms": 1500, "result": "done"},
            {"anything": {"else": [b"\x00bytes", None]}},
            {"type": "assistant", "message": {"role": "assistant", "content": SAID}},
        ]  # fmt: skip
        await chat.append_all(OTHER, odd)


@pytest.fixture
def replica(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "replica"))


# -- list ---------------------------------------------------------------------------------------------------
def test_sessions_are_listed_with_what_is_known_of_them(prepared: Path) -> None:
    other, imported = lines_of("list", prepared, "--json")
    text = run("list", prepared)

    assert {
        "session_id": SESSION, "title": "Find the fault", "messages": 6, "project": "/home/me/app", "branch": "main",
        "began": "2026-03-01T12:00:01.000Z", "last_activity": "2026-03-01T12:00:06.000Z",
    } == imported  # fmt: skip
    assert (OTHER, 8, "") == (other["session_id"], other["messages"], other["project"])
    assert other["title"].startswith("<script>")
    assert ["session", OTHER, SESSION] == [line.split()[0] for line in text.splitlines()]
    assert "\x1b" not in text


def test_a_listing_can_be_limited(prepared: Path) -> None:
    assert [SESSION] == [one["session_id"] for one in lines_of("list", prepared, "--project", "me/app", "--json")]
    assert "and 1 more: raise --limit" in run("list", prepared, "--limit", "1")
    assert "no such sessions" in run("list", prepared, "--project", "nowhere")


# -- show ---------------------------------------------------------------------------------------------------
def test_a_session_reads_like_a_conversation(prepared: Path) -> None:
    text = run("show", prepared, SESSION)

    assert [
        "Find the fault",
        f"{SESSION}  6 messages  2026-03-01T12:00:01Z to 2026-03-01T12:00:06Z  /home/me/app  main",
        "",
        "user  2026-03-01T12:00:01Z",
        "Where is the fault?",
        "Please look.",
        "",
        "assistant  2026-03-01T12:00:02Z",
        "▸ Bash: make test",
        "  ⎿ 1 failed",
        "The fault is in the parser; Grüße.",
        "· an aside for the model",
        "",
        "assistant (subagent)  2026-03-01T12:00:06Z",
        "said below",
    ] == text.splitlines()


def test_everything_can_be_unfolded(prepared: Path) -> None:
    text = run("show", prepared, SESSION, "--full")

    assert '      "command": "make test"' in text
    assert "1 failed" in text


def test_messages_of_any_kind_are_shown_and_disarmed(prepared: Path) -> None:
    text = run("show", prepared, "--last")

    assert "\\x1b[31mred\\x202e" in text
    assert "\x1b" not in text
    assert "a piece" not in text
    for shown in (
        "· init /srv m",
        "∴ hm",
        "▣ image",
        "✗ no to",
        "· success, 3 turns, 1.5 s",
        "fence ````",
        "· message",
    ):
        assert shown in text, shown


def test_a_session_is_named_by_its_beginning_or_as_the_last_one(prepared: Path) -> None:
    whole = run("show", prepared, SESSION)

    assert whole == run("show", prepared, "5c047")
    assert OTHER in run("show", prepared, OTHER)
    assert OTHER in run("show", prepared, "--last")
    assert f"{OTHER}, {SESSION}" in fails(2, "show", prepared, "5c0")
    assert "chat list" in fails(2, "show", prepared, "nothing")
    assert "--last" in fails(2, "show", prepared)
    assert "--last" in fails(2, "show", prepared, SESSION, "--last")
    fails(2, "show", prepared, "")


def test_json_holds_messages_whole_and_the_last_ones_can_be_asked_for(prepared: Path) -> None:
    every = lines_of("show", prepared, SESSION, "--json")
    last = lines_of("show", prepared, SESSION, "--json", "--limit", "2")

    assert 6 == len(every)
    assert every[-2:] == last
    assert "1 failed" == every[2]["message"]["tool_use_result"]["stdout"]
    assert ("replay", SESSION) == (every[0]["source"], every[0]["session_id"])


async def test_what_arrives_is_followed_beside_a_running_replica(replica: Path) -> None:
    identity = Identity.load_or_create(replica / "identity")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentlayers", "chat", "show", str(replica), SESSION, "--follow", "--limit", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(90), SQLiteJournal(replica) as journal, ChatHistoryStore(journal, identity) as chat:
        while "said below" not in (await process.stdout.readline()).decode():
            pass
        await chat.append(OTHER, {"role": "user", "text": "not this one"})
        await chat.append(SESSION, {"role": "user", "text": "but this one"})
        found = ""
        while "but this one" not in found:
            found += (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert "not this one" not in found
    assert (0, b"") == (process.returncode, err)


def test_a_reader_that_has_seen_enough_ends_it_quietly(prepared: Path) -> None:
    for arguments in ("list", "show --last --full", "export --all"):
        name, *options = arguments.split()
        line = f"'{sys.executable}' -m agentlayers chat {name} '{prepared}' {' '.join(options)} | true"
        outcome = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)
        assert (0, "") == (outcome.returncode, outcome.stderr)


# -- search -------------------------------------------------------------------------------------------------
def test_messages_are_found_by_their_words(prepared: Path) -> None:
    (found,) = lines_of("search", prepared, "fault GRUSSE".replace("SS", "ß"), "--json")
    text = run("search", prepared, '"the fault" look')

    assert "The fault is in the parser; Grüße." == found["message"]["message"]["content"][0]["text"]
    assert ["fault", "Grüße"] == [found["snippet"][start:end] for start, end in found["matches"]]
    assert (
        "2026-03-01T12:00:01Z  " + SESSION + "  user  Where is **the** **fault**? Please **look**."
        == text.strip().replace("**the fault**", "**the** **fault**")
    )


def test_a_search_can_be_narrowed(prepared: Path) -> None:
    everywhere = lines_of("search", prepared, "t*", "--json", "--limit", "50")
    here = lines_of("search", prepared, "t*", "--json", "--session", SESSION, "--best")

    assert {SESSION, OTHER} == {one["session_id"] for one in everywhere}
    assert {SESSION} == {one["session_id"] for one in here}
    assert 1 == len(lines_of("search", prepared, "t*", "--json", "--limit", "1"))
    assert "no message" in run("search", prepared, "zebra", status=1)
    assert "at least one word" in fails(2, "search", prepared, "?!")


async def test_messages_older_than_the_index_are_found_too(replica: Path) -> None:
    async with SQLiteJournal(replica) as journal:
        position = (await journal.entries(entries_max=10_000))[-1].position
        await journal.transact(lambda tx: tx.put_setting("text_backlog", str(position).encode()))
    found = await asyncio.to_thread(lines_of, "search", replica, "parser", "--json")

    assert ["The fault is in the parser; Grüße."] == [one["message"]["message"]["content"][0]["text"] for one in found]


# -- export -------------------------------------------------------------------------------------------------
def test_markdown_is_readable_and_nothing_breaks_out_of_it(prepared: Path) -> None:
    text = run("export", prepared, SESSION)
    other = run("export", prepared, "--last", "--format", "markdown")

    assert text.startswith("# Find the fault\n\nsession ")
    assert '**call** `Bash`\n\n```json\n{\n  "command": "make test"\n}\n```\n' in text
    assert "### Heading\n```\nfence ````\n<b>kept</b>\n```\n`<i>` &lt;b>disarmed&lt;/b>\n~~~\nopen\n~~~\n" in other
    assert "&lt;script>alert(1)&lt;/script> &" in other
    assert "\n# \\<script\\>" in "\n" + other


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attributes if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_one_page_that_runs_nothing(prepared: Path, tmp_path: Path) -> None:
    run("export", prepared, "--all", "--output", tmp_path / "all.html")
    text = (tmp_path / "all.html").read_text()
    page = Page(text)

    assert "script" not in page.tags
    assert not {"img", "iframe", "link", "a", "object"} & set(page.tags)
    assert [] == page.links
    assert "<script>alert(1)</script> & ![x]" in page.text
    assert "default-src 'none'" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert page.text.index("Find the fault") < page.text.index("alert(1)")
    assert 0o600 == (tmp_path / "all.html").stat().st_mode & 0o777


def test_json_lines_hold_all_sessions(prepared: Path, tmp_path: Path) -> None:
    run("export", prepared, "--all", "-o", tmp_path / "all.jsonl")
    every = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]

    assert every == lines_of("export", prepared, "--all", "--format", "jsonl")
    assert 14 == len(every)
    assert lines_of("show", prepared, "5c047", "--json") == [one for one in every if one["session_id"] == SESSION]


# -- bad days -----------------------------------------------------------------------------------------------
def test_input_that_is_none_is_refused_with_one_line(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.sqlite").write_text("no database")

    for directory in (tmp_path / "missing", tmp_path / "empty", tmp_path / "file.sqlite"):
        for arguments in (["list"], ["show"], ["search"], ["export"]):
            more = {"show": ["--last"], "export": ["--all"], "search": ["x"]}.get(arguments[0], [])
            fails(4, *arguments, directory, *more)
    fails(4, "export", prepared, "--last", "-o", tmp_path / "none" / "x.md")
    assert "--all" in fails(2, "export", prepared, "--all", "--last")
    assert "--last" in fails(2, "export", prepared)


def test_a_replica_without_a_conversation_is_told(tmp_path: Path) -> None:
    async def prepare() -> None:
        async with SQLiteJournal(tmp_path):
            pass

    asyncio.run(prepare())
    assert "no such sessions" in run("list", tmp_path)
    assert "with a session in it" in fails(2, "show", tmp_path, "--last")
    assert "" == run("export", tmp_path, "--all")
    run("search", tmp_path, "x", status=1)


def test_nothing_is_changed(replica: Path) -> None:
    before = digests(replica)
    for arguments in (["list"], ["show", "--last"], ["search", "fault"], ["export", "--all", "--format", "html"]):
        run(arguments[0], replica, *arguments[1:])

    assert before == digests(replica)


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.suffix != ".sqlite-shm")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.stat().st_size}
