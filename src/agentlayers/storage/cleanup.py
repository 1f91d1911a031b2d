"""Enforce retention on a schedule."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from agentlayers.errors import AgentLayersError
from agentlayers.journal.compaction import CompactionReport
from agentlayers.layer import Layer
from agentlayers.logs import get_logger
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.storage_config import StorageConfig

__all__ = ["CleanupReport", "StorageCleanup"]

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """
    What one run did.

    Attributes:
        stores: By store, what its cleanup dropped; only stores that had something to enforce.
        failures: By store, why its cleanup failed; the others ran all the same.
    """

    stores: dict[str, CompactionReport]
    failures: dict[str, str]

    @property
    def dropped(self) -> int:
        """Entries dropped in all stores."""
        return sum(report.dropped for report in self.stores.values())


class StorageCleanup:
    """
    Run the stores' cleanup once at start if the settings say so, and then at every interval.

    While it is open a task of its own does the waiting; leaving the block ends it. The first
    scheduled run is one interval after the start.

    Args:
        chat_history: Cleaned first, if there is one.
        artifacts: Cleaned second.
        audit_log: Cleaned last.
        storage_config: When to run; the defaults if not given.
    """

    def __init__(
        self,
        *,
        chat_history: ChatHistoryStore | None = None,
        artifacts: ArtifactStore | None = None,
        audit_log: AuditEventStore | None = None,
        storage_config: StorageConfig | None = None,
    ) -> None:
        self._stores: tuple[JournaledStore | None, ...] = (chat_history, artifacts, audit_log)
        self._schedule = (storage_config or StorageConfig()).cleanup
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if not self._schedule.enabled:
            return self
        if self._schedule.run_on_start:
            await self.run()
        if self._schedule.interval_seconds > 0:
            self._task = asyncio.create_task(self._run_at_intervals(), name="storage-cleanup")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def run(self) -> CleanupReport:
        """
        Clean the stores that are switched on, one after the other.

        A store that fails is reported and does not keep the others from being cleaned.
        """
        report = CleanupReport({}, {})
        for store in self._stores:
            if store is None or not store.is_enabled:
                continue
            try:
                done = await store.cleanup()
            except AgentLayersError as error:
                logger.warning("cleanup_failed", store=store.name, reason=str(error))
                report.failures[store.name] = str(error)
            else:
                if done is not None:
                    report.stores[store.name] = done
        logger.debug("cleanup_done", dropped=report.dropped)
        return report

    async def _run_at_intervals(self) -> None:
        while True:
            await asyncio.sleep(self._schedule.interval_seconds)
            await self.run()

    @classmethod
    def layer(cls) -> Layer:
        """Clean whichever of the three stores the graph has."""
        return Layer.scoped(cls)
