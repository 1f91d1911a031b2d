"""The page on testing is a test run of its own, and every test on it passes."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "test-an-agent-application.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
PLUGIN = "agentlayers.testing.pytest_plugin"


def test_all_tests_of_the_page_pass(pytester: Any) -> None:
    application, *tests = PYTHON
    pytester.makepyfile(reviewer=application, **{f"test_page_{n}": code for n, code in enumerate(tests)})
    for name, text in zip(("talk.yaml", "layers.yaml"), YAML, strict=True):
        (pytester.path / name).write_text(text, encoding="utf-8")
    written = sum(code.count("async def test_") for code in tests)
    before = set(pytester.path.iterdir())

    plugin = [] if any(point.value == PLUGIN for point in entry_points(group="pytest11")) else ["-p", PLUGIN]
    options = (
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
    )
    result = pytester.runpytest_subprocess(*plugin, *options)

    result.assert_outcomes(passed=written)
    assert written == 8
    left = {path.name for path in set(pytester.path.iterdir()) - before}
    assert {name for name in left if not name.startswith("runpytest-")} <= {"__pycache__", "stdout", "stderr"}
