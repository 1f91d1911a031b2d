"""
Layers for Python, and the agent runtime they wire: recorded, encrypted, replicated.

The names below are loaded when first used, so that ``import agentlayers`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agentlayers.eventlog.identity import Identity
    from agentlayers.journal.compaction import Compaction
    from agentlayers.journal.conflict_policy import ConflictPolicy
    from agentlayers.journal.event_journal import EventJournal
    from agentlayers.layer import Layer
    from agentlayers.runtime.agent_runtime import AgentRuntime
    from agentlayers.runtime.containers import AgentRuntimeContainer
    from agentlayers.runtime.presets import load_preset
    from agentlayers.runtime.scripted import ScriptedBackend
    from agentlayers.storage.artifacts import ArtifactStore
    from agentlayers.storage.audit_log import AuditEventStore
    from agentlayers.storage.chat_history import ChatHistoryStore
    from agentlayers.storage.session_index import SessionIndexStore
    from agentlayers.storage.storage_config import StorageConfig
    from agentlayers.sync.service import SyncService
    from agentlayers.transport.transport import Transport

_HOMES: Final = {
    "AgentRuntime": "agentlayers.runtime.agent_runtime",
    "AgentRuntimeContainer": "agentlayers.runtime.containers",
    "ArtifactStore": "agentlayers.storage.artifacts",
    "AuditEventStore": "agentlayers.storage.audit_log",
    "ChatHistoryStore": "agentlayers.storage.chat_history",
    "Compaction": "agentlayers.journal.compaction",
    "ConflictPolicy": "agentlayers.journal.conflict_policy",
    "EventJournal": "agentlayers.journal.event_journal",
    "Identity": "agentlayers.eventlog.identity",
    "Layer": "agentlayers.layer",
    "ScriptedBackend": "agentlayers.runtime.scripted",
    "SessionIndexStore": "agentlayers.storage.session_index",
    "StorageConfig": "agentlayers.storage.storage_config",
    "SyncService": "agentlayers.sync.service",
    "Transport": "agentlayers.transport.transport",
    "load_preset": "agentlayers.runtime.presets",
}

__all__ = [
    "AgentRuntime",
    "AgentRuntimeContainer",
    "ArtifactStore",
    "AuditEventStore",
    "ChatHistoryStore",
    "Compaction",
    "ConflictPolicy",
    "EventJournal",
    "Identity",
    "Layer",
    "ScriptedBackend",
    "SessionIndexStore",
    "StorageConfig",
    "SyncService",
    "Transport",
    "load_preset",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
