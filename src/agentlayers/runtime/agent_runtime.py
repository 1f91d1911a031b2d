"""
The agent runtime: runs queries on a backend, under a supervisor, and keeps what they say and do.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from agentlayers.errors import AgentLayersError, BackendError, ScriptError, StateError, UsageError
from agentlayers.limits import RECORD_WAIT_SECONDS_MAX
from agentlayers.logs import get_logger
from agentlayers.runtime.backend import AgentBackend, BackendQuery, Prompt
from agentlayers.runtime.chat_history import ChatHistory
from agentlayers.runtime.hook_audit import HookAudit
from agentlayers.runtime.message import AgentMessage
from agentlayers.runtime.options import QueryOptions, merge_options
from agentlayers.runtime.query_event import QueryEvent
from agentlayers.runtime.query_handle import QueryHandle
from agentlayers.runtime.query_supervisor import QuerySupervisor, QuerySupervisorStats
from agentlayers.runtime.settings import RuntimeSettings, SupervisorSettings
from agentlayers.runtime.tap import MessageTap
from agentlayers.runtime.telemetry import Telemetry
from agentlayers.runtime.tool_artifacts import ToolArtifacts
from agentlayers.schedule import Schedule
from agentlayers.settings import parse_seconds
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.sync.service import SyncService
from agentlayers.transport.transport import Transport, take_tls

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["AgentRuntime", "open_runtime"]

logger = get_logger(__name__)


@final
class AgentRuntime:
    """
    Runs queries; an async context manager that ends its queries before it is closed.

    Every query is recorded in the stores that are given: its messages in ``chat_history``, the results of its
    tools in ``artifacts``, and what it does in ``audit_log``.

    Args:
        backend: Runs the agents.
        supervisor: Decides how many run at once.
        settings: What every query has in common; the defaults if :obj:`None`.
        chat_history: Where conversations are kept.
        artifacts: Where the results of tools are kept.
        audit_log: Where tool uses and decisions are noted.
        session_index: The sessions there are; told by the stores, offered here to the caller.
        sync: Replicates the stores; offered here to the caller.
        random: Source of the jitter of retries.

    Attributes:
        chat_history: As given.
        artifacts: As given.
        audit_log: As given.
        session_index: As given.
        sync: As given.
    """

    def __init__(
        self,
        backend: AgentBackend,
        supervisor: QuerySupervisor,
        *,
        settings: RuntimeSettings | None = None,
        chat_history: ChatHistoryStore | None = None,
        artifacts: ArtifactStore | None = None,
        audit_log: AuditEventStore | None = None,
        session_index: SessionIndexStore | None = None,
        sync: SyncService | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self._backend = backend
        self._supervisor = supervisor
        self._settings = RuntimeSettings.of(settings)
        self.chat_history = chat_history
        self.artifacts = artifacts
        self.audit_log = audit_log
        self.session_index = session_index
        self.sync = sync
        self._random = random or random_module.Random()
        self._open: set[QueryHandle] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        await asyncio.gather(*(handle.aclose() for handle in tuple(self._open)))

    # -- queries ----------------------------------------------------------------------------------------
    def query(self, prompt: Prompt, **options: Any) -> AbstractAsyncContextManager[QueryHandle]:
        """
        Ask an agent; leaving the block ends the query and waits until all of it is recorded.

        Usage::

            async with runtime.query("hello") as turn:
                async for message in turn:
                    print(message.text)

        Args:
            prompt: A text; or user messages as they come, or :obj:`None`, for a query that can be sent more.
            **options: See :class:`~agentlayers.runtime.options.QueryOptions`; laid over the default options.

        Raises:
            UsageError: A prompt or an option that cannot be right.
            QueryQueueFullError: No room in the supervisor's queue.
            QueryPendingTimeoutError: No slot became free in time.
            BackendError: The agent could not be started, retries included.
        """
        return self._query(prompt, options, with_timeouts=True)

    def query_raw(self, prompt: Prompt, **options: Any) -> AbstractAsyncContextManager[QueryHandle]:
        """Ask an agent like :meth:`query`, without the timeouts of the settings."""
        return self._query(prompt, options, with_timeouts=False)

    async def stream(self, prompt: Prompt, **options: Any) -> AsyncIterator[AgentMessage]:
        """
        Ask an agent and yield its messages; see :meth:`query`.

        A caller that may stop early closes the iterator (``contextlib.aclosing``), or uses :meth:`query`.
        """
        async with self.query(prompt, **options) as query:
            async for message in query:
                yield message

    @asynccontextmanager
    async def _query(
        self, prompt: Prompt, options: Mapping[str, Any], *, with_timeouts: bool
    ) -> AsyncIterator[QueryHandle]:
        handle = await self._start(prompt, options)
        self._open.add(handle)
        try:
            if with_timeouts:
                handle.expire_after(
                    first_message_seconds=self._settings.first_message_timeout,
                    query_seconds=self._settings.query_timeout,
                )
            yield handle
        finally:
            try:
                await handle.aclose()
            finally:
                self._open.discard(handle)

    async def _start(self, prompt: Prompt, options: Mapping[str, Any]) -> QueryHandle:
        if self._closed:
            raise StateError("the agent runtime is closed")
        _check_prompt(prompt)
        merged = merge_options(self._settings.default_options, options)
        # Checked before anything is wrapped or started, so that the error names what the caller wrote.
        QueryOptions.from_mapping(merged, extra_options=self._backend.extra_options)
        attempt = 0
        while True:
            audited, taps = self._recorded(merged)
            query_options = QueryOptions.from_mapping(audited, extra_options=self._backend.extra_options)

            async def start(shown: Prompt, query_options: QueryOptions = query_options) -> BackendQuery:
                return await self._backend.start(shown, query_options)

            try:
                return await self._supervisor.submit(start, prompt=prompt, taps=taps)
            except AgentLayersError as error:
                attempt += 1
                delay = self._settings.retries.delay_seconds(attempt, self._random) if _may_pass(error) else None
                if delay is None:
                    raise
                logger.warning("query_start_retry", attempt=attempt, delay_seconds=delay, error=str(error))
            await asyncio.sleep(delay)

    def _recorded(self, options: dict[str, Any]) -> tuple[dict[str, Any], list[MessageTap]]:
        """Add what the stores need to the options, and make the taps of one query."""
        settings, taps = self._settings, list[MessageTap]()
        if self.chat_history is not None and self.chat_history.is_enabled:
            wait = settings.record_wait_seconds
            recorder = ChatHistory(self.chat_history).recorder(
                record_input=settings.record_input,
                record_output=settings.record_output,
                record_partial=settings.record_partial,
                strict=settings.record_strict,
                wait_seconds=RECORD_WAIT_SECONDS_MAX if wait is None else wait,
            )
            taps.append(recorder)
        if self.artifacts is not None and self.artifacts.is_enabled:
            taps.append(ToolArtifacts(self.artifacts))
        if self.audit_log is not None and self.audit_log.is_enabled:
            trail = HookAudit(
                self.audit_log,
                strict=settings.audit_strict,
                log_hook_outcomes=settings.audit_hook_outcomes,
                log_permission_decisions=settings.audit_permission_decisions,
                matcher=settings.audit_matcher,
                timeout=settings.audit_timeout,
            ).with_audit(options)
            taps.append(trail)
            options = trail.options
        return options, taps

    # -- operating --------------------------------------------------------------------------------------
    @property
    def stats(self) -> QuerySupervisorStats:
        """How busy the supervisor is."""
        return self._supervisor.stats

    def events(self) -> AsyncIterator[QueryEvent]:
        """
        Follow what happens to queries.

        Raises:
            StateError: The supervisor's ``emit_events`` is off.
        """
        return self._supervisor.events()

    async def interrupt_all(self) -> None:
        """Interrupt every running query."""
        await self._supervisor.interrupt_all()

    # -- layers -----------------------------------------------------------------------------------
    @staticmethod
    def layer(settings: RuntimeSettings | Mapping[str, Any] | None = None) -> Layer:
        """
        Offer the runtime alone; needs an agent backend and a supervisor.

        It records in whatever stores the graph has.

        Args:
            settings: What every query has in common.
        """
        from agentlayers.layer import Layer

        given = {} if settings is None else {"settings": RuntimeSettings.of(settings)}
        return Layer.scoped(AgentRuntime, AgentRuntime, **given)

    @staticmethod
    def layer_default(settings: RuntimeSettings | Mapping[str, Any] | None = None) -> Layer:
        """
        Offer a runtime that needs nothing, with default settings whatever the environment says.

        It uses the graph's backend and supervisor where there are some; otherwise it plays the default
        script, under a supervisor of its own. While it is open, the retention of its stores is enforced.

        Args:
            settings: What every query has in common.
        """
        from agentlayers.layer import Layer

        return Layer.scoped(AgentRuntime, open_runtime, settings=RuntimeSettings.of(settings))

    @staticmethod
    def layer_default_from_env(prefix: str = "AGENTLAYERS") -> Layer:
        """
        Offer a runtime like :meth:`layer_default`, with settings from the environment.

        The environment is read when the app is built.

        Args:
            prefix: Of the variables; the reference's ``AGENTSDK`` is accepted beside it.
        """
        from agentlayers.layer import Layer

        given = {} if prefix == "AGENTLAYERS" else {"prefix": prefix}
        return Layer.scoped(AgentRuntime, open_runtime, **given)

    @staticmethod
    def layer_with_persistence(**slots: Any) -> Layer:
        """
        Offer the runtime with everything it needs to keep what it does, in a local replica.

        What is not given is the default of
        :class:`~agentlayers.runtime.containers.AgentRuntimeContainer`: a SQLite journal and an identity
        in the storage directory, and no network.

        Args:
            **slots: Slots of the container by name, as layers, providers or values: ``runtime``,
                ``chat_history``, ``artifacts``, ``audit_log``, ``session_index``, ``storage_config``,
                ``sync``, ``journal``, ``transport``...
        """
        from agentlayers.runtime.containers import AgentRuntimeContainer

        return AgentRuntimeContainer.layer(outputs=(AgentRuntime,), **slots)

    @staticmethod
    def layer_with_remote_sync(
        url: str,
        *,
        token: str | None = None,
        tenant: str | None = None,
        sync_chat_history: bool = True,
        sync_artifacts: bool = False,
        sync_audit_log: bool = True,
        sync_interval: float | str | None = None,
        directory: str | Path | None = None,
        **slots: Any,
    ) -> Layer:
        """
        Offer the runtime like :meth:`layer_with_persistence`, replicated through a server.

        Args:
            url: The server: ``ws://``, ``wss://``, ``tcp://`` or ``tls://``.
            token: Secret the server asks for; never part of the address.
            tenant: Whose journals the server keeps it with.
            sync_chat_history: Replicate conversations.
            sync_artifacts: Replicate artifacts.
            sync_audit_log: Replicate the audit log.
            sync_interval: Look for work at least this often, in seconds or as a text such as ``"1 minute"``; changes
                are sent as they are made, without it too.
            directory: Where the replica keeps its files, whatever the environment says.
            **slots: As for :meth:`layer_with_persistence`; and ``ca``, ``client_cert`` and ``client_key``, PEM files
                for TLS.

        Raises:
            SettingsError: An address of another kind, or an interval that is no duration.
        """
        from agentlayers.layer import Layer

        stores = {
            "chat_history": sync_chat_history,
            "artifacts": sync_artifacts,
            "audit_log": sync_audit_log,
        }
        slots.setdefault("transport", Transport.layer_url(url, token, tenant, **take_tls(slots)))
        seconds = None if sync_interval is None else parse_seconds(sync_interval, setting="sync_interval")
        slots.setdefault("sync", SyncService.layer(stores=stores, interval_seconds=seconds))
        if directory is not None:
            slots.setdefault("storage_config", Layer.factory(StorageConfig, _config_in, directory=str(directory)))
        return AgentRuntime.layer_with_persistence(**slots)


async def open_runtime(
    *,
    prefix: str = "AGENTLAYERS",
    settings: RuntimeSettings | None = None,
    backend: AgentBackend | None = None,
    supervisor: QuerySupervisor | None = None,
    chat_history: ChatHistoryStore | None = None,
    artifacts: ArtifactStore | None = None,
    audit_log: AuditEventStore | None = None,
    session_index: SessionIndexStore | None = None,
    sync: SyncService | None = None,
    storage_config: StorageConfig | None = None,
    storage_cleanup: StorageCleanup | None = None,
    telemetry: Telemetry | None = None,
    retry_schedule: Schedule | str | None = None,
    **defaults: Any,
) -> AsyncIterator[AgentRuntime]:
    """
    Open a runtime on what the graph has, with defaults for what it has not.

    Without ``settings`` they are read from the environment, over ``retry_schedule`` and ``defaults`` (as YAML gives
    them). While the runtime is open, the retention of its stores is enforced, on the schedule of ``storage_config`` if
    the graph has no ``storage_cleanup``, and ``sync`` runs on its timer.
    """
    retries = {} if retry_schedule is None else {"retry_schedule": retry_schedule}
    async with AsyncExitStack() as parts:
        if supervisor is None:
            own = QuerySupervisor(SupervisorSettings.from_env(prefix=prefix), telemetry=telemetry)
            supervisor = await parts.enter_async_context(own)
        if storage_cleanup is None:
            cleanup = StorageCleanup(
                chat_history=chat_history, artifacts=artifacts, audit_log=audit_log, storage_config=storage_config
            )
            await parts.enter_async_context(cleanup)
        if sync is not None and storage_config is not None:
            sync.look_every(storage_config.sync.interval_seconds)
        runtime = AgentRuntime(
            _default_backend() if backend is None else backend,
            supervisor,
            settings=settings or RuntimeSettings.from_env(prefix=prefix, defaults=defaults | retries),
            chat_history=chat_history,
            artifacts=artifacts,
            audit_log=audit_log,
            session_index=session_index,
            sync=sync,
        )
        yield await parts.enter_async_context(runtime)


def _config_in(directory: str) -> StorageConfig:
    return StorageConfig.from_environment().model_copy(update={"directory": Path(directory)})


def _default_backend() -> AgentBackend:
    from agentlayers.runtime.scripted import ScriptedBackend

    return ScriptedBackend()


def _check_prompt(prompt: Any) -> None:
    if prompt is None or isinstance(prompt, AsyncIterable):
        return
    if not isinstance(prompt, str):
        raise UsageError(
            f"a prompt is a text, an async iterable of user messages, or None, but not {type(prompt).__name__}"
        )
    if not prompt:
        raise UsageError("the prompt is an empty text; use None for a query whose messages are sent later")


def _may_pass(error: AgentLayersError) -> bool:
    """Tell whether starting again may help; a wrong script or option stays wrong."""
    return error.retryable or (isinstance(error, BackendError) and not isinstance(error, ScriptError))
