"""What importing costs: the value type loads nothing heavy, and naming something loads what it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agentlayers import layer

HEAVY = ("dependency_injector", "yaml", "structlog", "pydantic", "asyncio")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "from agentlayers.layer import Layer, Catalogue, singleton, resource, value, recipe",
        "import agentlayers.layer.override, agentlayers.layer.errors, agentlayers.layer.preset",
    ],
)
def test_the_value_type_is_light(statement: str) -> None:
    assert loaded_after(statement) == set()


def test_the_pytest_plugin_is_light() -> None:
    assert loaded_after("import pytest\nbefore = set(sys.modules)\nimport agentlayers.layer.pytest_plugin") <= {
        "asyncio"
    }


def test_everything_listed_can_be_had() -> None:
    for name in layer.__all__:
        assert getattr(layer, name) is not None
    assert set(layer.__all__) <= set(dir(layer))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        layer.nonsense  # type: ignore[attr-defined]  # noqa: B018
