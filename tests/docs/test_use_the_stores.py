"""The pages on the stores do what they say."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import MalformedMessageError
from agentlayers.layer import load_layers
from agentlayers.runtime import AgentRuntimeContainer
from agentlayers.storage import StorageCleanup
from agentlayers.sync import SyncService

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGE = (HOWTO / "use-the-stores.md").read_text(encoding="utf-8")
OWN_PAGE = (HOWTO / "declare-your-own-store.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def executed(code: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    names = {"__name__": "page"} if names is None else names
    exec(compile(code, "page.md", "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_each_example_prints_what_the_page_shows(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    await executed(blocks(PAGE, "python")[number])["main"]()

    assert len(blocks(PAGE, "python")) == len(blocks(PAGE, "text")) == 3
    assert blocks(PAGE, "text")[number] == capsys.readouterr().out


async def test_the_schedule_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = [block for block in blocks(PAGE, "yaml") if "storage_cleanup" in block]
    async with load_layers(text, container=AgentRuntimeContainer).build() as app:
        status = app.get(StorageCleanup).status()

        assert status.runs == 1
        assert status.next_run_at is not None


async def test_a_declared_store_does_what_its_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The announcement of the other replica may come before or after what is printed of its value."""
    await executed(blocks(OWN_PAGE, "python")[0])["main"]()
    (shown,) = blocks(OWN_PAGE, "text")

    assert sorted(capsys.readouterr().out.splitlines()) == sorted(shown.splitlines())


async def test_a_declared_store_is_wired_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for code in blocks(OWN_PAGE, "python"):
        executed(code, names)
    tasks, app = names["Tasks"], names["MailingApp"]
    async with load_layers("sync: {stores: {tasks: true}}", container=app).build() as running:
        store = running.get(tasks)
        await store.write(names["task_saved"], names["Task"]("1", "Water"))
        await running.get(names["RunningReaction"]).caught_up()

        assert running.get(SyncService).status.stores["tasks"].enabled
        assert await store.get("1") == names["Task"]("1", "Water")
    payload = {"id": "1", "title": "Water", "done": False}
    assert names["task_saved_later"].decode(payload) == names["TimedTask"]("1", "Water", 0.0)
    with pytest.raises(MalformedMessageError, match="newer release"):
        names["task_saved"].decode(names["task_saved_later"].encode(names["TimedTask"]("1", "Water", 2.0)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
