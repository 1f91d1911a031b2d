"""Replication of journaled stores through a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

_MODULES = {
    "DEFAULT_SCHEDULE": "agentlayers.sync.schedule",
    "DEFAULT_STORES": "agentlayers.sync.flags",
    "QuarantinedEntry": "agentlayers.sync.status",
    "RemoteReport": "agentlayers.sync.status",
    "Schedule": "agentlayers.schedule",
    "StoreStatus": "agentlayers.sync.status",
    "SyncReport": "agentlayers.sync.status",
    "SyncService": "agentlayers.sync.service",
    "SyncState": "agentlayers.sync.status",
    "SyncStatus": "agentlayers.sync.status",
    "exponential": "agentlayers.schedule",
    "fixed": "agentlayers.schedule",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
