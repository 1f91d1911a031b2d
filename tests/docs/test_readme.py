"""The README's examples are run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agentlayers import AgentRuntime
from agentlayers.runtime.claude import ClaudeBackend
from agentlayers.runtime.presets import load_preset
from agentlayers.testing.messages_api import MessagesApi, claude_environment

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNC_URL", "ws://127.0.0.1:9/event-log")


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_it_begins_with_the_two_commands() -> None:
    assert SHELL[0].strip() == "python3 -m pip install . && agentlayers demo"
    assert SHELL[1].strip() == "python3 -m pip install '.[dev]' && python3 -m nox"


async def test_layers_as_values_answer_a_query(capsys: pytest.CaptureFixture[str]) -> None:
    names = run(PYTHON[0])
    await names["main"]()

    assert "hello" in capsys.readouterr().out


@pytest.mark.skipif(not ClaudeBackend.is_available(), reason="claude-agent-sdk is not installed")
async def test_layers_as_values_run_the_real_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    names = run(PYTHON[0])
    async with MessagesApi("hello from the agent") as api:
        agent = ClaudeBackend(env=claude_environment(api.url, home), options={"setting_sources": []})
        with names["app"].override(agent_backend=agent):
            await names["main"]()

    assert "hello from the agent" in capsys.readouterr().out


async def test_the_declarative_container_answers_a_query() -> None:
    app = run(PYTHON[1])["App"]
    app.config.from_dict({"sync": {"url": "ws://127.0.0.1:9/event-log"}})
    async with app.build(AgentRuntime) as runtime, runtime.query("hello") as turn:
        texts = [message.text async for message in turn]

    assert any("hello" in text for text in texts)


async def test_the_yaml_answers_a_query() -> None:
    async with load_preset(YAML[0]).build(AgentRuntime) as runtime, runtime.query("hello") as turn:
        texts = [message.text async for message in turn]

    assert any("hello" in text for text in texts)


async def test_the_example_test_passes_and_its_override_ends_with_it() -> None:
    names = run(PYTHON[2])
    await names["test_the_agent_plans"]()

    async with names["app"].build(AgentRuntime) as runtime, runtime.query("hello") as turn:
        texts = [message.text async for message in turn]
    assert "You said: hello" in texts
