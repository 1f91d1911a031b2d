"""The web tutorial is run as it stands: files written, tests passed, server served, output compared."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "web-application.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\S+\.(?:py|yaml|ini))\n")
RUN = {"python", "yaml", "ini"}


def files(*, first: bool = False) -> dict[str, str]:
    """Give the files of the page; of one that is written twice, the last form (or the first)."""
    found: dict[str, str] = {}
    for language, text in BLOCKS:
        name = FILE.match(text)
        if language in RUN and name is not None and not (first and name[1] in found):
            found[name[1]] = text
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write(tmp_path, files())
    return tmp_path


def write(directory: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False, env=env)


def test_every_block_is_of_a_kind_that_is_run() -> None:
    kinds = {language for language, _ in BLOCKS}
    unnamed = [text for language, text in BLOCKS if language in RUN and FILE.match(text) is None]

    assert kinds <= {*RUN, "console", "sh"}
    assert not unnamed


def test_the_tests_of_the_tutorial_pass(project: Path) -> None:
    outcome = run(project, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert f"{PAGE.count('def test_')} passed" in outcome.stdout


def test_the_tests_of_the_tutorial_can_fail(project: Path) -> None:
    """The transaction is what keeps a refused note out."""
    parts = project / "notes" / "parts.py"
    parts.write_text(parts.read_text().replace("self.connection.rollback()", "self.connection.commit()"))
    outcome = run(project, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")

    assert "1 failed" in outcome.stdout


CONSOLE = [text for language, text in BLOCKS if language == "console"]


@pytest.mark.parametrize("block", CONSOLE, ids=[block.split()[2] for block in CONSOLE])
def test_each_command_prints_what_the_page_says(project: Path, block: str) -> None:
    command, _, expected = block.partition("\n")
    words = command.removeprefix("$ ").split()
    assert words[0] == "agentlayers"

    outcome = run(project, sys.executable, "-m", *words)

    assert outcome.stdout == expected, outcome.stderr


@contextmanager
def serving(project: Path, *arguments: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PORT": str(port)}
    with subprocess.Popen([sys.executable, "-m", "notes", *arguments], cwd=project, env=env) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{address}/notes", process)
            yield address
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    pytest.fail("the application of the tutorial does not answer")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page uses curl")
def test_the_first_form_of_the_application_answers_curl(tmp_path: Path) -> None:
    write(tmp_path, files(first=True))
    (commands,) = [text.splitlines() for language, text in BLOCKS if language == "sh"]
    with serving(tmp_path) as address:
        answers = [run(tmp_path, *words(line, address)).stdout for line in commands]

    assert answers[-1] == '["buy milk"]'
    assert f"The last line answers `{answers[-1]}`." in PAGE
    assert (tmp_path / "notes.sqlite").exists()


def words(line: str, address: str) -> list[str]:
    return [word.replace("http://127.0.0.1:8080", address).strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]


def test_the_application_runs_from_yaml_in_memory_and_on_disk(project: Path) -> None:
    for arguments, kept in ((["trial.yaml"], False), ([], True)):
        with serving(project, *arguments) as address:
            request = urllib.request.Request(f"{address}/notes", data=b"from a test", method="POST")
            assert urllib.request.urlopen(request, timeout=5).status == 201
            assert urllib.request.urlopen(f"{address}/notes", timeout=5).read() == b'["from a test"]'
        assert (project / "notes.sqlite").exists() is kept
