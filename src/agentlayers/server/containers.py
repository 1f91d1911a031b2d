"""
The server as a declarative container, so that ``agentlayers serve`` can read it from YAML.

Slots: ``config``, ``storage``, ``auth``, ``server``.
"""

from __future__ import annotations

from dependency_injector import providers

from agentlayers.layer import Catalogue, LayerContainer, resource, singleton
from agentlayers.server.app import SyncServer
from agentlayers.server.auth import Authenticator
from agentlayers.server.memory_storage import MemoryServerStorage
from agentlayers.server.sqlite_storage import SQLiteServerStorage
from agentlayers.server.storage import ServerStorage

__all__ = ["ServerContainer"]


class ServerContainer(LayerContainer):
    """
    A sync server and what it needs.

    By default it keeps journals in ``./agentlayers-server``, asks for no token and listens on loopback;
    replace ``storage``, ``auth`` or ``server`` by a subclass, a layer or YAML.
    """

    config = providers.Configuration()
    storage: providers.Provider[ServerStorage] = providers.Resource(SQLiteServerStorage, directory="agentlayers-server")
    auth: providers.Provider[Authenticator] = providers.Singleton(Authenticator)
    server: providers.Provider[SyncServer] = providers.Resource(SyncServer)

    catalogue = Catalogue(
        storage={
            "sqlite": resource(SQLiteServerStorage),
            "memory": resource(MemoryServerStorage),
        },
        auth={
            "open": singleton(Authenticator.open_),
            "token": singleton(Authenticator.optional_token),
            "tokens": singleton(Authenticator),
        },
        server={"listen": resource(SyncServer)},
    )
