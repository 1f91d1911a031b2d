"""The page for those who come from other libraries is true: each example is run, each name in a table exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from inspect import iscoroutine
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import pytest
from dependency_injector import containers, providers

from agentlayers.layer import App, Layer

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "coming-from.md").read_text(encoding="utf-8")
PARTS, *EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SECTIONS = dict(re.findall(r"^## From (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module with the common parts, importable by name as wiring wants it."""
    made = ModuleType("coming_from_example")
    sys.modules[made.__name__] = made
    exec(compile(PARTS, "coming-from.md", "exec"), vars(made))
    yield made
    del sys.modules[made.__name__]


def compiled(code: str) -> CodeType:
    made = compile(code, "coming-from.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(made, CodeType)
    return made


@pytest.mark.parametrize("code", EXAMPLES, ids=[str(number) for number in range(len(EXAMPLES))])
async def test_each_example_runs(code: str, module: ModuleType) -> None:
    needed = re.match(r"# needs: (\w+)\n", code)
    if needed is not None and importlib.util.find_spec(needed[1]) is None:
        pytest.skip(f"{needed[1]} is not installed; it is no dependency of this project")
    assert "assert " in code

    outcome = FunctionType(compiled(code), vars(module))()

    if iscoroutine(outcome):
        await outcome


def cells(section: str, column: int) -> list[str]:
    rows = [re.split(r" ?\| ?", row)[1:-1] for row in re.findall(r"^\| .*\|$", SECTIONS[section], re.MULTILINE)]
    return [row[column] for row in rows if not row[0].startswith("---")][1:]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_name_in_a_table_exists(section: str) -> None:
    ours = " ".join(cells(section, 1))
    for name in re.findall(r"Layer\.(\w+)\(|\b[al]\.(\w+)\(", ours):
        assert hasattr(Layer, name[0] or name[1]), name
    for name in re.findall(r"\bapp\.(\w+)", ours):
        assert hasattr(App, name), name
    for name in re.findall(r"`(\w*(?:Singleton|Resource|Factory))`", ours):
        assert hasattr(providers, name), name


def test_names_of_dependency_injector_exist() -> None:
    theirs = " ".join(cells("dependency-injector", 0))
    for name in re.findall(r"\bcontainer\.(\w+)\(", theirs):
        assert name == "repo" or hasattr(containers.DynamicContainer, name), name


def test_every_section_has_a_table_of_some_length() -> None:
    assert {section: len(cells(section, 1)) > 7 for section in SECTIONS} == dict.fromkeys(SECTIONS, True)
