"""What a type checker makes of right uses: services come out as themselves."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, assert_type

from dependency_injector import providers

from agentlayers.layer import App, Catalogue, Graph, Layer, LayerContainer, Scope, graph_of, load_layers, resource


class Port(abc.ABC):
    """An abstract service."""

    @abc.abstractmethod
    def read(self) -> int:
        """Read."""


class Readable(Protocol):
    """A service that is a protocol."""

    def read(self) -> int: ...


class Adapter(Port):
    """An implementation."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def read(self) -> int:
        """Read."""
        return self.size


class Container(LayerContainer):
    """A container with annotated slots."""

    port: providers.Provider[Port] = providers.Singleton(Adapter)
    readable: providers.Provider[Readable] = providers.Singleton(Adapter)
    catalogue = Catalogue(port={"adapter": resource(Adapter)})


async def open_port() -> AsyncIterator[Port]:
    """Open a port as a generator does."""
    yield Adapter()


LAYER = Layer.factory(Port, Adapter, size=2)


async def what_a_layer_gives() -> None:
    """Check ``layer.build``."""
    assert_type(LAYER.build(Port), AbstractAsyncContextManager[Port, bool | None])
    async with LAYER.build(Port) as port:
        assert_type(port, Port)
    async with LAYER.build(Readable) as readable:
        assert_type(readable, Readable)
    async with LAYER.build() as app:
        assert_type(app, App)
    assert_type(LAYER.provide(LAYER).merge(LAYER).fresh().shared(), Layer)
    assert_type(LAYER.provide_merge(LAYER).tap(print).catch(lambda error: LAYER), Layer)
    assert_type(Layer.merge(LAYER, LAYER), Layer)
    assert_type(Layer.scoped(Port, open_port), Layer)
    assert_type(Layer.succeed(Port, Adapter()), Layer)


async def what_a_container_gives() -> None:
    """Check ``Container.build``."""
    async with Container.build(Port) as port:
        assert_type(port, Port)
    async with Container.build(Readable) as readable:
        assert_type(readable, Readable)
    async with Container.build() as app:
        assert_type(app, App)
    assert_type(Container.layer((Port,), port=LAYER), Layer)
    async with load_layers("app.yaml", container=Container).build(Port) as port:
        assert_type(port, Port)
    assert_type(graph_of(Container), Graph)


async def what_a_running_app_gives(app: App) -> None:
    """Check ``app.get`` and ``app.scope``."""
    assert_type(app.get(Port), Port)
    assert_type(app.get(Readable), Readable)
    assert_type(app.get(Adapter).size, int)
    assert_type(app.get("port"), Any)
    async with app.serving(Port) as port:
        assert_type(port, Port)
    assert_type(app.scope(), Scope)
    with app.scope() as request:
        assert_type(request, Scope)
        assert_type(request.get(Port), Port)
        assert_type(request.get("port"), Any)
    async with app.scope(Port, using=LAYER) as request:
        assert_type(request.get(Readable), Readable)
    with app.override({Port: Adapter()}, readable=Adapter()):
        assert_type(app.get(Port), Port)
    async with app.override(port=LAYER), app as same, app.closing() as again:
        assert_type(same, App)
        assert_type(again, App)
