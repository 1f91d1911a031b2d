"""
The agent runtime: queries on a backend, supervised, recorded and audited.

Importing this package loads nothing heavy; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.runtime.agent_runtime import AgentRuntime
    from agentlayers.runtime.audit_trail import AuditTrail
    from agentlayers.runtime.backend import AgentBackend, BackendQuery, Prompt
    from agentlayers.runtime.broadcast import Subscription
    from agentlayers.runtime.chat_history import ChatHistory, ChatRecorder
    from agentlayers.runtime.claude import ClaudeBackend
    from agentlayers.runtime.claude_transcript_files import TranscriptFile, find_transcripts
    from agentlayers.runtime.claude_transcript_import import FileImport, TranscriptImporter
    from agentlayers.runtime.claude_transcript_stores import TranscriptStores, open_transcript_stores
    from agentlayers.runtime.claude_transcript_watch import TranscriptWatcher
    from agentlayers.runtime.containers import AgentRuntimeContainer
    from agentlayers.runtime.hook_audit import HookAudit
    from agentlayers.runtime.hook_presets import auto_approve, auto_deny, console_logger, observe, timing
    from agentlayers.runtime.hooks import HOOK_EVENTS, HookContext, HookMatcher, merge_hooks
    from agentlayers.runtime.message import AgentMessage, ToolResult, ToolUse, user_message
    from agentlayers.runtime.open_telemetry import OpenTelemetry
    from agentlayers.runtime.options import QueryOptions
    from agentlayers.runtime.query_event import (
        QueryCompleted,
        QueryEvent,
        QueryQueued,
        QueryStarted,
        QueryStartFailed,
    )
    from agentlayers.runtime.query_handle import QueryHandle
    from agentlayers.runtime.query_status import QueryStatus
    from agentlayers.runtime.query_supervisor import QuerySupervisor, QuerySupervisorStats
    from agentlayers.runtime.script import (
        CallTool,
        Delay,
        Fail,
        Interrupt,
        Say,
        Script,
        Think,
        Turn,
    )
    from agentlayers.runtime.scripted import ScriptedBackend
    from agentlayers.runtime.session_store import AgentSessionStore, PortableSessions
    from agentlayers.runtime.settings import RuntimeSettings, SupervisorSettings
    from agentlayers.runtime.shared_messages import SharedMessages
    from agentlayers.runtime.tap import MessageTap, QueryEnd, Receipt
    from agentlayers.runtime.telemetry import QueryTelemetry, Telemetry
    from agentlayers.runtime.tool_artifacts import ToolArtifacts

__all__ = [
    "HOOK_EVENTS",
    "AgentBackend",
    "AgentMessage",
    "AgentRuntime",
    "AgentRuntimeContainer",
    "AgentSessionStore",
    "AuditTrail",
    "BackendQuery",
    "CallTool",
    "ChatHistory",
    "ChatRecorder",
    "ClaudeBackend",
    "Delay",
    "Fail",
    "FileImport",
    "HookAudit",
    "HookContext",
    "HookMatcher",
    "Interrupt",
    "MessageTap",
    "OpenTelemetry",
    "PortableSessions",
    "Prompt",
    "QueryCompleted",
    "QueryEnd",
    "QueryEvent",
    "QueryHandle",
    "QueryOptions",
    "QueryQueued",
    "QueryStartFailed",
    "QueryStarted",
    "QueryStatus",
    "QuerySupervisor",
    "QuerySupervisorStats",
    "QueryTelemetry",
    "Receipt",
    "RuntimeSettings",
    "Say",
    "Script",
    "ScriptedBackend",
    "SharedMessages",
    "Subscription",
    "SupervisorSettings",
    "Telemetry",
    "Think",
    "ToolArtifacts",
    "ToolResult",
    "ToolUse",
    "TranscriptFile",
    "TranscriptImporter",
    "TranscriptStores",
    "TranscriptWatcher",
    "Turn",
    "auto_approve",
    "auto_deny",
    "console_logger",
    "find_transcripts",
    "merge_hooks",
    "observe",
    "open_transcript_stores",
    "timing",
    "user_message",
]

_MODULES: dict[str, tuple[str, ...]] = {
    "agent_runtime": ("AgentRuntime",),
    "audit_trail": ("AuditTrail",),
    "backend": ("AgentBackend", "BackendQuery", "Prompt"),
    "broadcast": ("Subscription",),
    "chat_history": ("ChatHistory", "ChatRecorder"),
    "claude": ("ClaudeBackend",),
    "claude_transcript_files": ("TranscriptFile", "find_transcripts"),
    "claude_transcript_import": ("FileImport", "TranscriptImporter"),
    "claude_transcript_stores": ("TranscriptStores", "open_transcript_stores"),
    "claude_transcript_watch": ("TranscriptWatcher",),
    "containers": ("AgentRuntimeContainer",),
    "hook_audit": ("HookAudit",),
    "hook_presets": ("auto_approve", "auto_deny", "console_logger", "observe", "timing"),
    "hooks": ("HOOK_EVENTS", "HookContext", "HookMatcher", "merge_hooks"),
    "message": ("AgentMessage", "ToolResult", "ToolUse", "user_message"),
    "open_telemetry": ("OpenTelemetry",),
    "options": ("QueryOptions",),
    "query_event": ("QueryCompleted", "QueryEvent", "QueryQueued", "QueryStartFailed", "QueryStarted"),
    "query_handle": ("QueryHandle",),
    "query_status": ("QueryStatus",),
    "query_supervisor": ("QuerySupervisor", "QuerySupervisorStats"),
    "script": ("CallTool", "Delay", "Fail", "Interrupt", "Say", "Script", "Think", "Turn"),
    "scripted": ("ScriptedBackend",),
    "session_store": ("AgentSessionStore", "PortableSessions"),
    "settings": ("RuntimeSettings", "SupervisorSettings"),
    "shared_messages": ("SharedMessages",),
    "tap": ("MessageTap", "QueryEnd", "Receipt"),
    "telemetry": ("QueryTelemetry", "Telemetry"),
    "tool_artifacts": ("ToolArtifacts",),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
