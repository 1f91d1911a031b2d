"""
The sync server: central journals of sealed entries, fanned out to every replica that follows them.

Start reading at :mod:`agentlayers.server.app`; what a commit means is in
:mod:`agentlayers.server.hub`, where entries are kept in :mod:`agentlayers.server.storage`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentlayers.server.auth import Authenticator
from agentlayers.server.storage import Appended, ServerStorage, TenantInfo

if TYPE_CHECKING:
    from agentlayers.server.app import SyncServer
    from agentlayers.server.containers import ServerContainer
    from agentlayers.server.memory_server import MemoryServer
    from agentlayers.server.memory_storage import MemoryServerStorage
    from agentlayers.server.sqlite_storage import SQLiteServerStorage

__all__ = [
    "Appended",
    "Authenticator",
    "MemoryServer",
    "MemoryServerStorage",
    "SQLiteServerStorage",
    "ServerContainer",
    "ServerStorage",
    "SyncServer",
    "TenantInfo",
]

_HOMES = {
    "MemoryServer": "memory_server",
    "MemoryServerStorage": "memory_storage",
    "SQLiteServerStorage": "sqlite_storage",
    "ServerContainer": "containers",
    "SyncServer": "app",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
