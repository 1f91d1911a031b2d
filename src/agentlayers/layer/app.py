"""
A running graph: started once, closed once, and plain values in between.

After the start every service is an ordinary object and every look-up is synchronous.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, overload

from dependency_injector import providers

from agentlayers.errors import StateError
from agentlayers.layer.app_override import AppOverride, override_view, views_of_task
from agentlayers.layer.layer import Layer
from agentlayers.layer.lifecycle import Lifecycle
from agentlayers.layer.lifecycle_log import log_phase
from agentlayers.layer.override import (
    active_overrides,
    ambient_overrides,
    collect_overrides,
    with_ambient_overrides,
)
from agentlayers.layer.plan import Part, Plan
from agentlayers.layer.scope import Scope, ScopePlan, current_scope
from agentlayers.layer.view import View, plan_view

__all__ = ["App"]

T = TypeVar("T")
_MISSING: Final = object()
_SCOPE_PLANS_MAX: Final = 128
"""Request layers that stay put together; an app has a few, and one that makes a new value each time must not grow."""
State = Literal["new", "starting", "running", "closing", "closed"]


class App:
    """
    The running form of a layer or a container.

    Use it as ``async with``, or call :meth:`start` and :meth:`close`. An app runs once; to run again, make another from
    the same layer.

    Args:
        target: A layer or a container class.
        wanted: The services (or names) to start; everything the target offers when left out. Only what they need is
            started.

    Attributes:
        state: ``new``, ``starting``, ``running``, ``closing`` or ``closed``.
    """

    def __init__(self, target: Any, *wanted: Any) -> None:
        self.target = target
        self.wanted = wanted
        self.state: State = "new"
        self._view: View | None = None
        self._ready: dict[Any, Any] = {}
        self._makers: dict[Any, Callable[[], Any]] = {}
        self._lifecycles: list[Lifecycle] = []
        self._open_overrides: list[AppOverride] = []
        self._scope_plans: dict[Any, ScopePlan] = {}
        self._ended: asyncio.Future[None] | None = None
        self._ambient: Any = ()
        self._refreshing = asyncio.Lock()

    # -- life -----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """
        Check the graph and open what is wanted.

        Raises:
            LayerValidationError: The graph is wrong; nothing was opened.
            LayerStartError: A part failed; everything is closed again.
            StateError: It was started before, or closed meanwhile.
        """
        if self.state != "new":
            message = f"this app is {self.state} and starts only once; make another from the same layer"
            raise StateError(message)
        self.state = "starting"
        began = time.perf_counter()
        self._ended = asyncio.get_running_loop().create_future()
        try:
            self._ambient = ambient_overrides()
            view = plan_view(self.target, self.wanted, active_overrides(self))
            self._bind_requests(view)
            lifecycle = Lifecycle([part for part in view.plan.order if part.is_started], view.bind)
            self._lifecycles.append(lifecycle)
            await lifecycle.start()
        except BaseException:
            self._finish()
            raise
        self._show(view)
        self.state = "running"
        log_phase("started", view.plan.blueprint.label, lifecycle.start_seconds, time.perf_counter() - began)
        self._wire(view, on=True)

    def _wire(self, view: View, *, on: bool) -> None:
        """Wire the modules that the container's ``wiring_config`` names, as calling its class would."""
        compiled = view.plan.blueprint.container
        if compiled is not None and compiled.instance.is_auto_wiring_enabled():
            compiled.instance.wire() if on else compiled.instance.unwire()

    def _show(self, view: View) -> None:
        view.finish()
        self._view, self._ready, self._makers = view, view.ready, view.makers

    def check(self) -> Plan:
        """
        Put the graph together, with the overrides of this task, and check it; opens nothing.

        Raises:
            LayerValidationError: With everything that is wrong.
        """
        return plan_view(self.target, self.wanted, active_overrides(self)).plan

    async def close(self, error: BaseException | None = None) -> None:
        """
        Close everything in reverse; a second call does nothing, a call while starting makes the start fail.

        Args:
            error: Why the app ends, handed to the resources.

        Raises:
            ExceptionGroup: With every error of every resource that failed to close.
        """
        if self.state == "starting":
            for lifecycle in self._lifecycles:
                lifecycle.abort(StateError("the app was closed while it was starting"))
        if self.state in {"starting", "closing"}:
            assert self._ended is not None
            await asyncio.shield(self._ended)
            return
        if self.state in {"new", "closed"}:
            self.state = "closed"
            return
        self.state = "closing"
        assert self._view is not None
        began = time.perf_counter()
        self._wire(self._view, on=False)
        try:
            await self._close_everything(error)
        finally:
            stopped = {name: stop for name, (_start, stop) in self.timings.items() if stop is not None}
            log_phase("stopped", self._view.plan.blueprint.label, stopped, time.perf_counter() - began)
            self._finish()

    async def _close_everything(self, error: BaseException | None) -> None:
        """Close what overrides and refreshes have opened, newest first, then the rest; keep all errors."""
        failures: list[BaseException] = []
        cancelled: BaseException | None = None
        opened: list[AppOverride | Lifecycle] = [*self._lifecycles, *self._open_overrides]
        for closing in reversed(opened):
            try:
                await closing.stop(error)
            except BaseExceptionGroup as group:
                failures.extend(group.exceptions)
            except asyncio.CancelledError as interrupted:
                cancelled = interrupted
        if cancelled is not None:
            raise cancelled
        if failures:
            message = "some layers failed to close"
            raise BaseExceptionGroup(message, failures)

    def _finish(self) -> None:
        self.state = "closed"
        if self._view is not None:
            self._view.forget()
        self._scope_plans.clear()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def wait_closed(self) -> None:
        """Wait until the app is closed."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(error)

    def __del__(self) -> None:
        if getattr(self, "state", "new") == "running":
            warnings.warn(f"an app was never closed: {self.target!r}", ResourceWarning, source=self, stacklevel=2)

    def serving(self, service: Callable[..., T]) -> AbstractAsyncContextManager[T]:
        """Start and close the app around a block that gets one service."""
        return _Serving(self, service)

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[Self]:
        """Close an app that was started by hand when the block is left."""
        error: BaseException | None = None
        try:
            yield self
        except BaseException as raised:
            error = raised
            raise
        finally:
            await self.close(error)

    # -- look-up --------------------------------------------------------------------------------------------------
    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: Callable[..., T]) -> T: ...
    def get(self, key: Any) -> Any:
        """
        Give a service by its type, or a part by its name; a factory gives a new one each time.

        Raises:
            ServiceNotFoundError: The app has no such service, or did not start it.
            StateError: The app is not running, or the service belongs to a request and no scope is open.
        """
        if not views_of_task():
            value = self._ready.get(key, _MISSING)
            if value is not _MISSING:
                return value
            make = self._makers.get(key)
            if make is not None:
                return make()
        return self.view.get(key)

    @property
    def view(self) -> View:
        """The graph as this task sees it."""
        if self.state != "running" or self._view is None:
            message = f"the app is {self.state}; services are there while it runs"
            raise StateError(message)
        return override_view(self) or self._view

    @property
    def container(self) -> Any:
        """
        The private dependency-injector container of an app made from one, every resource bound to its value.

        For ``wire()`` and code that calls providers; what is changed on it is seen by this app only.
        """
        compiled = self.view.plan.blueprint.container
        if compiled is None:
            message = "this app is made of layers and has no container"
            raise StateError(message)
        return compiled.instance

    # -- requests -------------------------------------------------------------------------------------------------
    def scope(self, *wanted: Any, using: Layer | None = None) -> Scope:
        """
        Open a request: ``with app.scope() as request: request.get(Handler)``.

        Args:
            wanted: What the request will ask for, so that the resources it needs are opened (``async with``).
            using: A layer whose parts live for the request and may need the app's services. Use one and the same
                value for all requests: it is put together once.

        Raises:
            LayerValidationError: The layer is wrong, or needs what the app does not offer.
        """
        view = self.view if self._view is None or views_of_task() or self.state != "running" else self._view
        if using is None:
            plan = view.scope_plan or view.plan_scopes(ScopePlan)
            return Scope(self, plan, wanted)
        key = (view, using)
        plan = self._scope_plans.get(key)
        if plan is None:
            if len(self._scope_plans) >= _SCOPE_PLANS_MAX:
                del self._scope_plans[next(iter(self._scope_plans))]
            plan = self._scope_plans[key] = self._plan_scope(view, using)
        return Scope(self, plan, wanted)

    def _plan_scope(self, view: View, using: Layer) -> ScopePlan:
        feeds = [
            Layer.succeed(service, view.get(service))
            for service in view.plan.blueprint.outputs
            if (part := view.plan.part_of(view.plan.blueprint.outputs[service])) is not None
            and (part.is_started or part.kind == "value")
        ]
        fed = using.provide_merge(*(feed for feed in feeds if feed.outputs[0] not in using.outputs))
        child = with_ambient_overrides(self._ambient, lambda: plan_view(fed, (), active_overrides(using)))
        return ScopePlan(child, view, [part for part in child.plan.order if part.is_started])

    def _bind_requests(self, view: View) -> None:
        """Let request parts be found by whoever calls their provider inside a scope."""
        for part in view.request_parts:
            part.provider.override(providers.Callable(self._request_value, part.name))

    def _request_value(self, name: str) -> Any:
        scope = current_scope(self)
        if scope is None:
            message = f"{name} belongs to a request; open one: with app.scope() as request"
            raise StateError(message)
        return scope.made(name)

    # -- overrides ------------------------------------------------------------------------------------------------
    def override(self, overrides: Mapping[type[Any] | str, object] | None = None, /, **by_name: object) -> AppOverride:
        """
        Replace parts inside the block, for this task (or thread) and those it starts.

        Before the start, the replaced part and what only it needs are never started. On a running app, whatever depends
        on the replaced part is built anew for the block and dropped with it; ``async with`` is needed if a resource is
        among that.
        """
        return AppOverride(self, collect_overrides(overrides, by_name))

    def derive(self, view: View, overrides: tuple[Any, ...], changed: tuple[str, ...]) -> tuple[View, list[Part]]:
        """
        Make another view of a running app.

        Args:
            view: What to start from.
            overrides: What to replace.
            changed: Names of parts to build anew.

        Returns:
            The view, and the parts that have to be built for it.
        """
        made = with_ambient_overrides(self._ambient, lambda: plan_view(self.target, self.wanted, overrides))
        self._bind_requests(made)
        return made, made.take_over(view, changed)

    def track(self, override: AppOverride, *, is_open: bool) -> None:
        """Remember an open override, so that closing the app closes what it opened."""
        if is_open:
            self._open_overrides.append(override)
        elif override in self._open_overrides:
            self._open_overrides.remove(override)

    def drop(self, view: View) -> None:
        """Forget a view that an override made."""
        self._scope_plans = {key: plan for key, plan in self._scope_plans.items() if key[0] is not view}

    # -- operating ------------------------------------------------------------------------------------------------
    async def refresh(self, *keys: Any) -> None:
        """
        Build parts anew, with everything that depends on them, and change over at once.

        Requests under way keep what they have; the old parts are closed when the last of them has ended. What does not
        depend on the parts is left alone.

        Args:
            keys: Services or names.

        Raises:
            LayerStartError: A new part failed; the app goes on with the old ones.
        """
        async with self._refreshing:
            old = self.view
            if old is not self._view:
                message = "an app cannot be refreshed inside an override"
                raise StateError(message)
            names = tuple(old.part(key).name for key in keys)
            made, parts = self.derive(old, old.overrides, names)
            lifecycle = Lifecycle(parts, made.bind)
            await lifecycle.start()
            before, self._lifecycles = self._lifecycles, [*self._lifecycles, lifecycle]
            self._show(made)
            self._scope_plans = {key: plan for key, plan in self._scope_plans.items() if key[0] is not old}
            await old.wait_idle()
            replaced = {part.name for part in parts}
            for earlier in reversed(before):
                await earlier.stop(only=replaced)

    @property
    def timings(self) -> Mapping[str, tuple[float, float | None]]:
        """Seconds each part took to start and, once closed, to stop."""
        return {
            name: (seconds, lifecycle.stop_seconds.get(name))
            for lifecycle in self._lifecycles
            for name, seconds in lifecycle.start_seconds.items()
        }

    async def health(self) -> dict[str, Any]:
        """
        Ask every started part that has a ``health`` method, async or not.

        Returns:
            What each said by part name; an error counts as what was said.
        """
        said: dict[str, Any] = {}
        for name, value in self.view.values.items():
            ask = getattr(type(value), "health", None)
            if callable(ask):
                try:
                    answer = ask(value)
                    said[name] = await answer if inspect.isawaitable(answer) else answer
                except Exception as error:  # noqa: BLE001 - a part that cannot say is what we want to know
                    said[name] = error
        return said


class _Serving(AbstractAsyncContextManager[T]):
    def __init__(self, app: App, service: Callable[..., T]) -> None:
        self._app, self._service = app, service

    async def __aenter__(self) -> T:
        await self._app.start()
        return self._app.get(self._service)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._app.close(error)
