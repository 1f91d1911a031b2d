"""Shipped for tests of your own: agent applications on two machines, contract suites of backends, laws of policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.testing.agent_application import ReplicaPair, run_agent_app, run_replica_pair, run_sync_server

__all__ = ["ReplicaPair", "run_agent_app", "run_replica_pair", "run_sync_server"]

_HOMES = {
    "ReplicaPair": "agent_application",
    "run_agent_app": "agent_application",
    "run_replica_pair": "agent_application",
    "run_sync_server": "agent_application",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
