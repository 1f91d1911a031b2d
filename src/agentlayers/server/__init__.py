"""
The sync server: central journals of sealed entries, fanned out to every replica that follows them.

Start reading at :mod:`agentlayers.server.app`; what a commit means is in
:mod:`agentlayers.server.hub`, where entries are kept in :mod:`agentlayers.server.storage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports
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

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
