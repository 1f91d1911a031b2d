"""
Fixtures for tests of agent applications; loads nothing heavy until a test asks for one.

Registered through the ``pytest11`` entry point. Each fixture is a function that gives an ``async with`` block, so it
works with whatever runs your asynchronous tests.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agentlayers.runtime.agent_runtime import AgentRuntime
    from agentlayers.server import SyncServer
    from agentlayers.testing.agent_application import ReplicaPair

__all__ = ["agent_app", "replica_pair", "sync_server"]


@pytest.fixture
def agent_app(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[AgentRuntime]]:
    """
    Run your application with a scripted agent, without a network, on files of the test's own.

    ``async with agent_app(App, script=script) as runtime``; see
    :func:`agentlayers.testing.agent_application.run_agent_app`. A second block of the same test is a restart: it finds
    what the first one kept.
    """
    from agentlayers.testing.agent_application import run_agent_app

    def run(target: Any = "local", **arguments: Any) -> AbstractAsyncContextManager[AgentRuntime]:
        arguments.setdefault("directory", tmp_path / "storage")
        return run_agent_app(target, **arguments)

    return run


@pytest.fixture
def sync_server(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[SyncServer]]:
    """
    Run a real sync server on loopback, on files of the test's own.

    ``async with sync_server(token="secret") as server``; see
    :func:`agentlayers.testing.agent_application.run_sync_server`.
    """
    from agentlayers.testing.agent_application import run_sync_server

    def run(directory: Path | None = None, **arguments: Any) -> AbstractAsyncContextManager[SyncServer]:
        return run_sync_server(directory or tmp_path / "server", **arguments)

    return run


@pytest.fixture
def replica_pair(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[ReplicaPair]]:
    """
    Run your application on two replicas that a real server keeps in step.

    ``async with replica_pair(App, script=script) as pair``; see
    :func:`agentlayers.testing.agent_application.run_replica_pair`.
    """
    from agentlayers.testing.agent_application import run_replica_pair

    def run(target: Any = "local", **arguments: Any) -> AbstractAsyncContextManager[ReplicaPair]:
        arguments.setdefault("directory", tmp_path / "pair")
        return run_replica_pair(target, **arguments)

    return run
