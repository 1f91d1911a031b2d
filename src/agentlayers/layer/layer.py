"""
Layers as values: how a service is made, what it needs, and how recipes are put together.

Nothing here builds anything or loads dependency-injector; a layer is only read when ``build``, ``launch`` or a
container asks for it. A layer is compared by identity: the same value used twice in one graph is opened once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from agentlayers.errors import UsageError
from agentlayers.layer.mock import make_mock
from agentlayers.layer.origin import Origin, caller_origin

if TYPE_CHECKING:
    from agentlayers.layer.app import App

__all__ = [
    "CaughtLayer",
    "FreshLayer",
    "Layer",
    "MergedLayer",
    "PrimitiveLayer",
    "ProvidedLayer",
    "SharedLayer",
    "SuspendedLayer",
    "TappedLayer",
    "UnwrappedLayer",
]

T = TypeVar("T")
Lifetime = Literal["value", "singleton", "resource"]


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Layer:
    """
    A recipe for one or several services.

    Make one with :meth:`succeed`, :meth:`factory` or :meth:`scoped`, combine with :meth:`merge` and :meth:`provide`,
    and run with :meth:`build`. Layers are immutable; every method returns a new one.

    Attributes:
        declared_at: The line that made it.
    """

    declared_at: Origin = field(default_factory=caller_origin, kw_only=True)

    # -- constructors ------------------------------------------------------------------------------
    @staticmethod
    def succeed(service: type[Any], value: object) -> Layer:
        """Offer a value that exists already; the framework neither opens nor closes it."""
        return PrimitiveLayer("value", service, value, (), MappingProxyType({}))

    @staticmethod
    def factory(service: type[Any], make: Callable[..., Any] | None = None, /, *args: Any, **arguments: Any) -> Layer:
        """
        Build the service once per app by calling ``make``.

        Parameters of ``make`` that are not given are wired by their annotation. An argument may be a layer: a private
        part that nobody else sees.

        Args:
            service: What dependents ask for.
            make: A class or a function, async or not; ``service`` itself when left out.
            args: Given to ``make`` as they are.
            arguments: Given to ``make`` by name.
        """
        return PrimitiveLayer("singleton", service, make or service, args, MappingProxyType(arguments))

    @staticmethod
    def scoped(service: type[Any], make: Callable[..., Any] | None = None, /, *args: Any, **arguments: Any) -> Layer:
        """
        Build the service like :meth:`factory`, open it at start and close it at stop.

        ``make`` returns an (async) context manager or an awaitable of one, or is an (async) generator function.
        Entering and leaving happen in one task; what entering returns is the service.
        """
        return PrimitiveLayer("resource", service, make or service, args, MappingProxyType(arguments))

    @staticmethod
    def mock(service: type[Any], /, **attributes: Any) -> Layer:
        """
        Offer a partial service for a test: only ``attributes`` work, everything else raises when used.
        """
        return Layer.succeed(service, make_mock(service, attributes))

    @staticmethod
    def suspend(make: Callable[[], Layer]) -> Layer:
        """
        Delay writing a layer down until the graph is put together; ``make`` runs once per value.
        """
        return SuspendedLayer(make)

    @staticmethod
    def unwrap(service: type[Any], make: Callable[..., Any], /, *args: Any, **arguments: Any) -> Layer:
        """
        Choose the layer while the app starts: ``make`` is called like a :meth:`factory` and returns a layer.

        Parameters of ``make`` are wired by annotation; what the returned layer needs has to be among them, or be
        brought by the layer itself.
        """
        return UnwrappedLayer(service, make, args, MappingProxyType(arguments))

    @staticmethod
    def merge_all(*layers: Layer) -> Layer:
        """
        Offer the services of all ``layers``; none of them feeds another. See :meth:`provide` for that.
        """
        return MergedLayer(_checked(layers, "merge_all"))

    # -- combinators -------------------------------------------------------------------------------
    def merge(self, *others: Layer) -> Layer:
        """
        Offer this layer's services and those of ``others``, side by side (``Layer.merge(a, b)`` works too).
        """
        return MergedLayer(_checked((self, *others), "merge"))

    def provide(self, *others: Layer) -> Layer:
        """
        Feed what ``others`` offer into what this layer needs, and offer this layer's services only.

        ``others`` do not feed each other; chain ``provide`` for that. Needs that stay open are met further out.
        """
        return ProvidedLayer(self, _checked(others, "provide"), keep=False)

    def provide_merge(self, *others: Layer) -> Layer:
        """Like :meth:`provide`, and offer the services of ``others`` as well."""
        return ProvidedLayer(self, _checked(others, "provide_merge"), keep=True)

    def fresh(self) -> Layer:
        """
        Opt out of sharing: wherever this value is used it is built anew, with everything it brings.
        """
        return FreshLayer(self)

    def shared(self) -> Layer:
        """
        Share what this value builds among all apps of the event loop that use it.

        Within one app a layer value is shared anyway. Here the first app that needs it opens it and the last one
        that uses it closes it. The layer has to bring all it needs.
        """
        return SharedLayer(self)

    def catch(
        self,
        handler: Callable[[Exception], Layer],
        *,
        errors: type[Exception] | tuple[type[Exception], ...] = Exception,
    ) -> Layer:
        """
        When this layer fails to start, build what ``handler`` returns for the error instead.

        What the failed layer had opened is closed first.
        """
        return CaughtLayer(self, handler, errors if isinstance(errors, tuple) else (errors,))

    def tap(self, function: Callable[..., Any]) -> Layer:
        """
        Call ``function`` (async or not) with the services once they are built, before dependents start.
        """
        return TappedLayer(self, function)

    # -- running -----------------------------------------------------------------------------------
    @overload
    def build(self, /) -> App: ...
    @overload
    def build(self, service: Callable[..., T], /) -> AbstractAsyncContextManager[T]: ...
    def build(self, service: Any = None, /) -> Any:
        """
        Open what ``service`` needs, hand it over, and close everything when the block is left.

        Without an argument the block gets the :class:`~agentlayers.layer.app.App` with all services.

        Raises:
            LayerValidationError: The graph is wrong; raised on entering, before anything is opened.
            LayerStartError: A part failed to start; everything opened before it is closed again.
        """
        from agentlayers.layer.app import App

        return App(self) if service is None else App(self, service).serving(service)

    async def launch(self) -> None:
        """Open everything and keep it open until this call is cancelled."""
        from agentlayers.layer.app import App

        async with App(self) as app:
            await app.wait_closed()

    def override(
        self, overrides: Mapping[type[Any] | str, object] | None = None, /, **by_name: object
    ) -> AbstractContextManager[None]:
        """
        Replace parts of every build of this layer inside the ``with`` block, in this task only.

        Args:
            overrides: By service type or by name.
            by_name: By the part's name in the graph: a value, a layer or a provider.
        """
        from agentlayers.layer.override import override_target

        return override_target(self, overrides, by_name)

    # -- what it is --------------------------------------------------------------------------------
    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """The services this layer offers."""
        raise NotImplementedError

    def __repr__(self) -> str:
        names = ", ".join(getattr(service, "__name__", str(service)) for service in self.outputs)
        return f"<Layer of {names} at {self.declared_at}>"


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class PrimitiveLayer(Layer):
    """One service, made by one callable (or a ready value)."""

    lifetime: Lifetime
    service: type[Any]
    source: Any
    args: tuple[Any, ...]
    arguments: Mapping[str, Any]

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """The one service."""
        return (self.service,)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class MergedLayer(Layer):
    """Several layers side by side."""

    layers: tuple[Layer, ...]
    _outputs: tuple[type[Any], ...] = field(init=False)

    def __post_init__(self) -> None:
        united = (output for layer in self.layers for output in layer.outputs)
        object.__setattr__(self, "_outputs", tuple(dict.fromkeys(united)))

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """The services of all."""
        return self._outputs


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class ProvidedLayer(Layer):
    """A layer whose needs are met by others."""

    target: Layer
    others: tuple[Layer, ...]
    keep: bool = field(kw_only=True)
    _outputs: tuple[type[Any], ...] = field(init=False)

    def __post_init__(self) -> None:
        outputs = self.target.outputs
        if self.keep:
            brought = (output for other in self.others for output in other.outputs)
            outputs = tuple(dict.fromkeys((*outputs, *brought)))
        object.__setattr__(self, "_outputs", outputs)

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """The target's services, and with ``keep`` those of the others."""
        return self._outputs


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class FreshLayer(Layer):
    """A layer that is never shared."""

    inner: Layer

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """Those of the layer inside."""
        return self.inner.outputs


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class SharedLayer(Layer):
    """A layer that several apps share."""

    inner: Layer
    users: weakref.WeakKeyDictionary[Any, Any] = field(init=False, default_factory=weakref.WeakKeyDictionary)

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """Those of the layer inside."""
        return self.inner.outputs


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class CaughtLayer(Layer):
    """A layer with a substitute for the case that it fails to start."""

    inner: Layer
    handler: Callable[[Exception], Layer]
    errors: tuple[type[Exception], ...]

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """Those of the layer inside; the substitute has to offer the same."""
        return self.inner.outputs


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class TappedLayer(Layer):
    """A layer followed by a call."""

    inner: Layer
    function: Callable[..., Any]

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """Those of the layer inside."""
        return self.inner.outputs


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class SuspendedLayer(Layer):
    """A layer that is written down when it is first needed."""

    make: Callable[[], Layer]
    _made: list[Layer] = field(init=False, default_factory=list)

    @property
    def inner(self) -> Layer:
        """The layer, made once."""
        if not self._made:
            self._made.append(_checked((self.make(),), "suspend")[0])
        return self._made[0]

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """Those of the layer inside."""
        return self.inner.outputs


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class UnwrappedLayer(Layer):
    """A layer that is chosen while the app starts."""

    service: type[Any]
    make: Callable[..., Any]
    args: tuple[Any, ...]
    arguments: Mapping[str, Any]

    @property
    def outputs(self) -> tuple[type[Any], ...]:
        """The promised service."""
        return (self.service,)


def _checked(layers: tuple[object, ...], verb: str) -> tuple[Layer, ...]:
    checked = []
    for layer in layers:
        if not isinstance(layer, Layer):
            message = f"Layer.{verb} takes layers, not {layer!r}"
            if callable(layer):
                message += "; call it first"
            raise UsageError(message)
        checked.append(layer)
    return tuple(checked)
