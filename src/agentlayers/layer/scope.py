"""
Request scopes: what lives for one request, made once in it and closed at its end.

In a container these are the ``ContextLocalSingleton`` and ``ContextLocalResource`` slots; a layer given as ``using`` is
a child of the app, and everything in it lives for the request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

from dependency_injector import providers

from agentlayers.errors import StateError
from agentlayers.layer.errors import ServiceNotFoundError
from agentlayers.layer.lifecycle import Lifecycle
from agentlayers.layer.plan import Part
from agentlayers.layer.resolver import Cache, Resolver
from agentlayers.layer.view import View

if TYPE_CHECKING:
    from agentlayers.layer.app import App

__all__ = ["Scope", "ScopePlan", "current_scope"]

T = TypeVar("T")

_current: ContextVar[Scope | None] = ContextVar("agentlayers_scope", default=None)


class ScopePlan:
    """What all scopes of one kind share: the graph, and the compiled functions."""

    def __init__(self, view: View, app_view: View, parts: list[Part]) -> None:
        self.view, self.app_view = view, app_view
        self.resolver = Resolver(view.plan, view.constants, parts, _refuse)
        self.parts = [part for part in parts if part.kind in {"request", "singleton", "resource"}]
        self.needs = _needs(view.plan.order, set(self.parts))
        self.by_name = {part.name: part for part in self.parts}
        self.functions: dict[Any, Callable[[Cache], Any]] = {}
        self.opened: dict[tuple[Any, ...], list[Part]] = {}

    def function(self, key: Any) -> Callable[[Cache], Any]:
        """Give the function for a service or part."""
        found = self.functions.get(key)
        if found is None:
            found = self.functions[key] = self._find(key)
        return found

    def _find(self, key: Any) -> Callable[[Cache], Any]:
        try:
            return self.resolver.function(self.view.part(key))
        except ServiceNotFoundError:
            if self.view is self.app_view:
                raise
            self.app_view.part(key)  # a child sees what its app has
            return lambda _cache: self.app_view.get(key)

    def to_open(self, wanted: tuple[Any, ...]) -> list[Part]:
        """List the parts of a request that have to be opened for what is wanted, with what they need in between."""
        found = self.opened.get(wanted)
        if found is None:
            found = self.opened[wanted] = self._collect(wanted)
        return found

    def _collect(self, wanted: tuple[Any, ...]) -> list[Part]:
        mine = set(self.parts)
        reached: set[Part] = set()
        stack = [self.view.part(key) for key in wanted]
        while stack:
            part = stack.pop()
            if part not in reached:
                reached.add(part)
                stack.extend(part.children)
        resources = [p for p in reached if p in mine and isinstance(p.provider, providers.BaseResource)]
        if not resources:
            return []
        return [part for part in self.view.plan.order if part in reached and part in mine]


def _needs(order: list[Part], parts: set[Part]) -> dict[Part, tuple[Part, ...]]:
    """Gather for each part of a request those of the same request it waits for."""
    reach: dict[Part, dict[Part, None]] = {}
    for part in order:
        found: dict[Part, None] = {}
        for child in part.children:
            found.update({child: None} if child in parts else reach.get(child, {}))
        reach[part] = found
    return {part: tuple(reach[part]) for part in parts}


def _refuse(part: Part) -> NoReturn:
    message = f"{part.name} has to be opened for the request; ask for what needs it: async with app.scope(...)"
    raise StateError(message)


class Scope:
    """
    One request.

    Use it as ``with`` when nothing has to be opened, and as ``async with`` otherwise. Inside, ``app.get`` gives the
    request's parts too.
    """

    __slots__ = ("_cache", "_functions", "_lifecycle", "_plan", "_wanted", "app", "is_open", "outer")

    def __init__(self, app: App, plan: ScopePlan, wanted: tuple[Any, ...]) -> None:
        self.app = app
        self._plan, self._wanted = plan, wanted
        self._cache: Cache = {}
        self._functions = plan.functions
        self._lifecycle: Lifecycle | None = None
        self.is_open = False
        self.outer: Scope | None = None

    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: Callable[..., T]) -> T: ...
    def get(self, key: Any) -> Any:
        """
        Give a service or part of the request or of the app.

        Raises:
            StateError: The scope is not open, or the part needs a resource that was not asked for.
            ServiceNotFoundError: There is no such part.
        """
        if not self.is_open:
            message = "the scope is not open; a request's parts are there inside its block"
            raise StateError(message)
        function = self._functions.get(key)
        if function is None:
            function = self._plan.function(key)
        return function(self._cache)

    def made(self, name: str) -> Any:
        """Give one part of the request by its name in the graph."""
        return self._plan.resolver.function(self._plan.by_name[name])(self._cache)

    # -- life -----------------------------------------------------------------------------------------------------
    def __enter__(self) -> Self:
        if self._wanted and self._plan.to_open(self._wanted):
            message = "this scope opens resources; write async with"
            raise StateError(message)
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        self._begin()
        parts = self._wanted and self._plan.to_open(self._wanted)
        if parts:
            try:
                await self._open(parts)
            except BaseException:
                self._end()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._lifecycle is not None:
                await self._lifecycle.stop(error)
        finally:
            self._end()

    async def _open(self, parts: list[Part]) -> None:
        resolver, cache = self._plan.resolver, self._cache

        def bind(part: Part, value: Any) -> None:
            cache[resolver.numbers[part]] = value

        def call(part: Part) -> Any:
            return resolver.opener(part)(cache)

        self._lifecycle = Lifecycle(parts, bind, call=call, needs=self._plan.needs)
        await self._lifecycle.start()

    def _begin(self) -> None:
        if self.is_open:
            message = "this scope is open already; make another for another request"
            raise StateError(message)
        self.is_open = True
        self._plan.app_view.active.add(self)
        self.outer = _current.get()
        _current.set(self)

    def _end(self) -> None:
        self.is_open = False
        self._cache = {}
        if _current.get() is self:  # otherwise it ended in another context, or before one inside it
            _current.set(self.outer)
        view = self._plan.app_view
        view.active.discard(self)
        if view.idle is not None:
            view.left()


def current_scope(app: App) -> Scope | None:
    """Give the innermost open scope of ``app`` in this task."""
    scope = _current.get()
    while scope is not None and (scope.app is not app or not scope.is_open):
        scope = scope.outer
    return scope
