"""
The container an agent application subclasses, and the names its slots have in YAML.

The default graph is a local replica: a SQLite journal and an identity file in the storage directory, all
four stores, the scripted agent, and no network. Settings come from the environment when an app is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from dependency_injector import providers

from agentlayers.crypto.encryption import AesGcmEncryption, Encryption, PlaintextEncryption
from agentlayers.errors import LayerError
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.compaction import (
    ByAge,
    ByCount,
    ByKey,
    BySize,
    CompactionStrategy,
    Composite,
)
from agentlayers.journal.conflict_policy import (
    ConflictPolicy,
    FirstWriteWins,
    LastWriteWins,
    Reject,
)
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.key_value.filesystem_store import FileSystemKeyValueStore
from agentlayers.key_value.key_value_store import KeyValueStore
from agentlayers.key_value.memory_store import MemoryKeyValueStore
from agentlayers.key_value.sqlite_store import SQLiteKeyValueStore
from agentlayers.layer import Catalogue, LayerContainer, recipe, resource, singleton
from agentlayers.runtime.agent_runtime import AgentRuntime, open_runtime
from agentlayers.runtime.backend import AgentBackend
from agentlayers.runtime.query_supervisor import QuerySupervisor, supervisor_from_env
from agentlayers.runtime.scripted import ScriptedBackend
from agentlayers.runtime.session_store import AgentSessionStore
from agentlayers.runtime.telemetry import Telemetry
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.own_journal import own_key_value_journal, own_sqlite_journal
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.sync.service import SyncService
from agentlayers.transport.offline import OfflineTransport
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport

__all__ = ["IDENTITY_FILE", "KEY_VALUE_DIRECTORY", "AgentRuntimeContainer"]

IDENTITY_FILE = "identity"
"""Name of the identity file in the storage directory."""

KEY_VALUE_DIRECTORY = "key_value"
"""Name of the directory, in the storage directory, of a key-value store in plain files."""


def identity_file(path: str | None = None, *, storage_config: StorageConfig) -> Identity:
    """Read the replica's identity, ``identity`` in the storage directory unless told otherwise; made if missing."""
    return Identity.load_or_create(storage_config.directory / IDENTITY_FILE if path is None else path)


def sqlite_journal(
    directory: str | None = None, durability: str = "full", *, storage_config: StorageConfig
) -> SQLiteJournal:
    """Keep the journal in ``journal.sqlite`` in the storage directory unless told otherwise."""
    return SQLiteJournal(storage_config.directory if directory is None else directory, durability=durability)


def sqlite_key_value_store(directory: str | None = None, *, storage_config: StorageConfig) -> SQLiteKeyValueStore:
    """Keep pairs in ``key_value.sqlite`` in the storage directory unless told otherwise."""
    return SQLiteKeyValueStore(storage_config.directory if directory is None else directory)


def filesystem_key_value_store(
    directory: str | None = None, *, storage_config: StorageConfig
) -> FileSystemKeyValueStore:
    """Keep a file for each pair, below ``key_value`` in the storage directory unless told otherwise."""
    return FileSystemKeyValueStore(storage_config.directory / KEY_VALUE_DIRECTORY if directory is None else directory)


def claude_backend(
    cli_path: str | None = None,
    env: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    sessions: AgentSessionStore | None = None,
) -> AgentBackend:
    """Run agents with the claude command; needs the extra ``claude``, which is looked for only here."""
    from agentlayers.runtime.claude import ClaudeBackend

    return ClaudeBackend(sessions=sessions, cli_path=cli_path, env=env, options=options)


def open_telemetry(*, metrics: bool = True, tracing: bool = True) -> Telemetry:
    """Tell OpenTelemetry what queries do; needs the extra ``otel``, which is looked for only here."""
    from agentlayers.runtime.open_telemetry import OpenTelemetry

    return OpenTelemetry(metrics=metrics, tracing=tracing)


def keep_everything() -> CompactionStrategy:
    """Drop nothing beyond the retention of the settings."""
    return Composite()


def scheduled_cleanup(
    interval: str | float | None = None,
    *,
    run_on_start: bool | str | None = None,
    enabled: bool | str | None = None,
    chat_history: ChatHistoryStore | None = None,
    artifacts: ArtifactStore | None = None,
    audit_log: AuditEventStore | None = None,
    storage_config: StorageConfig | None = None,
) -> StorageCleanup:
    """Enforce the stores' retention; when, is as the storage settings say where it is not given."""
    given = {"interval": interval, "run_on_start": run_on_start, "enabled": enabled}
    return StorageCleanup(
        chat_history=chat_history,
        artifacts=artifacts,
        audit_log=audit_log,
        storage_config=storage_config,
        schedule={name: value for name, value in given.items() if value is not None},
    )


def merge_needs_python(*_arguments: Any, **_named: Any) -> NoReturn:
    """Say why ``merge`` cannot be chosen in YAML."""
    raise LayerError(
        "conflict_policy: merge takes a function, which YAML cannot hold; "
        "write the slot in Python: conflict_policy = providers.Singleton(Merge, your_function)"
    )


def _store(store: Any) -> dict[str, Any]:
    """Name the ways to keep a journaled store."""
    return {
        "journaled": resource(store),
        "journaled_with_sync_websocket": recipe(store.layer_journaled_with_sync_websocket),
        "memory": recipe(store.layer_memory),
        "sqlite": recipe(store.layer_sqlite),
        "filesystem": recipe(store.layer_filesystem),
        "key_value": recipe(store.layer_key_value),
    }


