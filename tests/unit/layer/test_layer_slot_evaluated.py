"""A container in a module whose annotations are evaluated, as without ``from __future__ import annotations``."""

import pytest
from dependency_injector import providers

from agentlayers.layer import App, LayerContainer
from agentlayers.layer.container import container_services


class Port:
    pass


class Adapter(Port):
    pass


class User:
    def __init__(self, port: Port | None, other: "Port | None" = None) -> None:
        self.port, self.other = port, other


class Evaluated(LayerContainer):
    port: providers.Provider[Port] = providers.Singleton(Adapter)
    user: providers.Provider[User] = providers.Singleton(User)


async def test_the_service_is_read_from_the_source() -> None:
    assert container_services(Evaluated) == {"port": Port, "user": User}
    async with Evaluated.build(User) as user:
        assert isinstance(user.port, Adapter)
        assert user.other is user.port


def test_a_slot_that_breaks_its_promise_is_refused() -> None:
    class Broken(Evaluated):
        port = providers.Singleton(User)  # type: ignore[arg-type]

    with pytest.raises(Exception, match="port promises a Port and holds a User"):
        App(Broken).check()
