"""
A running graph: started once, closed once, and plain values in between.

After the start every service is an ordinary object and every look-up is synchronous.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from dependency_injector import providers

from agentlayers.errors import StateError
from agentlayers.layer.blueprint import Blueprint, make_blueprint
from agentlayers.layer.compiler import service_label
from agentlayers.layer.errors import ServiceNotFoundError
from agentlayers.layer.lifecycle import Lifecycle
from agentlayers.layer.override import active_overrides, override_target
from agentlayers.layer.plan import Part, Plan
from agentlayers.layer.validation import check

__all__ = ["App"]

T = TypeVar("T")
State = Literal["new", "starting", "running", "closing", "closed"]


class App:
    """
    The running form of a layer or a container.

    Use it as ``async with``, or call :meth:`start` and :meth:`close`. An app runs once; to run
    again, make another from the same layer.

    Args:
        target: A layer or a container class.
        wanted: The services (or names) to start; everything the target offers when left out. Only
            what they need
            is started.

    Attributes:
        state: ``new``, ``starting``, ``running``, ``closing`` or ``closed``.
    """

    def __init__(self, target: Any, *wanted: Any) -> None:
        self.target = target
        self.wanted = wanted
        self.state: State = "new"
        self._blueprint: Blueprint | None = None
        self._plan: Plan | None = None
        self._lifecycle: Lifecycle | None = None
        self._values: dict[Any, Any] = {}
        self._calls: dict[Any, Callable[[], Any]] = {}
        self._ended: asyncio.Future[None] | None = None

    # -- life --------------------------------------------------------------------------------------
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
        self._ended = asyncio.get_running_loop().create_future()
        try:
            plan = self.check()
            for part in plan.order:
                if part.kind != "coroutine":
                    part.provider.disable_async_mode()  # nothing is ever a Future here
            self._lifecycle = Lifecycle(plan.order, _bind)
            await self._lifecycle.start()
        except BaseException:
            self._finish()
            raise
        self._index(plan)
        self.state = "running"

    def check(self) -> Plan:
        """
        Put the graph together, with the overrides of this task, and check it; opens nothing.

        Raises:
            LayerValidationError: With everything that is wrong.
        """
        blueprint = make_blueprint(self.target)
        overrides = active_overrides(self)
        if overrides:
            blueprint.apply(overrides, Plan(blueprint).named)
        wanted = [blueprint.find(key) for key in self.wanted] or blueprint.wanted
        plan = Plan(blueprint, wanted)
        check(plan)
        self._blueprint, self._plan = blueprint, plan
        return plan

    async def close(self, error: BaseException | None = None) -> None:
        """
        Close everything in reverse; a second call does nothing, a call while starting makes the
        start fail.

        Args:
            error: Why the app ends, handed to the resources.

        Raises:
            ExceptionGroup: With every error of every resource that failed to close.
        """
        if self.state == "starting":
            assert self._lifecycle is not None
            self._lifecycle.abort(StateError("the app was closed while it was starting"))
        if self.state in {"starting", "closing"}:
            assert self._ended is not None
            await asyncio.shield(self._ended)
            return
        if self.state in {"new", "closed"}:
            self.state = "closed"
            return
        self.state = "closing"
        assert self._lifecycle is not None
        try:
            await self._lifecycle.stop(error)
        finally:
            self._finish()

    def _finish(self) -> None:
        self.state = "closed"
        self._values.clear()
        self._calls.clear()
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
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close(error)

    def serving(self, service: Any) -> AbstractAsyncContextManager[Any]:
        """Start and close the app around a block that gets one service."""
        return _Serving(self, service)

    # -- look-up -----------------------------------------------------------------------------------
    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: Callable[..., T]) -> T: ...
    def get(self, key: Any) -> Any:
        """
        Give a service by its type, or a part by its name; a factory gives a new one each time.

        Raises:
            ServiceNotFoundError: The app has no such service, or did not start it.
            StateError: The app is not running.
        """
        try:
            return self._values[key]
        except KeyError:
            pass
        call = self._calls.get(key)
        return call() if call is not None else self._look_up(key)()

    def _look_up(self, key: Any) -> Callable[[], Any]:
        if self.state != "running":
            message = f"the app is {self.state}; services are there while it runs"
            raise StateError(message)
        assert self._blueprint is not None
        assert self._plan is not None
        part = self._plan.part_of(self._blueprint.find(key))
        if part is None:
            label = service_label(key)
            wanted = ", ".join(service_label(w) for w in self.wanted)
            message = f"{label} was not started: {wanted or 'what was asked for'} does not need it"
            raise ServiceNotFoundError(message, hint=f"ask for it as well: App(..., {label})")
        call: Callable[[], Any] = part.provider
        self._calls[key] = call
        return call

    def _index(self, plan: Plan) -> None:
        """Prepare the look-ups, so that the common ones are one dictionary access."""
        blueprint = plan.blueprint
        for key, provider in [*blueprint.roots.items(), *blueprint.outputs.items()]:
            part = plan.part_of(provider)
            if part is None:
                continue
            if part.is_started or part.kind == "value":
                self._values[key] = part.provider()
            else:
                self._calls[key] = part.provider

    # -- overrides ---------------------------------------------------------------------------------
    def override(
        self, overrides: Mapping[type[Any] | str, object] | None = None, /, **by_name: object
    ) -> AbstractContextManager[None]:
        """
        Replace parts inside the ``with`` block, for this task only.

        Before the start, the replaced part and what only it needs are never started.
        """
        return override_target(self, overrides, by_name)

    # -- operating ---------------------------------------------------------------------------------
    @property
    def timings(self) -> Mapping[str, tuple[float, float | None]]:
        """Seconds each part took to start and, once closed, to stop."""
        if self._lifecycle is None:
            return {}
        stopped = self._lifecycle.stop_seconds
        return {name: (seconds, stopped.get(name)) for name, seconds in self._lifecycle.start_seconds.items()}


def _bind(part: Part, value: Any) -> None:
    part.provider.override(providers.Object(value))


class _Serving(AbstractAsyncContextManager[Any]):
    def __init__(self, app: App, service: Any) -> None:
        self._app, self._service = app, service

    async def __aenter__(self) -> Any:
        await self._app.start()
        return self._app.get(self._service)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._app.close(error)
