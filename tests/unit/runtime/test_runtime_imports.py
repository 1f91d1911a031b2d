"""What importing the runtime loads."""

import subprocess
import sys

import pytest

import agentlayers.runtime


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        (
            "import agentlayers.runtime",
            {"dependency_injector", "aiohttp", "cryptography", "sqlite3", "pydantic", "yaml"},
        ),
        ("from agentlayers.runtime import Script, ScriptedBackend", {"dependency_injector", "aiohttp", "sqlite3"}),
        ("from agentlayers.runtime import AgentRuntime", {"dependency_injector", "aiohttp"}),
    ],
)
def test_importing_stays_light(statement: str, forbidden: set[str]) -> None:
    code = f"{statement}; import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert set() == forbidden & set(loaded)


def test_every_public_name_can_be_imported() -> None:
    for name in agentlayers.runtime.__all__:
        assert getattr(agentlayers.runtime, name) is not None
    with pytest.raises(AttributeError):
        agentlayers.runtime.no_such_name  # type: ignore[attr-defined]  # noqa: B018
