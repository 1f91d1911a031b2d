"""
Everything the TypeScript reference offers (its sections 0 to 5), and what stands for it here.

A row is (name there, where it is here) or (name there, None, why it is not).
"""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any, NamedTuple

import pytest

from agentlayers.runtime import RuntimeSettings, SupervisorSettings
from agentlayers.runtime.hooks import HOOK_EVENTS
from agentlayers.runtime.query_supervisor import DURATION_BOUNDS_MS, QuerySupervisorStats
from agentlayers.storage import StorageConfig


class Row(NamedTuple):
    there: str
    here: str | None
    why: str = ""


RUNTIME = "agentlayers.runtime."
HANDLE = f"{RUNTIME}QueryHandle."
SUPERVISOR = f"{RUNTIME}QuerySupervisor."
REMOTE = f"{RUNTIME}AgentRuntime.layer_with_remote_sync"

SURFACE = [
    # -- 1. AgentRuntime --
    Row("AgentRuntime.query", f"{RUNTIME}AgentRuntime.query"),
    Row("AgentRuntime.queryRaw", f"{RUNTIME}AgentRuntime.query_raw"),
    Row("AgentRuntime.stream", f"{RUNTIME}AgentRuntime.stream"),
    Row("AgentRuntime.stats", f"{RUNTIME}AgentRuntime.stats"),
    Row("AgentRuntime.interruptAll", f"{RUNTIME}AgentRuntime.interrupt_all"),
    Row("AgentRuntime.events", f"{RUNTIME}AgentRuntime.events"),
    Row("AgentRuntime.layer", f"{RUNTIME}AgentRuntime.layer"),
    Row("AgentRuntime.layerDefault", f"{RUNTIME}AgentRuntime.layer_default"),
    Row("AgentRuntime.layerDefaultFromEnv", f"{RUNTIME}AgentRuntime.layer_default_from_env"),
    Row("AgentRuntime.layerWithPersistence", f"{RUNTIME}AgentRuntime.layer_with_persistence"),
    Row("AgentRuntime.layerWithRemoteSync", REMOTE),
    Row("option merging", f"{RUNTIME}options.merge_options"),
    Row("defaultOptions", f"{RUNTIME}RuntimeSettings#default_options"),
    Row("queryTimeout", f"{RUNTIME}RuntimeSettings#query_timeout"),
    Row("firstMessageTimeout", f"{RUNTIME}RuntimeSettings#first_message_timeout"),
    Row("retryMaxRetries", f"{RUNTIME}RuntimeSettings#retry_max_retries"),
    Row("retryBaseDelay", f"{RUNTIME}RuntimeSettings#retry_base_delay"),
    Row("layerFromEnv", f"{RUNTIME}RuntimeSettings.from_env"),
    Row("layerWith", f"{RUNTIME}RuntimeSettings.of"),
    Row("QueryTimeout as an interrupt only", "agentlayers.errors.QueryTimeoutError"),
    # layerWithPersistence: layers, history, audit
    Row("layers.*", "agentlayers.runtime.AgentRuntime.layer_with_persistence(slots)"),
    Row("history.recordInput", f"{RUNTIME}RuntimeSettings#record_input"),
    Row("history.recordOutput", f"{RUNTIME}RuntimeSettings#record_output"),
    Row("history.strict", f"{RUNTIME}RuntimeSettings#record_strict"),
    Row("audit.strict", f"{RUNTIME}RuntimeSettings#audit_strict"),
    Row("audit.logHookOutcomes", f"{RUNTIME}RuntimeSettings#audit_hook_outcomes"),
    Row("audit.logPermissionDecisions", f"{RUNTIME}RuntimeSettings#audit_permission_decisions"),
    Row("audit.matcher", f"{RUNTIME}RuntimeSettings#audit_matcher"),
    Row("audit.timeout", f"{RUNTIME}RuntimeSettings#audit_timeout"),
    # layerWithRemoteSync
    Row("url", f"{REMOTE}(url)"),
    Row("tenant", f"{REMOTE}(tenant)"),
    Row("directory", f"{REMOTE}(directory)"),
    Row("syncInterval", f"{REMOTE}(sync_interval)"),
    Row("syncChatHistory", f"{REMOTE}(sync_chat_history)"),
    Row("syncArtifacts", f"{REMOTE}(sync_artifacts)"),
    Row("conflictPolicy", f"{RUNTIME}AgentRuntimeContainer.conflict_policy"),
    Row("exposeSync", None, "runtime.sync is always there"),
    Row("provider", None, "there is one server, whoever hosts it"),
    Row("disablePing", None, "servers that do not answer pings are told by their Hello"),
    Row("protocols", f"{REMOTE}(token)"),
    # -- 2. QueryHandle --
    Row("stream", f"{HANDLE}__aiter__"),
    Row("send", f"{HANDLE}send"),
    Row("sendAll", f"{HANDLE}send_all"),
    Row("sendForked", None, "asyncio.create_task(query.send(message)) says it"),
    Row("closeInput", f"{HANDLE}close_input"),
    Row("share", f"{HANDLE}share"),
    Row("share.capacity", f"{HANDLE}share(capacity)"),
    Row("share.strategy", f"{HANDLE}share(strategy)"),
    Row("share.replay", f"{HANDLE}share(replay)"),
    Row("share.idleTimeToLive", None, "a query lives as long as its block; while nobody reads, messages wait"),
    Row("broadcast", f"{HANDLE}broadcast"),
    Row("broadcast.maximumLag", f"{HANDLE}broadcast(capacity)"),
    Row("interrupt", f"{HANDLE}interrupt"),
    Row("setPermissionMode", f"{HANDLE}set_permission_mode"),
    Row("setModel", f"{HANDLE}set_model"),
    Row("setMaxThinkingTokens", f"{HANDLE}set_max_thinking_tokens"),
    Row("rewindFiles", f"{HANDLE}rewind_files"),
    Row("rewindFiles.dryRun", f"{HANDLE}rewind_files(dry_run)"),
    Row("supportedCommands", f"{HANDLE}supported_commands"),
    Row("supportedModels", f"{HANDLE}supported_models"),
    Row("mcpServerStatus", f"{HANDLE}mcp_server_status"),
    Row("setMcpServers", f"{HANDLE}set_mcp_servers"),
    Row("accountInfo", f"{HANDLE}account_info"),
    Row("initializationResult", f"{HANDLE}initialization_result"),
    Row("stopTask", f"{HANDLE}stop_task"),
    Row("scope end", f"{HANDLE}aclose"),
    Row("collectResultMessage", f"{HANDLE}collect_result"),
    Row("collectResultSuccess", f"{HANDLE}collect_success"),
    Row("ConfigError", "agentlayers.errors.ConfigurationError"),
    Row("DecodeError", "agentlayers.errors.BackendError"),
    Row("TransportError (no streaming input)", "agentlayers.errors.StateError"),
    Row("HookError", "agentlayers.errors.AgentError"),
    Row("McpError", "agentlayers.errors.BackendError"),
    Row("SandboxError", None, "there is no sandbox service; the option sandbox is the claude command's own"),
    # -- 3. QuerySupervisor --
    Row("submit", f"{SUPERVISOR}submit"),
    Row("submitStream", f"{RUNTIME}AgentRuntime.stream"),
    Row("supervisor.stats", f"{SUPERVISOR}stats"),
    Row("supervisor.interruptAll", f"{SUPERVISOR}interrupt_all"),
    Row("supervisor.events", f"{SUPERVISOR}events"),
    Row("supervisor.layer", f"{SUPERVISOR}layer"),
    Row("supervisor.layerDefaultFromEnv", f"{SUPERVISOR}layer_from_env"),
    Row("concurrencyLimit", f"{RUNTIME}SupervisorSettings#concurrency_limit"),
    Row("pendingQueueCapacity", f"{RUNTIME}SupervisorSettings#pending_queue_capacity"),
    Row("pendingQueueStrategy", f"{RUNTIME}SupervisorSettings#pending_queue_strategy"),
    Row("maxPendingTime", f"{RUNTIME}SupervisorSettings#max_pending_time"),
    Row("emitEvents", f"{RUNTIME}SupervisorSettings#emit_events"),
    Row("eventBufferCapacity", f"{RUNTIME}SupervisorSettings#event_buffer_capacity"),
    Row("eventBufferStrategy", f"{RUNTIME}SupervisorSettings#event_buffer_strategy"),
    Row("metricsEnabled", f"{RUNTIME}SupervisorSettings#metrics_enabled"),
    Row("tracingEnabled", f"{RUNTIME}SupervisorSettings#tracing_enabled"),
    Row("stats.active", f"{RUNTIME}QuerySupervisorStats#active"),
    Row("stats.pending", f"{RUNTIME}QuerySupervisorStats#pending"),
    Row("stats.concurrencyLimit", f"{RUNTIME}QuerySupervisorStats#concurrency_limit"),
    Row("stats.pendingQueueCapacity", f"{RUNTIME}QuerySupervisorStats#pending_queue_capacity"),
    Row("stats.pendingQueueStrategy", f"{RUNTIME}QuerySupervisorStats#pending_queue_strategy"),
    Row("QueryQueued", f"{RUNTIME}QueryQueued#submitted_at"),
    Row("QueryStarted", f"{RUNTIME}QueryStarted#started_at"),
    Row("QueryCompleted", f"{RUNTIME}QueryCompleted#status"),
    Row("QueryStartFailed", f"{RUNTIME}QueryStartFailed#error"),
    Row("QueryQueueFullError", "agentlayers.errors.QueryQueueFullError(query_id)"),
    Row("QueryQueueFullError.capacity", "agentlayers.errors.QueryQueueFullError(capacity)"),
    Row("QueryQueueFullError.strategy", "agentlayers.errors.QueryQueueFullError(strategy)"),
    Row("QueryPendingTimeoutError", "agentlayers.errors.QueryPendingTimeoutError(timeout_seconds)"),
    Row("QueryPendingCanceledError", "agentlayers.errors.QueryPendingCanceledError(query_id)"),
    Row("agent_queries_started", f"{RUNTIME}QuerySupervisorStats#started"),
    Row("agent_queries_completed", f"{RUNTIME}QuerySupervisorStats#completed"),
    Row("agent_queries_failed", f"{RUNTIME}QuerySupervisorStats#failed"),
    Row("agent_query_duration_ms", f"{RUNTIME}query_supervisor.QueryMetrics#buckets"),
    Row("span agent.query", f"{RUNTIME}OpenTelemetry"),
    Row("SandboxService", None, "there is no sandbox service"),
    # -- 4. Hooks --
    Row("Hook.callback", f"{RUNTIME}hooks.HookCallback"),
    Row("Hook.matcher", f"{RUNTIME}HookMatcher"),
    Row("Hook.tap", f"{RUNTIME}observe"),
    Row("Hook.on<Event>", None, "a hook map is a dict: {event: [HookMatcher(...)]}"),
    Row("HookBuilder", None, "merge_hooks puts dicts together"),
    Row("HookContext.signal", f"{RUNTIME}HookContext#signal"),
    Row("mergeHookMaps", f"{RUNTIME}merge_hooks"),
    Row("withHooks", f"{RUNTIME}options.merge_options"),
    Row("consoleLogger", f"{RUNTIME}console_logger"),
    Row("autoApprove", f"{RUNTIME}auto_approve"),
    Row("autoDeny", f"{RUNTIME}auto_deny"),
    Row("autoDeny.message", f"{RUNTIME}auto_deny(message)"),
    Row("autoDeny.interrupt", f"{RUNTIME}auto_deny(interrupt)"),
    Row("timing", f"{RUNTIME}timing"),
    Row("withAuditLogging", f"{RUNTIME}HookAudit.with_audit"),
    Row("withAuditLogging.sessionId", f"{RUNTIME}HookAudit.with_audit(session_id)"),
    Row("withAuditLogging.strict", f"{RUNTIME}HookAudit(strict)"),
    Row("withAuditLogging.logHookOutcomes", f"{RUNTIME}HookAudit(log_hook_outcomes)"),
    Row("withAuditLogging.logPermissionDecisions", f"{RUNTIME}HookAudit(log_permission_decisions)"),
    Row("withAuditLogging.matcher", f"{RUNTIME}HookAudit(matcher)"),
    Row("withAuditLogging.timeout", f"{RUNTIME}HookAudit(timeout)"),
    Row("wrapPermissionHooks", f"{RUNTIME}HookAudit.with_audit"),
    # -- 5. ChatHistory --
    Row("withRecorder", f"{RUNTIME}ChatHistory.with_recorder"),
    Row("recorder.sessionId", f"{RUNTIME}ChatHistory.recorder(session_id)"),
    Row("recorder.source", f"{RUNTIME}ChatHistory.recorder(source)"),
    Row("recorder.inputSource", f"{RUNTIME}ChatHistory.recorder(input_source)"),
    Row("recorder.recordOutput", f"{RUNTIME}ChatHistory.recorder(record_output)"),
    Row("recorder.recordInput", f"{RUNTIME}ChatHistory.recorder(record_input)"),
    Row("recorder.strict", f"{RUNTIME}ChatHistory.recorder(strict)"),
    Row("ChatEventSource", "agentlayers.storage.chat_event.ChatEventSource"),
]


