"""The page on sync in a program does what it says, and names what there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from agentlayers import sync
from agentlayers.layer import graph_of
from agentlayers.runtime.presets import load_preset
from agentlayers.sync import DEFAULT_SCHEDULE, StoreStatus, SyncState, exponential, fixed

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "sync-in-a-program.md").read_text(encoding="utf-8")


async def test_the_example_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "sync-in-a-program.md", "exec", dont_inherit=True), names)
    await names["main"]()

    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("state", list(SyncState))
def test_every_state_is_explained(state: SyncState) -> None:
    assert f"| `{state}` |" in PAGE


def test_every_field_of_a_store_is_explained() -> None:
    for field in dataclasses.fields(StoreStatus):
        if field.name != "next_sequence":
            assert f"`{field.name}`" in PAGE


def test_every_public_name_of_the_room_is_on_the_page() -> None:
    assert [name for name in sync.__all__ if not re.search(rf"\b{name}\b", PAGE)] == []


def test_the_schedules_of_the_yaml_are_those_it_speaks_of() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    graph = graph_of(load_preset(text, environment={"SYNC_URL": "ws://127.0.0.1:9/event-log"}))

    assert exponential("100ms").jittered().capped("30s") == graph.nodes["sync"].arguments["schedule"]
    assert fixed(5).limited(10) == graph.nodes["runtime"].arguments["retry_schedule"]


def test_the_default_schedule_is_the_one_of_the_page() -> None:
    assert exponential(0.1).jittered().capped(5.0) == DEFAULT_SCHEDULE
