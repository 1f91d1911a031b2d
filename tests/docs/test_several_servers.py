"""The page on several servers does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agentlayers.runtime.presets import load_preset
from agentlayers.sync import SyncService

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "several-servers.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """Return the only block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


async def test_the_example_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block("python"), "several-servers.md", "exec", dont_inherit=True), names)
    await names["main"]()

    assert block("text") == capsys.readouterr().out


async def test_the_graph_of_the_page_syncs_with_three_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTLAYERS_STORAGE_DIRECTORY", str(tmp_path))
    graph = load_preset(block("yaml"), environment={"SYNC_URL": "ws://127.0.0.1:9/event-log"})
    async with graph.build(SyncService) as sync:
        assert list(sync.status.remotes) == [
            "ws://127.0.0.1:9/event-log",
            "ws://127.0.0.1:8789/event-log",
            "tcp://127.0.0.1:8788",
        ]
