"""
Layers for Python, and the agent runtime they wire: recorded, encrypted, replicated.

The names below are loaded when first used, so that ``import agentlayers`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

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

_HOMES = {
    "AgentRuntime": "runtime.agent_runtime",
    "AgentRuntimeContainer": "runtime.containers",
    "ArtifactStore": "storage.artifacts",
    "AuditEventStore": "storage.audit_log",
    "ChatHistoryStore": "storage.chat_history",
    "Compaction": "journal.compaction",
    "ConflictPolicy": "journal.conflict_policy",
    "EventJournal": "journal.event_journal",
    "Identity": "eventlog.identity",
    "Layer": "layer",
    "ScriptedBackend": "runtime.scripted",
    "SessionIndexStore": "storage.session_index",
    "StorageConfig": "storage.storage_config",
    "SyncService": "sync.service",
    "Transport": "transport.transport",
    "load_preset": "runtime.presets",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
