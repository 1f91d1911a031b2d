"""
Run an agent application in a test: its own graph, with a scripted agent, its own directory and no network.

What is replaced is what reaches out of the test; journals, stores, encryption and the server are the real ones. The
fixtures in :mod:`agentlayers.testing.pytest_plugin` are these functions with pytest's temporary directory.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from agentlayers.errors import StateError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.layer import Layer, LayerContainer, graph_of
from agentlayers.runtime.agent_runtime import AgentRuntime
from agentlayers.runtime.backend import AgentBackend
from agentlayers.runtime.presets import load_preset
from agentlayers.runtime.script import Script
from agentlayers.runtime.scripted import ScriptedBackend
from agentlayers.server import Authenticator, SQLiteServerStorage, SyncServer
from agentlayers.storage.digest import Digest, journal_digest
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.sync.service import SyncService
from agentlayers.transport.offline import OfflineTransport
from agentlayers.transport.websocket import WebSocketTransport

__all__ = ["ReplicaPair", "Target", "run_agent_app", "run_replica_pair", "run_sync_server"]

Target = type[LayerContainer] | Layer | str | Path
"""An application: a container class, a layer of :class:`AgentRuntime`, a preset's name or a YAML file."""

_STORES = {"audit_log": True, "chat_history": True, "artifacts": True}


@asynccontextmanager
async def run_agent_app(
    target: Target = "local",
    *,
    directory: Path,
    script: Script | str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    **parts: object,
) -> AsyncIterator[AgentRuntime]:
    """
    Run an application with a scripted agent, without a network, on files of its own.

    Args:
        target: The application; the preset ``local`` if not given.
        directory: Its storage directory, made if it is missing. Running it again with the same one is a restart.
        script: What the agent plays; the default script, which echoes, if not given.
        environment: For ``${NAME}`` in YAML, beside the process's own variables.
        **parts: Slots of a container or YAML to replace, instead of what is replaced by itself: ``agent_backend``,
            ``storage_config`` and ``transport``. For a layer the names are those its graph shows.

    Raises:
        UsageError: Both a script and an ``agent_backend``.
        LayerError: What is wrong with the graph.
    """
    if script is not None and "agent_backend" in parts:
        raise UsageError("the script is for the scripted agent; give script= or agent_backend=, not both")
    application = _application(target, environment)
    usual = {
        "agent_backend": ScriptedBackend(script),
        "storage_config": _config(directory),
        "transport": OfflineTransport(),
    }
    async with _running(application, parts, usual) as runtime:
        yield runtime


@asynccontextmanager
async def run_sync_server(
    directory: Path, *, token: str | None = None, port: int = 0, tcp: bool = False, **arguments: Any
) -> AsyncIterator[SyncServer]:
    """
    Run a real sync server on loopback, which keeps everything in SQLite.

    Args:
        directory: Where it keeps it. Running it again with the same one is a restart.
        token: What it asks replicas for; nothing if not given.
        port: Of WebSocket; a free one if not given. Give the former one for a restart that replicas come back to.
        tcp: Listen for TCP, too, on a free port.
        **arguments: The other parameters of :class:`~agentlayers.server.SyncServer`.

    Usage::

        async with run_sync_server(tmp_path) as server:
            transport = WebSocketTransport(server.websocket_url)
    """
    auth = Authenticator.optional_token(token)
    if tcp:
        arguments.setdefault("tcp_port", 0)
    async with (
        SQLiteServerStorage(directory) as storage,
        SyncServer(storage, auth=auth, port=port, **arguments) as server,
    ):
        yield server