def found(path: str) -> Any:
    """Import what a dotted path names, through modules and then attributes."""
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            thing = getattr(thing, name)
        return thing
    raise AssertionError(path)


@pytest.mark.parametrize("row", SURFACE, ids=lambda row: row.there)
def test_what_the_reference_offers_is_here_or_the_reason_is_given(row: Row) -> None:
    if row.here is None:
        assert row.why
    elif row.here.endswith(")"):
        path, _, parameter = row.here.removesuffix(")").partition("(")
        assert parameter in inspect.signature(found(path)).parameters
    elif "#" in row.here:
        path, _, field = row.here.partition("#")
        kind = found(path)
        known = getattr(kind, "model_fields", None)
        assert field in (known if known is not None else {each.name for each in dataclasses.fields(kind)})
    else:
        assert found(row.here) is not None


def test_a_name_that_is_not_there_would_be_noticed() -> None:
    with pytest.raises(AttributeError):
        found(f"{HANDLE}set_mood")


ENVIRONMENT = {
    "QUERY_TIMEOUT": (RuntimeSettings, "query_timeout", "90 seconds", 90.0),
    "FIRST_MESSAGE_TIMEOUT": (RuntimeSettings, "first_message_timeout", "500 millis", 0.5),
    "RETRY_MAX_RETRIES": (RuntimeSettings, "retry_max_retries", "3", 3),
    "RETRY_BASE_DELAY": (RuntimeSettings, "retry_base_delay", "2 seconds", 2.0),
    "CONCURRENCY_LIMIT": (SupervisorSettings, "concurrency_limit", "9", 9),
    "PENDING_QUEUE_CAPACITY": (SupervisorSettings, "pending_queue_capacity", "0", 0),
    "PENDING_QUEUE_STRATEGY": (SupervisorSettings, "pending_queue_strategy", "sliding", "sliding"),
    "MAX_PENDING_TIME": (SupervisorSettings, "max_pending_time", "1 minute", 60.0),
    "EMIT_EVENTS": (SupervisorSettings, "emit_events", "yes", True),
    "EVENT_BUFFER_CAPACITY": (SupervisorSettings, "event_buffer_capacity", "7", 7),
    "EVENT_BUFFER_STRATEGY": (SupervisorSettings, "event_buffer_strategy", "dropping", "dropping"),
    "METRICS_ENABLED": (SupervisorSettings, "metrics_enabled", "on", True),
    "TRACING_ENABLED": (SupervisorSettings, "tracing_enabled", "1", True),
    "STORAGE_CHAT_ENABLED": (StorageConfig, "enabled.chat_history", "false", False),
    "STORAGE_ARTIFACTS_ENABLED": (StorageConfig, "enabled.artifacts", "no", False),
    "STORAGE_AUDIT_ENABLED": (StorageConfig, "enabled.audit_log", "off", False),
    "STORAGE_CHAT_MAX_EVENTS": (StorageConfig, "retention.chat.max_events", "5", 5),
    "STORAGE_CHAT_MAX_AGE": (StorageConfig, "retention.chat.max_age_seconds", "1 hour", 3600.0),
    "STORAGE_ARTIFACT_MAX_COUNT": (StorageConfig, "retention.artifacts.max_artifacts", "5", 5),
    "STORAGE_ARTIFACT_MAX_BYTES": (StorageConfig, "retention.artifacts.max_artifact_bytes", "1000", 1000),
    "STORAGE_ARTIFACT_MAX_AGE": (StorageConfig, "retention.artifacts.max_age_seconds", "1 hour", 3600.0),
    "STORAGE_AUDIT_MAX_ENTRIES": (StorageConfig, "retention.audit.max_entries", "5", 5),
    "STORAGE_AUDIT_MAX_AGE": (StorageConfig, "retention.audit.max_age_seconds", "1 hour", 3600.0),
    "STORAGE_CHAT_PAGE_SIZE": (StorageConfig, "pagination.chat_page_size", "5", 5),
    "STORAGE_ARTIFACT_PAGE_SIZE": (StorageConfig, "pagination.artifact_page_size", "5", 5),
    "STORAGE_INDEX_PAGE_SIZE": (StorageConfig, "pagination.index_page_size", "5", 5),
    "STORAGE_CLEANUP_ENABLED": (StorageConfig, "cleanup.enabled", "false", False),
    "STORAGE_CLEANUP_INTERVAL": (StorageConfig, "cleanup.interval_seconds", "5 minutes", 300.0),
    "STORAGE_CLEANUP_RUN_ON_START": (StorageConfig, "cleanup.run_on_start", "true", True),
    "STORAGE_SYNC_INTERVAL": (StorageConfig, "sync.interval_seconds", "5 seconds", 5.0),
}
"""Every variable of the reference's section 0, without its prefix."""


