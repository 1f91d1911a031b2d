"""``agentlayers journal`` on a replica with stores that only its application, or a room above, knows."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.session_index import SessionIndexStore

APPLICATION = """
from dependency_injector import providers

from agentlayers import AgentRuntimeContainer
from agentlayers.eventlog import Event, EventGroup
from agentlayers.storage import EventStore, projects, reacts, retracts

saved = Event("task_saved", lambda fields: str(fields["id"]))
commented = Event("commented", lambda fields: str(fields["id"]))


class Tasks(EventStore):
    name = "tasks"
    groups = (EventGroup.keyed(saved), EventGroup.append_only(commented))

    @projects(commented)
    def count(self, tx, entry):
        tx.put(self.row_key("comment", entry.entry.id), b"")

    @retracts(commented)
    def discount(self, tx, entry):
        tx.delete(self.row_key("comment", entry.entry.id))

    @reacts(saved)
    async def never_by_a_tool(self, entry):
        raise SystemExit("a tool ran a reaction")


class App(AgentRuntimeContainer):
    tasks: providers.Provider[Tasks] = providers.Resource(Tasks)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    (directory / "shop.py").write_text(APPLICATION)
    return directory


def run(project: Path, *arguments: str | Path, status: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AGENTLAYERS_")}
    outcome = subprocess.run(
        [sys.executable, "-m", "agentlayers", "journal", *map(str, arguments)], cwd=project, capture_output=True,
        text=True, timeout=60, check=False, env=environment | {"COLUMNS": "160"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert outcome.returncode == status, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome.stdout if status in (0, 1) else outcome.stderr


def parsed(project: Path, *arguments: str | Path, status: int = 0) -> Any:
    return json.loads(run(project, *arguments, "--json", status=status))


def tasks_of(project: Path) -> Any:
    spec = importlib.util.spec_from_file_location("shop", project / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _prepare(project: Path, directory: Path) -> None:
    shop, identity = tasks_of(project), Identity.generate()
    schema = shop.Tasks(SQLiteJournal(directory), identity).schema
    async with (
        SQLiteJournal(directory) as journal,
        SessionIndexStore(journal) as index,
        ChatHistoryStore(journal, identity, session_index=index) as chat,
        AgentSessionStore(journal, identity, session_index=index) as sessions,
    ):
        await journal.register(schema)
        for number in range(3):
            await chat.append("s", {"text": str(number)})
            await sessions.append({"project_key": "p", "session_id": "s"}, [{"uuid": str(number), "type": "user"}])
            await journal.write("tasks", "task_saved", "a", {"id": "a", "title": str(number)})
            await journal.write("tasks", "commented", "a", {"id": "a"})
        await sessions.delete({"project_key": "p", "session_id": "other"})


@pytest.fixture
def replica(project: Path, tmp_path: Path) -> Path:
    asyncio.run(_prepare(project, tmp_path / "replica"))
    return tmp_path / "replica"


def change(directory: Path, statement: str) -> None:
    connection = sqlite3.connect(directory / "journal.sqlite", isolation_level=None)
    assert connection.execute(statement).rowcount != 0
    connection.close()


def rows(directory: Path, query: str) -> Any:
    connection = sqlite3.connect(directory / "journal.sqlite")
    found = connection.execute(query).fetchone()[0]
    connection.close()
    return found


def findings(project: Path, *arguments: str | Path, status: int = 0) -> list[tuple[str, str]]:
    report = parsed(project, "verify", *arguments, status=status)
    return [(one["severity"], one["check"]) for one in report["findings"]]


def test_verify_checks_what_needs_no_application_and_with_it_the_rest(project: Path, replica: Path) -> None:
    assert findings(project, replica) == [("note", "unknown_store")]
    assert findings(project, replica, "--app", "shop:App") == []
    change(replica, "DELETE FROM value WHERE instr(key, CAST('comment' AS BLOB)) AND instr(key, CAST('tasks' AS BLOB))")
    assert findings(project, replica) == [("note", "unknown_store")]
    assert set(findings(project, replica, "--app", "shop:App", status=1)) == {("fault", "read_model")}

    told = run(project, "rebuild", replica)
    assert "left alone: tasks, because its events are not known here" in told
    assert parsed(project, "rebuild", replica)["files"][0]["skipped_stores"] == ["tasks"]
    assert parsed(project, "rebuild", replica, "--app", "shop:Tasks")["files"][0]["repaired"] == 3
    assert findings(project, replica, "--app", "shop:App") == []


def test_heads_of_a_declared_store_are_checked_without_its_application(project: Path, replica: Path) -> None:
    change(replica, "DELETE FROM key_state WHERE primary_key = 'a'")

    assert ("fault", "heads") in findings(project, replica, status=1)


def test_a_changed_entry_of_a_declared_store_is_found_without_its_application(project: Path, replica: Path) -> None:
    change(replica, "UPDATE entry SET primary_key = 'b' WHERE event = 'commented'")

    assert ("fault", "entry") in findings(project, replica, status=1)


def test_agent_sessions_are_known(project: Path, replica: Path) -> None:
    change(replica, "DELETE FROM value WHERE instr(key, CAST('agent_sessions' AS BLOB))")
    assert ("fault", "read_model") in findings(project, replica, status=1)
    run(project, "rebuild", replica)

    assert findings(project, replica) == [("note", "unknown_store")]


def test_compact_says_what_it_leaves_alone_and_why(project: Path, replica: Path) -> None:
    report = parsed(project, "compact", replica, "--keep-count", "1", "--yes")["files"][0]
    text = run(project, "compact", replica, "--keep-count", "1", "--yes")

    assert (report["stores"]["chat_history"]["dropped"], report["skipped_stores"].keys()) == (
        2,
        {"agent_sessions", "tasks"},
    )
    assert "left alone: tasks, because its events are not known here" in text
    assert "left alone: agent_sessions, because a transcript without its beginning cannot be resumed" in text
    assert rows(replica, "SELECT count(*) FROM entry WHERE event = 'agent_session_line'") == 3
    tasks = ("compact", replica, "--keep-count", "1", "--store", "tasks", "--app", "shop:App")
    assert parsed(project, *tasks, "--dry-run")["only_here"] == {"tasks": 5}
    with_app = parsed(project, *tasks, "--yes")
    assert with_app["files"][0]["stores"]["tasks"]["dropped"] == 5
    assert findings(project, replica, "--app", "shop:App") == []


def test_an_export_of_it_all_is_imported_whole(project: Path, replica: Path, tmp_path: Path) -> None:
    run(project, "export", replica, "--output", tmp_path / "all.jsonl")
    report = parsed(project, "import", tmp_path / "new", tmp_path / "all.jsonl")["stores"]
    run(project, "export", tmp_path / "new", "--output", tmp_path / "again.jsonl")
    known = parsed(project, "import", tmp_path / "known", tmp_path / "again.jsonl", "--app", "shop:App")["stores"]

    assert {name: (one["imported"], one["unapplied"]) for name, one in report.items()} == {
        "chat_history": (3, 0),
        "agent_sessions": (4, 0),
        "tasks": (6, 6),
    }
    assert (known["tasks"]["imported"], known["tasks"]["unapplied"]) == (6, 0)
    (counted,) = (
        one for one in parsed(project, "stats", tmp_path / "new")["files"][0]["stores"] if one["store"] == "tasks"
    )
    assert (counted["entries"], counted["waiting"], counted["unapplied"]) == (6, 6, [])
    assert "unapplied: tasks: 6 entries are kept until" in run(project, "stats", tmp_path / "new")
    digests = {parsed(project, "verify", tmp_path / name)["digest"] for name in ("replica", "new", "known")}
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["shop", "shop:", "shop:Missing", "shop:saved", "missing:App"])
def test_an_application_that_is_none_is_told(project: Path, replica: Path, name: str) -> None:
    text = run(project, "verify", replica, "--app", name, status=2)

    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    assert "--app" in text