class AgentRuntimeContainer(LayerContainer):
    """
    Everything an agent application is wired from; subclass it and replace slots.

    Usage::

        class App(AgentRuntimeContainer):
            conflict_policy = providers.Singleton(LastWriteWins)
            transport = providers.Singleton(WebSocketTransport, url=AgentRuntimeContainer.config.sync.url)

        App.config.from_dict({"sync": {"url": "ws://127.0.0.1:8000"}})
        async with App.build(AgentRuntime) as runtime: ...
    """

    config = providers.Configuration()
    storage_config: providers.Provider[StorageConfig] = providers.Singleton(StorageConfig.from_environment)
    key_value_store: providers.Provider[KeyValueStore] = providers.Resource(sqlite_key_value_store)
    identity: providers.Provider[Identity] = providers.Singleton(identity_file)
    encryption: providers.Provider[Encryption] = providers.Singleton(AesGcmEncryption)
    journal: providers.Provider[EventJournal] = providers.Resource(sqlite_journal)
    conflict_policy: providers.Provider[ConflictPolicy] = providers.Singleton(LastWriteWins)
    compaction: providers.Provider[CompactionStrategy] = providers.Singleton(keep_everything)
    transport: providers.Provider[Transport] = providers.Singleton(OfflineTransport)
    sync: providers.Provider[SyncService] = providers.Resource(SyncService)
    session_index: providers.Provider[SessionIndexStore] = providers.Resource(SessionIndexStore)
    chat_history: providers.Provider[ChatHistoryStore] = providers.Resource(ChatHistoryStore)
    artifacts: providers.Provider[ArtifactStore] = providers.Resource(ArtifactStore)
    audit_log: providers.Provider[AuditEventStore] = providers.Resource(AuditEventStore)
    storage_cleanup: providers.Provider[StorageCleanup] = providers.Resource(scheduled_cleanup)
    agent_sessions: providers.Provider[AgentSessionStore] = providers.Resource(AgentSessionStore)
    agent_backend: providers.Provider[AgentBackend] = providers.Singleton(ScriptedBackend)
    telemetry: providers.Provider[Telemetry] = providers.Singleton(Telemetry)
    query_supervisor: providers.Provider[QuerySupervisor] = providers.Resource(supervisor_from_env)
    runtime: providers.Provider[AgentRuntime] = providers.Resource(open_runtime)

    # Opened only when something is kept in it, so that nobody finds a file that nothing uses.
    on_demand = frozenset({"key_value_store"})

    catalogue = Catalogue(
        storage_config={"from_env": singleton(StorageConfig.from_environment)},
        identity={
            "file": singleton(identity_file),
            "text": singleton(Identity.decode_string),
            "generated": singleton(Identity.generate),
        },
        encryption={
            "aes_gcm": singleton(AesGcmEncryption),
            "plaintext": singleton(PlaintextEncryption),
        },
        key_value_store={
            "sqlite": resource(sqlite_key_value_store),
            "filesystem": resource(filesystem_key_value_store),
            "memory": resource(MemoryKeyValueStore),
            "redis": recipe(KeyValueStore.layer_redis),
        },
        journal={
            "sqlite": resource(sqlite_journal),
            "memory": resource(MemoryJournal),
            "key_value": resource(KeyValueJournal),
            "own_key_value": resource(own_key_value_journal),  # inside a store: keys of that store alone
            "own_sqlite": resource(own_sqlite_journal),  # inside a store: the file of that store alone
        },
        conflict_policy={
            "last_write_wins": singleton(LastWriteWins),
            "first_write_wins": singleton(FirstWriteWins),
            "reject": singleton(Reject),
            "merge": singleton(merge_needs_python),
        },
        compaction={
            "by_age": singleton(ByAge),
            "by_count": singleton(ByCount),
            "by_size": singleton(BySize),
            "by_key": singleton(ByKey),
            "composite": singleton(Composite),
            "none": singleton(keep_everything),
        },
        transport={
            "websocket": singleton(WebSocketTransport),
            "tcp": singleton(TCPTransport),
            "offline": singleton(OfflineTransport),
        },
        sync={"default": resource(SyncService)},
        session_index={
            "journaled": resource(SessionIndexStore),
            "memory": recipe(SessionIndexStore.layer_memory),
            "sqlite": recipe(SessionIndexStore.layer_sqlite),
            "filesystem": recipe(SessionIndexStore.layer_filesystem),
            "key_value": recipe(SessionIndexStore.layer_key_value),
        },
        chat_history=_store(ChatHistoryStore),
        artifacts=_store(ArtifactStore),
        audit_log=_store(AuditEventStore),
        storage_cleanup={"scheduled": resource(scheduled_cleanup)},
        agent_sessions={
            "journaled": resource(AgentSessionStore),
            "memory": recipe(AgentSessionStore.layer_memory),
            "sqlite": recipe(AgentSessionStore.layer_sqlite),
            "key_value": recipe(AgentSessionStore.layer_key_value),
        },
        agent_backend={
            "scripted": singleton(ScriptedBackend),
            "claude": singleton(claude_backend),
        },
        telemetry={"none": singleton(Telemetry), "open_telemetry": singleton(open_telemetry)},
        query_supervisor={"default": resource(supervisor_from_env)},
        runtime={"default": resource(open_runtime)},
    )
