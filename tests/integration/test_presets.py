"""Every preset that ships works by name: it is loaded, opened and closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlayers import AgentRuntime, load_preset
from agentlayers.layer import load_layers
from agentlayers.layer.preset import list_presets
from agentlayers.server import ServerContainer, SyncServer

LAYERS = Path(__file__).parents[2] / "layers"
SERVERS = {"server"}


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_package_knows_every_file_of_the_layers_folder() -> None:
    assert set(list_presets()) == {path.stem for path in LAYERS.glob("*.yaml")}


@pytest.mark.parametrize("name", sorted({path.stem for path in LAYERS.glob("*.yaml")} - SERVERS))
async def test_an_agent_preset_opens_and_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = "tcp" if name.endswith("tcp") else "ws"
    monkeypatch.setenv("SYNC_URL", f"{scheme}://127.0.0.1:9")
    async with load_preset(name).build(AgentRuntime) as runtime, runtime.query("hello") as turn:
        texts = [message.text async for message in turn]

    assert "You said: hello" in texts


@pytest.mark.parametrize("name", sorted(SERVERS))
async def test_a_server_preset_listens(name: str) -> None:
    preset = load_layers(name, container=ServerContainer, containers={"server": ServerContainer})
    container = load_layers("server: {port: 0}", container=preset)
    async with container.build(SyncServer) as server:
        assert server.port > 0
