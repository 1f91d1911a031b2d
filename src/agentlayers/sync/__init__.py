"""Replication of journaled stores through a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlayers.sync.flags import DEFAULT_STORES
    from agentlayers.sync.schedule import DEFAULT_SCHEDULE, Schedule, exponential, fixed
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
    "DEFAULT_SCHEDULE": "schedule",
    "DEFAULT_STORES": "flags",
    "QuarantinedEntry": "status",
    "RemoteReport": "status",
    "Schedule": "schedule",
    "StoreStatus": "status",
    "SyncReport": "status",
    "SyncService": "service",
    "SyncState": "status",
    "SyncStatus": "status",
    "exponential": "schedule",
    "fixed": "schedule",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
