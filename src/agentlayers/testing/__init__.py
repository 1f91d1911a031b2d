"""Shipped for tests of your own: agent applications on two machines, contract suites of backends, laws of policies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlayers.testing.agent_application import ReplicaPair, run_agent_app, run_replica_pair, run_sync_server

__all__ = ["ReplicaPair", "run_agent_app", "run_replica_pair", "run_sync_server"]

_HOMES = {
    "ReplicaPair": "agent_application",
    "run_agent_app": "agent_application",
    "run_replica_pair": "agent_application",
    "run_sync_server": "agent_application",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    found = getattr(import_module(f"agentlayers.testing.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
