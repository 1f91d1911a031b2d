"""The errors page and the error tree are the same set."""

from __future__ import annotations

import re
from pathlib import Path

from agentlayers import errors

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")


def test_every_error_has_one_heading() -> None:
    headings = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)

    assert sorted(headings) == sorted(name for name in errors.__all__ if name != "ErrorCode")


def test_every_error_has_its_own_code_or_inherits_it_on_purpose() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name != "ErrorCode"]
    codes = [kind.code for kind in classes if kind is not errors.AgentLayersError]

    assert len(codes) == len(set(codes))
