"""
Parts that decide while the app starts: calls after a build, substitutes for a failure, chosen layers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentlayers.layer.errors import LayerStartError
from agentlayers.layer.inspection import parameters_of, qualified_name, service_candidates
from agentlayers.layer.wiring import is_service_type

if TYPE_CHECKING:
    from agentlayers.layer.layer import CaughtLayer, Layer, SharedLayer, UnwrappedLayer

__all__ = ["CatchCall", "SharedCall", "TapCall", "UnwrapCall"]


class TapCall:
    """Hand services on after a function has seen them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__qualname__ = f"tap({getattr(function, '__qualname__', type(function).__qualname__)})"
        self.__module__ = getattr(function, "__module__", __name__)

    def __call__(self, *services: Any) -> Any:
        """Call the function, and give the services."""
        result = self.function(*services)
        given = services[0] if len(services) == 1 else services
        return _after(result, given) if inspect.isawaitable(result) else given


async def _after(call: Awaitable[Any], given: Any) -> Any:
    await call
    return given


class CatchCall:
    """Open a layer, or what its handler says when it fails to start."""

    def __init__(self, layer: CaughtLayer, needs: tuple[Any, ...]) -> None:
        self.layer, self.needs = layer, needs
        self.__qualname__ = f"catch({getattr(layer.handler, '__qualname__', 'handler')})"
        self.__module__ = getattr(layer.handler, "__module__", __name__)

    @asynccontextmanager
    async def __call__(self, *values: Any) -> AsyncIterator[Any]:
        """Open what the layer or its handler says, fed with what the layer needs."""
        from agentlayers.layer.app import App

        app = App(self._fed(self.layer.inner, values))
        try:
            await app.start()
        except LayerStartError as error:
            cause = _root_cause(error)
            if not isinstance(cause, self.layer.errors):
                raise
            app = App(self._fed(self.layer.handler(cause), values))
            await app.start()
        async with app.closing():
            yield _served(app, self.layer.outputs)

    def _fed(self, layer: Layer, values: tuple[Any, ...]) -> Layer:
        from agentlayers.layer.layer import Layer as LayerType

        feeds = [LayerType.succeed(service, value) for service, value in zip(self.needs, values, strict=True)]
        return layer.provide(*feeds) if feeds else layer


class SharedCall:
    """Open a layer for the first app of an event loop that needs it, and close it after the last."""

    def __init__(self, layer: SharedLayer) -> None:
        self.layer = layer
        self.__qualname__ = f"shared({', '.join(service.__name__ for service in layer.outputs)})"
        self.__module__ = __name__

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Any]:
        """Give the services, opened by whoever came first."""
        shared = self.layer.users.setdefault(asyncio.get_running_loop(), _Shared())
        async with shared.lock:
            if not shared.count:
                from agentlayers.layer.app import App

                app = App(self.layer.inner)
                await app.start()
                shared.app = app
            shared.count += 1
        try:
            yield _served(shared.app, self.layer.outputs)
        finally:
            async with shared.lock:
                shared.count -= 1
                if not shared.count:
                    app, shared.app = shared.app, None
                    await app.close()


class _Shared:
    """What the apps of one event loop share: the running layer, and how many use it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.count = 0
        self.app: Any = None


class UnwrapCall:
    """Call a function for a layer and open that."""

    def __init__(self, layer: UnwrappedLayer) -> None:
        self.layer = layer
        self.__qualname__ = qualified_name(layer.make).rsplit(".", 1)[-1]
        self.__module__ = getattr(layer.make, "__module__", __name__)
        self.__wrapped__ = layer.make
        self.__signature__ = inspect.signature(layer.make)

    @asynccontextmanager
    async def __call__(self, *args: Any, **arguments: Any) -> AsyncIterator[Any]:
        """Open the layer that the function chooses."""
        from agentlayers.layer.app import App
        from agentlayers.layer.layer import Layer as LayerType

        chosen = self.layer.make(*args, **arguments)
        if inspect.isawaitable(chosen):
            chosen = await chosen
        feeds = [LayerType.succeed(service, value) for service, value in self._services(args, arguments)]
        app = App(chosen.provide(*feeds) if feeds else chosen)
        await app.start()
        async with app.closing():
            yield _served(app, self.layer.outputs)

    def _services(self, args: tuple[Any, ...], arguments: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
        given = self.__signature__.bind(*args, **arguments).arguments
        for parameter in parameters_of(self.layer.make) or ():
            for candidate in service_candidates(parameter.hint):
                if parameter.name in given and is_service_type(candidate):
                    yield candidate, given[parameter.name]
                    break


def _root_cause(error: BaseException) -> BaseException:
    while isinstance(error, LayerStartError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _served(app: Any, services: tuple[Any, ...]) -> Any:
    values = tuple(app.get(service) for service in services)
    return values[0] if len(values) == 1 else values