@final
@dataclass(frozen=True, slots=True)
class ReplicaPair:
    """
    Two replicas of one application that share an identity, and the server between them.

    Attributes:
        first: One.
        second: The other.
        server: What they are connected to.
    """

    first: AgentRuntime
    second: AgentRuntime
    server: SyncServer

    async def settle(self, timeout_seconds: float = 30.0) -> None:
        """
        Exchange until both replicas hold everything.

        Raises:
            TransportError: It was not done in time.
        """
        # What the first one sends may come to the second after it sent its own, hence the third.
        for runtime in (self.first, self.second, self.first):
            await _sync_of(runtime).sync_now(timeout_seconds)

    async def digests(self) -> tuple[Digest, Digest]:
        """Return what each of them holds, as one number: equal exactly if they hold the same."""
        return await _digest(self.first), await _digest(self.second)

    @staticmethod
    async def disconnect(runtime: AgentRuntime) -> None:
        """Take a replica off the network, until :meth:`settle` or :meth:`connect`."""
        await _sync_of(runtime).disconnect()

    @staticmethod
    async def connect(runtime: AgentRuntime) -> None:
        """Put a replica on the network again."""
        await _sync_of(runtime).connect()


@asynccontextmanager
async def run_replica_pair(
    target: type[LayerContainer] | str | Path = "local",
    *,
    directory: Path,
    script: Script | str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    **parts: object,
) -> AsyncIterator[ReplicaPair]:
    """
    Run an application twice, as two machines would, replicated through a real server on loopback.

    Chat history, audit log and artifacts are synced.

    Args:
        target: The application, as a container or YAML; the preset ``local`` if not given.
        directory: Where the replicas and the server keep their files.
        script: What both agents play; the default script, which echoes, if not given.
        environment: For ``${NAME}`` in YAML, beside the process's own variables.
        **parts: Slots to replace in both replicas. Give no started object: each replica needs its own.

    Raises:
        LayerError: What is wrong with the graph.
    """
    if isinstance(target, Layer):
        raise UsageError("a pair of replicas is made of a container, a preset or a YAML file, not of a layer")
    application, identity = _application(target, environment), Identity.generate()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(run_sync_server(directory / "server"))
        runtimes = []
        for name in ("first", "second"):
            replaced = {
                "agent_backend": ScriptedBackend(script),
                "storage_config": _config(directory / name),
                "identity": identity,
                "transport": WebSocketTransport(server.websocket_url),
                "sync": SyncService.layer(stores=_STORES),
            }
            replica = _running(application, {**replaced, **parts})
            runtimes.append(await stack.enter_async_context(replica))
        yield ReplicaPair(runtimes[0], runtimes[1], server)


# -- what they share ----------------------------------------------------------------------------------------
def _application(target: Any, environment: Mapping[str, str] | None) -> type[LayerContainer] | Layer:
    if isinstance(target, str | Path):
        return load_preset(target, environment={**os.environ, **(environment or {})})
    if isinstance(target, Layer) or (isinstance(target, type) and issubclass(target, LayerContainer)):
        return target
    kind = type(target).__name__
    raise UsageError(f"an application is a container class, a layer, a preset's name or a YAML file, not {kind}")


def _config(directory: Path) -> StorageConfig:
    return StorageConfig.from_environment(os.environ).model_copy(update={"directory": directory})


@asynccontextmanager
async def _running(
    application: type[LayerContainer] | Layer, parts: Mapping[str, object], usual: Mapping[str, object] | None = None
) -> AsyncIterator[AgentRuntime]:
    """Run an application with parts replaced, and of the ``usual`` ones those that its graph has."""
    usual, known = usual or {}, graph_of(application).nodes
    if isinstance(application, Layer) and "agent_backend" not in known and "agent_backend" in usual:
        application = application.provide(Layer.succeed(AgentBackend, usual["agent_backend"]))
    replaced: dict[type[Any] | str, object] = {name: part for name, part in usual.items() if name in known}
    replaced.update(parts)
    with application.override(replaced):
        async with application.build(AgentRuntime) as runtime:
            yield runtime


def _sync_of(runtime: AgentRuntime) -> SyncService:
    if runtime.sync is None:
        raise StateError("this application has no sync service, so there is nothing to exchange")
    return runtime.sync


async def _digest(runtime: AgentRuntime) -> Digest:
    store = runtime.chat_history
    if store is None:
        raise StateError("this application keeps no chat history, so there is nothing to compare")
    return await journal_digest(store.journal)
