"""Every package offers what it lists, loads it at first use, and says so when there is no such name."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = (
    "agentlayers", "agentlayers.crypto", "agentlayers.eventlog", "agentlayers.journal", "agentlayers.key_value",
    "agentlayers.layer", "agentlayers.runtime", "agentlayers.server", "agentlayers.storage", "agentlayers.sync",
    "agentlayers.testing", "agentlayers.transport",
)  # fmt: skip


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_listed_is_there_by_name_by_star_and_by_dir(name: str) -> None:
    package, starred = import_module(name), dict[str, object]()
    exec(f"from {name} import *", starred)

    assert set(package.__all__) <= set(starred)
    assert set(package.__all__) <= set(dir(package))
    assert all(starred[one] is getattr(package, one) for one in package.__all__)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec(f"from {name} import nonsense")


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "agentlayers.server"])
def test_importing_a_package_loads_nothing_heavy(name: str) -> None:
    code = f"import sys, {name}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    heavy = {"aiohttp", "cryptography", "sqlite3", "dependency_injector", "pydantic", "msgpack", "sortedcontainers"}
    assert set() == heavy & set(loaded)
