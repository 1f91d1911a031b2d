"""Enforce retention on a schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from agentlayers.journal.compaction import CompactionReport
from agentlayers.layer import Layer
from agentlayers.logs import get_logger
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.journaled_store import JournaledStore
from agentlayers.storage.setting_types import settings_error
from agentlayers.storage.storage_config import CleanupSchedule, StorageConfig

__all__ = ["CleanupReport", "CleanupStatus", "StorageCleanup"]

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """
    What one run did.

    Attributes:
        stores: By store, what its cleanup dropped; only stores that had something to enforce.
        failures: By store, why its cleanup failed; the others ran all the same.
        started_at: When the run began.
        seconds: How long it took.
    """

    stores: dict[str, CompactionReport] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    started_at: datetime | None = None
    seconds: float = 0.0

    @property
    def dropped(self) -> int:
        """Entries dropped in all stores."""
        return sum(report.dropped for report in self.stores.values())


@dataclass(frozen=True, slots=True)
class CleanupStatus:
    """
    How cleanup is doing.

    Attributes:
        is_running: A run is under way.
        runs: Runs that ended since it was opened.
        last: What the latest of them did; :obj:`None` before the first.
        next_run_at: When the timer runs it next; :obj:`None` if there is no timer, or while a run is under way.
        stores: What it cleans, in order; stores that are switched off are left out.
    """

    is_running: bool
    runs: int
    last: CleanupReport | None
    next_run_at: datetime | None
    stores: tuple[str, ...]


class StorageCleanup:
    """
    Run the stores' cleanup once at start if the settings say so, and then at every interval.

    While it is open a task of its own does the waiting; leaving the block ends it. The first
    scheduled run is one interval after the start, and each next one an interval after the last ended.

    Args:
        chat_history: Cleaned first, if there is one.
        artifacts: Cleaned second.
        audit_log: Cleaned third; then come the stores that :meth:`register`.
        storage_config: When to run; the defaults if not given.
        schedule: When to run, laid over what ``storage_config`` says: ``enabled``, ``interval``, ``run_on_start``.
        clock: Seconds since the epoch.
        sleep: Waits so many seconds.

    Raises:
        SettingsError: A schedule that is none.
    """

    def __init__(
        self,
        *,
        chat_history: ChatHistoryStore | None = None,
        artifacts: ArtifactStore | None = None,
        audit_log: AuditEventStore | None = None,
        storage_config: StorageConfig | None = None,
        schedule: CleanupSchedule | Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        given: tuple[JournaledStore | None, ...] = (chat_history, artifacts, audit_log)
        self._stores = [store for store in given if store is not None]
        self._schedule = _laid_over((storage_config or StorageConfig()).cleanup, schedule)
        self._clock, self._sleep = clock, sleep
        self._task: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._runs = 0
        self._last: CleanupReport | None = None
        self._next_run_at: float | None = None

    async def __aenter__(self) -> Self:
        if not self._schedule.enabled:
            return self
        if self._schedule.run_on_start:
            await self.run_now()
        if self._schedule.interval_seconds > 0:
            self._next_run_at = self._clock() + self._schedule.interval_seconds
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
        self._next_run_at = None

    async def register(self, store: JournaledStore) -> Callable[[], None]:
        """
        Clean another store as well, at once if the settings say so; returns how to stop.

        Agent sessions and a store that an application declares do this by themselves while they are open.
        """
        self._stores.append(store)
        if self._schedule.enabled and self._schedule.run_on_start:
            # The store opened later than the schedule began, so this still belongs to the run at the start.
            self._last = _joined(self._last, await self._clean_all([store]))

        def stop() -> None:
            if store in self._stores:
                self._stores.remove(store)

        return stop

    def status(self) -> CleanupStatus:
        """Tell when it ran last, what that did, and when it runs next."""
        next_run_at = None if self._next_run_at is None else datetime.fromtimestamp(self._next_run_at, UTC)
        stores = tuple(store.name for store in self._stores if store.is_enabled)
        return CleanupStatus(self._one_at_a_time.locked(), self._runs, self._last, next_run_at, stores)

    async def run_now(self) -> CleanupReport:
        """
        Clean the stores that are switched on, one after the other.

        A store that fails is reported and does not keep the others from being cleaned. If a run is under way, this
        one follows it. It works whether there is a schedule or not.
        """
        done = self._last = await self._clean_all(self._stores)
        self._runs += 1
        return done

    async def _clean_all(self, stores: list[JournaledStore]) -> CleanupReport:
        async with self._one_at_a_time:
            began = self._clock()
            report = CleanupReport(started_at=datetime.fromtimestamp(began, UTC))
            for store in tuple(stores):
                if store.is_enabled:
                    await _clean(store, report)
            done = CleanupReport(report.stores, report.failures, report.started_at, self._clock() - began)
        logger.debug("cleanup_done", dropped=done.dropped)
        return done

    async def _run_at_intervals(self) -> None:
        while True:
            await self._sleep(self._schedule.interval_seconds)
            self._next_run_at = None
            await self.run_now()
            self._next_run_at = self._clock() + self._schedule.interval_seconds

    @classmethod
    def layer(cls, **schedule: Any) -> Layer:
        """
        Clean whichever of the stores the graph has: the three, agent sessions, and those an application declares.

        Args:
            **schedule: When to run: ``enabled``, ``interval``, ``run_on_start``; what is not given is as the storage
                settings say.
        """
        return Layer.scoped(cls, schedule=schedule) if schedule else Layer.scoped(cls)


def _joined(first: CleanupReport | None, second: CleanupReport) -> CleanupReport:
    if first is None:
        return second
    stores, failures = {**first.stores, **second.stores}, {**first.failures, **second.failures}
    return CleanupReport(stores, failures, first.started_at, first.seconds + second.seconds)


async def _clean(store: JournaledStore, report: CleanupReport) -> None:
    try:
        done = await store.cleanup()
    except Exception as error:  # noqa: BLE001  # a strategy of the user's must not end the schedule
        logger.warning("cleanup_failed", store=store.name, error=type(error).__name__)
        report.failures[store.name] = f"{type(error).__name__}: {error}"
    else:
        if done is not None:
            report.stores[store.name] = done


def _laid_over(base: CleanupSchedule, settings: CleanupSchedule | Mapping[str, Any] | None) -> CleanupSchedule:
    if settings is None or isinstance(settings, CleanupSchedule):
        return settings or base
    known = {"enabled": base.enabled, "interval": base.interval_seconds, "run_on_start": base.run_on_start}
    try:
        return CleanupSchedule.model_validate({**known, **settings})
    except ValidationError as error:
        raise settings_error(error, CleanupSchedule, setting="storage_cleanup") from error