def setting(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = getattr(settings, name)
    return settings


@pytest.mark.parametrize("prefix", ["AGENTLAYERS", "AGENTSDK"])
@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_every_variable_of_the_reference_is_read(variable: str, prefix: str) -> None:
    kind, path, text, expected = ENVIRONMENT[variable]
    read: Any = getattr(kind, "from_env", None) or kind.from_environment  # type: ignore[attr-defined]

    assert expected != setting(read({}), path)
    assert expected == setting(read({f"{prefix}_{variable}": text}), path)


def test_defaults_are_those_of_the_reference() -> None:
    supervisor, runtime = SupervisorSettings(), RuntimeSettings()

    assert (4, 64, "suspend", 30.0) == (
        supervisor.concurrency_limit,
        supervisor.pending_queue_capacity,
        supervisor.pending_queue_strategy,
        supervisor.max_pending_time,
    )
    assert (False, 256, "sliding", False, False) == (
        supervisor.emit_events,
        supervisor.event_buffer_capacity,
        supervisor.event_buffer_strategy,
        supervisor.metrics_enabled,
        supervisor.tracing_enabled,
    )
    assert (None, None, 0, 1.0) == (
        runtime.query_timeout,
        runtime.first_message_timeout,
        runtime.retry_max_retries,
        runtime.retry_base_delay,
    )
    # Not theirs, on purpose: a conversation without its prompts can neither be understood nor searched.
    assert (True, True, False) == (runtime.record_input, runtime.record_output, runtime.record_strict)


def test_hook_events_and_bounds_are_those_of_the_reference() -> None:
    assert 15 == len(HOOK_EVENTS)
    assert (50, 100, 250, 500, 1000, 2000, 5000, 10_000, 30_000) == DURATION_BOUNDS_MS
    assert "disabled" in str(QuerySupervisorStats.__annotations__["pending_queue_strategy"])
