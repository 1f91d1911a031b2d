"""The page about watching an agent is true: its examples run, and its table names every instrument."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "watch-an-agent.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


async def test_the_examples_run_one_after_the_other() -> None:
    pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed: it is in the extra dev")
    names: dict[str, Any] = {}
    for example in EXAMPLES:
        assert "assert " in example
        code = compile(example, "watch-an-agent.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        outcome = FunctionType(code, names)()
        if inspect.iscoroutine(outcome):
            await outcome


def test_the_table_names_every_instrument_and_span() -> None:
    source = (Path(__file__).parents[2] / "src/agentlayers/runtime/open_telemetry.py").read_text(encoding="utf-8")
    told = set(re.findall(r'"(agent\.[a-z.]+)"', source))

    assert told == set(re.findall(r"^\| `(agent\.[a-z.]+)`", PAGE, re.MULTILINE))
