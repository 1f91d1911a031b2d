"""Replication of journaled stores through a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from agentlayers.schedule import Schedule, exponential, fixed
    from agentlayers.sync.flags import DEFAULT_STORES
    from agentlayers.sync.schedule import DEFAULT_SCHEDULE
    from agentlayers.sync.service import SyncService
    from agentlayers.sync.status import (
        QuarantinedEntry,
        RemoteReport,
        StoreStatus,
        SyncReport,
        SyncState,
        SyncStatus,
    )

__all__ = [
    "DEFAULT_SCHEDULE",
    "DEFAULT_STORES",
    "QuarantinedEntry",
    "RemoteReport",
    "Schedule",
    "StoreStatus",
    "SyncReport",
    "SyncService",
    "SyncState",
    "SyncStatus",
    "exponential",
    "fixed",
]

_HOMES = {
    "DEFAULT_SCHEDULE": "schedule",
    "DEFAULT_STORES": "flags",
    "QuarantinedEntry": "status",
    "RemoteReport": "status",
    "Schedule": ".schedule",
    "StoreStatus": "status",
    "SyncReport": "status",
    "SyncService": "service",
    "SyncState": "status",
    "SyncStatus": "status",
    "exponential": ".schedule",
    "fixed": ".schedule",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
