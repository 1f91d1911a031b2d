"""Rules about the code that no other tool checks."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import agentlayers

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "agentlayers"
FILE_LINES_MAX = 520
FUNCTION_LINES_MAX = 60
HEAVY = {"aiohttp", "cryptography", "sqlite3", "dependency_injector", "pydantic", "typer", "rich", "yaml", "structlog"}

FILES = sorted(SOURCE.rglob("*.py"))


def test_the_rules_see_the_source() -> None:
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_holds_one_concept_and_stays_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lengths = {
        node.name: (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert len(text.splitlines()) <= FILE_LINES_MAX
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, agentlayers, agentlayers.layer, agentlayers.layer.pytest_plugin; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert HEAVY & set(loaded) == set()


def test_every_public_name_can_be_loaded() -> None:
    assert {name for name in agentlayers.__all__ if getattr(agentlayers, name) is None} == set()
    assert sorted(agentlayers.__all__) == agentlayers.__all__


def test_no_test_module_needs_the_shared_folder() -> None:
    offenders = [
        path for path in ROOT.rglob("*.py") if ".nox" not in path.parts and "../" + "shared" in path.read_text("utf-8")
    ]

    assert offenders == []


def test_the_top_level_holds_what_it_should() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")

    assert {line.split("/")[0] for line in tracked.stdout.splitlines()} == {
        ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "docs", "layers", "noxfile.py", "pyproject.toml",
        "src", "tests",
    }  # fmt: skip
