"""The agent stores: chat history, artifacts, audit log, session index; settings, cleanup, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.storage.artifact import (
        ArtifactConflict,
        ArtifactKind,
        ArtifactRecord,
        ArtifactVersion,
    )
    from agentlayers.storage.artifact_chunk import ContentChunks
    from agentlayers.storage.artifacts import ArtifactStore
    from agentlayers.storage.audit_event import AuditEntry
    from agentlayers.storage.audit_log import AuditEventStore
    from agentlayers.storage.chat_event import ChatEvent, ChatEventSource
    from agentlayers.storage.chat_history import ChatHistoryStore
    from agentlayers.storage.chat_search import ChatMatch
    from agentlayers.storage.cleanup import CleanupReport, CleanupStatus, StorageCleanup
    from agentlayers.storage.declared_handler import projects, reacts, retracts
    from agentlayers.storage.digest import Digest, digest_of, journal_digest
    from agentlayers.storage.event_store import EventStore
    from agentlayers.storage.export import export_lines, read_entries
    from agentlayers.storage.pagination import Page
    from agentlayers.storage.rebuild import Rebuilt, rebuild_open
    from agentlayers.storage.session_index import SessionIndexStore, SessionMeta
    from agentlayers.storage.storage_config import StorageConfig

__all__ = [
    "ArtifactConflict",
    "ArtifactKind",
    "ArtifactRecord",
    "ArtifactStore",
    "ArtifactVersion",
    "AuditEntry",
    "AuditEventStore",
    "ChatEvent",
    "ChatEventSource",
    "ChatHistoryStore",
    "ChatMatch",
    "CleanupReport",
    "CleanupStatus",
    "ContentChunks",
    "Digest",
    "EventStore",
    "Page",
    "Rebuilt",
    "SessionIndexStore",
    "SessionMeta",
    "StorageCleanup",
    "StorageConfig",
    "digest_of",
    "export_lines",
    "journal_digest",
    "projects",
    "reacts",
    "read_entries",
    "rebuild_open",
    "retracts",
]

_HOMES = {
    "ArtifactConflict": "artifact",
    "ArtifactKind": "artifact",
    "ArtifactRecord": "artifact",
    "ArtifactStore": "artifacts",
    "ArtifactVersion": "artifact",
    "AuditEntry": "audit_event",
    "AuditEventStore": "audit_log",
    "ChatEvent": "chat_event",
    "ChatEventSource": "chat_event",
    "ChatHistoryStore": "chat_history",
    "ChatMatch": "chat_search",
    "CleanupReport": "cleanup",
    "CleanupStatus": "cleanup",
    "ContentChunks": "artifact_chunk",
    "Digest": "digest",
    "EventStore": "event_store",
    "Page": "pagination",
    "Rebuilt": "rebuild",
    "SessionIndexStore": "session_index",
    "SessionMeta": "session_index",
    "StorageCleanup": "cleanup",
    "StorageConfig": "storage_config",
    "digest_of": "digest",
    "export_lines": "export",
    "journal_digest": "digest",
    "projects": "declared_handler",
    "reacts": "declared_handler",
    "read_entries": "export",
    "rebuild_open": "rebuild",
    "retracts": "declared_handler",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
