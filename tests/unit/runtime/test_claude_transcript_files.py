"""Which files are transcripts, and which session each is of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentlayers.errors import SettingsError, StorageUnavailableError
from agentlayers.runtime.claude_transcript_files import find_transcripts
from agentlayers.runtime.session_transcript import Transcript
from helpers.claude_transcripts import SESSION, TranscriptWriter

OTHER = "00000000-0000-4000-8000-000000000001"
AGENT = "subagents/agent-a1"


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """Two projects; one session has a subagent."""
    projects = tmp_path / ".claude" / "projects"
    TranscriptWriter(projects).prompt("one")
    TranscriptWriter(projects, subpath=AGENT).prompt("sub")
    TranscriptWriter(projects, project="-srv-b", session=OTHER).prompt("other")
    return projects


def found(path: Path) -> list[Transcript]:
    return [file.transcript for file in find_transcripts(path)]


MAIN = Transcript("-home-me-app", SESSION)
SUB = Transcript("-home-me-app", SESSION, AGENT)


def test_a_projects_directory_has_all_sessions_of_all_projects(projects: Path) -> None:
    assert [MAIN, SUB, Transcript("-srv-b", OTHER)] == found(projects)


def test_the_directory_of_claude_itself_will_do(projects: Path) -> None:
    assert found(projects) == found(projects.parent)


def test_a_stray_file_among_the_projects_hides_none(projects: Path) -> None:
    expected = found(projects)
    (projects / "notes.jsonl").write_text('{"note": 1}\n')

    assert expected == found(projects)


def test_one_project_is_enough(projects: Path) -> None:
    assert [MAIN, SUB] == found(projects / "-home-me-app")


def test_a_session_brings_its_subagents_along(projects: Path) -> None:
    assert [MAIN, SUB] == found(projects / "-home-me-app" / f"{SESSION}.jsonl")


def test_a_subagents_file_alone_is_known_by_where_it_is(projects: Path) -> None:
    assert [SUB] == found(projects / "-home-me-app" / SESSION / f"{AGENT}.jsonl")


def test_the_directory_of_a_session_has_its_subagents(projects: Path) -> None:
    session = projects / "-home-me-app" / SESSION

    assert [SUB] == found(session) == found(session / "subagents")


def test_not_everything_below_a_directory_is_looked_through(projects: Path) -> None:
    with pytest.raises(SettingsError, match="there is no transcript"):
        find_transcripts(projects.parents[1])


def test_subagents_without_their_session_are_found(projects: Path) -> None:
    (projects / "-home-me-app" / f"{SESSION}.jsonl").unlink()

    assert [SUB, Transcript("-srv-b", OTHER)] == found(projects)


def test_a_subagents_file_of_an_earlier_release_stands_beside_its_session(projects: Path) -> None:
    (projects / "-home-me-app" / "agent-b2.jsonl").write_text(
        '{"type":"x"}\n' + json.dumps({"type": "user", "sessionId": SESSION}) + "\n"
    )

    assert [Transcript("-home-me-app", SESSION, "subagents/agent-b2"), MAIN, SUB] == sorted(
        found(projects / "-home-me-app"), key=lambda one: one.subpath != "subagents/agent-b2"
    )


@pytest.mark.parametrize("text", ["", "no json\n", "[]\n", '{"type":"user"}\n', "\x00" * 100])
def test_a_file_that_names_no_session_is_no_transcript(projects: Path, text: str) -> None:
    (projects / "-srv-b" / "history.jsonl").write_text(text)

    assert [Transcript("-srv-b", OTHER)] == found(projects / "-srv-b")


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such path"):
        find_transcripts(tmp_path / "missing")
    with pytest.raises(SettingsError, match="there is no transcript"):
        find_transcripts(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX only")
def test_a_name_that_is_no_unicode_does_no_harm(projects: Path) -> None:
    os.rename(projects / "-srv-b", os.path.join(os.fsencode(projects), b"-srv-\xff"))  # noqa: PTH104, PTH118

    (file,) = [file for file in find_transcripts(projects) if file.transcript.session == OTHER]

    assert "-srv-?" == file.transcript.project
    assert file.path.is_file()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_told(projects: Path) -> None:
    projects.chmod(0)
    try:
        with pytest.raises(StorageUnavailableError):
            find_transcripts(projects)
    finally:
        projects.chmod(0o700)


@pytest.mark.parametrize(("text", "wanted"), [('{"toolUseId":"t"}', {"toolUseId": "t"}), ("[1]", None), ("{", None)])
def test_a_sidecar_tells_what_a_subagent_works_for(projects: Path, text: str, wanted: object) -> None:
    main, sub = find_transcripts(projects / "-home-me-app")
    sub.path.with_name("agent-a1.meta.json").write_text(text)

    assert wanted == sub.sidecar()
    assert main.sidecar() is None
