"""
What users' type checkers say of the layer framework: nothing against right uses, and an error on each wrong line.

The files hold marks for both checkers. They are checked with the marks taken out, and the errors have to be those
that were marked: the same lines, the same rules. So neither a missing error nor an extra one passes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers.npm_packages import InstalledPackages, NotInstalledError, install_packages

_HERE = Path(__file__).parent
_SOURCE = _HERE.parents[1] / "src"
_MARK = {
    "mypy": re.compile(r"# type: ignore\[([^\]]*)\]"),
    "pyright": re.compile(r"# pyright: ignore\[([^\]]*)\]"),
}
_MARKS = re.compile(r"\s*# (?:type|pyright): ignore\[.*$")
CHECK_SECONDS_MAX = 240

pytestmark = pytest.mark.timeout(900)  # the first run waits for npm


class Error(NamedTuple):
    """One complaint of a checker."""

    file: str
    line: int
    rule: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, without their marks."""
    directory = tmp_path_factory.mktemp("uses")
    for source in _HERE.glob("*_uses.py"):
        lines = [_MARKS.sub("", line) for line in source.read_text("utf-8").splitlines()]
        (directory / source.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def pyright() -> InstalledPackages:
    """Pyright; skips where it cannot be had."""
    try:
        return install_packages("agentlayers-typing", (_HERE / "package.json").read_bytes())
    except NotInstalledError as error:
        pytest.skip(str(error))


def _marked(checker: str) -> set[Error]:
    return {
        Error(source.name, number, rule.strip())
        for source in _HERE.glob("*_uses.py")
        for number, line in enumerate(source.read_text("utf-8").splitlines(), 1)
        for mark in _MARK[checker].findall(line)
        for rule in mark.split(",")
    }


def test_every_wrong_line_is_marked_for_both_checkers() -> None:
    places = [{(error.file, error.line) for error in _marked(checker)} for checker in _MARK]

    assert places[0] == places[1]
    assert {file for file, _line in places[0]} == {"wrong_uses.py"}
    assert len(places[0]) >= 30


def test_mypy_accepts_right_uses_and_refuses_wrong_ones(files: Path, tmp_path: Path) -> None:
    settings = tmp_path / "mypy.ini"
    settings.write_text(f"[mypy]\nstrict = true\nmypy_path = {_SOURCE}\ncache_dir = {tmp_path / 'cache'}\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--output", "json", str(files)]
    done = _run(command, files)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    errors = {
        Error(Path(e["file"]).name, e["line"], e["code"]) for e in found if e["severity"] == "error" and _is_ours(e)
    }

    _compare(errors, _marked("mypy"), done.stderr)


def test_pyright_accepts_right_uses_and_refuses_wrong_ones(files: Path, pyright: InstalledPackages) -> None:
    settings = {
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
        "extraPaths": [str(_SOURCE)],
        "include": ["."],
    }
    (files / "pyrightconfig.json").write_text(json.dumps(settings))
    program = str(pyright.modules / "pyright" / "index.js")
    command = [pyright.node, program, "--outputjson", "--project", str(files), "--pythonpath", sys.executable]
    done = _run(command, files)
    found: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    errors = {
        Error(Path(e["file"]).name, e["range"]["start"]["line"] + 1, e.get("rule", "syntax"))
        for e in found
        if e["severity"] == "error" and _is_ours(e)
    }

    _compare(errors, _marked("pyright"), done.stderr)


def _is_ours(error: dict[str, Any]) -> bool:
    """Leave out what is in the modules they import, which is checked elsewhere."""
    return str(error["file"]).endswith("_uses.py")


def _compare(found: set[Error], marked: set[Error], messages: str) -> None:
    extra, missing = sorted(found - marked), sorted(marked - found)
    assert not extra, f"errors without a mark: {extra} {messages}"
    assert not missing, f"marked, but no error: {missing} {messages}"


def _run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=CHECK_SECONDS_MAX, check=False
    )
