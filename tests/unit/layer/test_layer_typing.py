"""What a type checker sees: services come out as themselves, and mistakes are mistakes before anything runs."""

from __future__ import annotations

import abc
from typing import Any, Protocol, assert_type

from dependency_injector import providers

from agentlayers.layer import App, Layer, LayerContainer


class Port(abc.ABC):
    @abc.abstractmethod
    def read(self) -> int: ...


class Readable(Protocol):
    def read(self) -> int: ...


class Adapter(Port):
    def __init__(self, size: int = 1) -> None:
        self.size = size

    def read(self) -> int:
        return self.size


class Container(LayerContainer):
    port: providers.Provider[Port] = providers.Singleton(Adapter)
    readable: providers.Provider[Readable] = providers.Singleton(Adapter)


LAYER = Layer.factory(Port, Adapter)


async def test_a_service_is_typed_as_what_was_asked_for() -> None:
    async with LAYER.build(Port) as port:
        assert_type(port, Port)
        assert port.read() == 1
    async with Container.build(Port) as port:
        assert_type(port, Port)
    async with Container.build(Readable) as readable:
        assert_type(readable, Readable)
    async with LAYER.build() as app:
        assert_type(app, App)
        assert_type(app.get(Port), Port)
        assert_type(app.get("port"), Any)
        with app.scope() as request:
            assert_type(request.get(Port), Port)
    assert_type(LAYER.provide(LAYER).merge(LAYER).fresh(), Layer)
    assert_type(Container.layer((Port,)), Layer)


async def wrong_uses() -> None:
    """Each line is refused by mypy: with warn_unused_ignores, a line that is not would be an error here."""
    async with LAYER.build(Port) as port:
        port.write()  # type: ignore[attr-defined]
    async with App(LAYER) as app:
        number: int = app.get(Port)  # type: ignore[assignment]
        app.get(Port).size  # type: ignore[attr-defined] # noqa: B018
        await app.get(Port)  # type: ignore[misc]
        print(number)
    LAYER.provide(Adapter)  # type: ignore[arg-type]
    Layer.suspend(LAYER)  # type: ignore[arg-type]
    LAYER.declared_at = None  # type: ignore[misc,assignment]

    class Wrong(LayerContainer):
        port: providers.Provider[Port] = providers.Singleton(int)  # type: ignore[arg-type]
