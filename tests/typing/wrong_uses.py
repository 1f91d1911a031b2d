"""What a type checker refuses: each marked line, with the marked rule of each checker, and no other line."""

from __future__ import annotations

import abc

from dependency_injector import providers

from agentlayers import NoSuchName  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
from agentlayers.journal import MemoryJournal, NoSuchJournal  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
from agentlayers.layer import App, Layer, LayerContainer, graph_of, load_layers, singleton


class Port(abc.ABC):
    """An abstract service."""

    @abc.abstractmethod
    def read(self) -> int:
        """Read."""


class Adapter(Port):
    """An implementation."""

    size = 1

    def read(self) -> int:
        """Read."""
        return self.size


class Container(LayerContainer):
    """A container with an annotated slot."""

    port: providers.Provider[Port] = providers.Singleton(Adapter)


LAYER = Layer.factory(Port, Adapter)
LISTED = (MemoryJournal, NoSuchJournal, NoSuchName)


async def what_a_layer_does_not_give() -> None:
    """Misuse ``layer.build`` and the combinators."""
    async with LAYER.build(Port) as port:
        port.write()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        text: str = port.read()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        adapter: Adapter = port  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    with LAYER.build(Port) as port:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with LAYER.build("port") as port:  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        pass
    async with LAYER.build() as app:
        app.read()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    LAYER.provide(Adapter)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LAYER.merge(Adapter())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LAYER.catch(lambda error: Adapter())  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    Layer.suspend(LAYER)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Layer.factory("port")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Layer.factory(Port, Adapter())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LAYER.declared_at = None  # type: ignore[misc, assignment]  # pyright: ignore[reportAttributeAccessIssue]
    LAYER.biuld(Port)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print(text, adapter)


async def what_a_container_does_not_give() -> None:
    """Misuse ``Container.build``."""
    async with Container.build(Port) as port:
        port.write()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        number: str = port.read()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    async with Container.build(3) as port:  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        pass
    Container.layer(Port)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    load_layers("app.yaml", container=LAYER)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    singleton(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    graph_of(Container).to_jsn()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    print(number)


async def what_a_running_app_does_not_give(app: App) -> None:
    """Misuse ``app.get`` and ``app.scope``."""
    number: int = app.get(Port)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    app.get(Port).write()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    await app.get(Port)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    app.get(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    app.get()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    with app.scope() as request:
        request.get(Port).write()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        number = request.get(Port)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        request.fetch(Port)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    app.scope(using=Port)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with app.serving(Port) as port:
        port.write()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    app.override({3: Adapter()})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    print(number)


class Wrong(LayerContainer):
    """A slot that breaks its promise."""

    port: providers.Provider[Port] = providers.Singleton(int)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
