"""
The page of layer errors and the classes are the same set, and every example prints what the page shows.

After a change of texts, ``python tests/docs/test_layer_errors_page.py`` writes what the examples print into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agentlayers.errors import LayerError
from agentlayers.layer import errors

PATH = Path(__file__).parents[2] / "docs" / "reference" / "layer-errors.md"
PAGE = PATH.read_text(encoding="utf-8")
SECTION = re.compile(r"^## (\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = {match[1]: match[2] for match in SECTION.finditer(PAGE)}
CODE = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, LayerError) and kind is not LayerError and not name.startswith("_")
}
RUNNER = """
import sys
from agentlayers.layer.errors import LayerError, LayerValidationError
try:
    import example
except LayerError as error:
    kinds = [type(problem).__name__ for problem in getattr(error, "problems", ())]
    print(" ".join([type(error).__name__, *kinds]))
    print(error)
"""


def run_example(directory: Path, code: str) -> tuple[list[str], str]:
    """Run an example as a file beside the common parts; give the classes it raised, and the text."""
    (directory / "parts.py").write_text(parts(), encoding="utf-8")
    (directory / "example.py").write_text(code, encoding="utf-8")
    outcome = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    kinds, _, text = outcome.stdout.partition("\n")
    assert kinds, outcome.stderr or "the example raises no layer error"
    return kinds.split(), text


def parts() -> str:
    match = re.search(r"```python\n# parts\.py\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    return match[1]


def test_every_error_class_has_one_heading_and_every_heading_a_class() -> None:
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)

    assert sorted(headings) == sorted(CLASSES)
    assert sorted(CLASSES) == sorted(name for name in errors.__all__ if name[0].isupper())


def test_every_link_in_an_error_leads_to_a_heading() -> None:
    anchors = {heading.lower() for heading in SECTIONS}

    for kind in CLASSES.values():
        link = getattr(kind, "docs_link", None)
        if link is not None:
            page, _, anchor = link().partition("#")
            assert (PATH.parents[2] / page) == PATH
            assert anchor in anchors


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_section_has_a_cause_and_a_fix(name: str) -> None:
    assert SECTIONS[name].count("**Cause:** ") == 1
    assert SECTIONS[name].count("**Fix:** ") == 1


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_example_raises_its_error_and_prints_the_text_below_it(name: str, tmp_path: Path) -> None:
    ((code, shown),) = CODE.findall(SECTIONS[name])
    kinds, text = run_example(tmp_path, code)

    assert name in kinds
    assert shown == text


def rewrite() -> None:
    def filled(match: re.Match[str]) -> str:
        if match[1].startswith("# parts.py"):
            return match[0]
        with tempfile.TemporaryDirectory() as directory:
            _kinds, text = run_example(Path(directory), match[1])
        return f"```python\n{match[1]}```\n\n```text\n{text}```\n"

    PATH.write_text(CODE.sub(filled, PAGE), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
