"""Overrides of an app: before it starts they shape what is built, afterwards they are a view of their own."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from dependency_injector import providers

from agentlayers.errors import StateError
from agentlayers.layer.lifecycle import Lifecycle
from agentlayers.layer.override import Override, overriding
from agentlayers.layer.plan import Part
from agentlayers.layer.resource_owner import call_provider, set_attributes
from agentlayers.layer.view import View

if TYPE_CHECKING:
    from agentlayers.layer.app import App

__all__ = ["AppOverride", "override_view", "views_of_task"]

_views: ContextVar[tuple[tuple[object, View], ...]] = ContextVar("agentlayers_views", default=())
views_of_task: Final = _views.get
"""What overrides have made for this task; empty for nearly everybody, so it is looked at first."""


def override_view(app: App) -> View | None:
    """Give the innermost view that this task has of ``app``, if it overrides anything."""
    views = _views.get()
    if views:
        for owner, view in reversed(views):
            if owner is app:
                return view
    return None


class AppOverride:
    """
    One override of one app, as ``with`` or ``async with``.

    Args:
        app: What to override.
        overrides: By what.
    """

    def __init__(self, app: App, overrides: tuple[Override, ...]) -> None:
        self._app, self._overrides = app, overrides
        self._before_start: AbstractContextManager[None] | None = None
        self._entry: tuple[App, View] | None = None
        self._lifecycle: Lifecycle | None = None

    # -- with -----------------------------------------------------------------------------------------------------
    def __enter__(self) -> None:
        if self._app.state == "new":
            self._before_start = overriding((self._app, self._overrides))
            self._before_start.__enter__()
            return
        view, parts = self._derive()
        slow = [part.name for part in parts if isinstance(part.provider, providers.BaseResource)]
        if slow:
            message = f"{', '.join(slow)} would have to be opened for this override; write async with"
            raise StateError(message)
        for part in parts:
            view.bind(part, _build_now(part))
        self._activate(view)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before_start is not None:
            self._before_start.__exit__(kind, error, trace)
            self._before_start = None
        self._deactivate()

    # -- async with -----------------------------------------------------------------------------------------------
    async def __aenter__(self) -> None:
        if self._app.state == "new":
            self.__enter__()
            return
        view, parts = self._derive()
        if parts:
            self._lifecycle = Lifecycle(parts, view.bind)
            await self._lifecycle.start()
            self._app.track(self, is_open=True)
        self._activate(view)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
        await self.stop(error)

    async def stop(self, error: BaseException | None) -> None:
        """Close what was opened for the override; a second call does nothing."""
        lifecycle, self._lifecycle = self._lifecycle, None
        self._app.track(self, is_open=False)
        if lifecycle is not None:
            await lifecycle.stop(error)

    # -- views ----------------------------------------------------------------------------------------------------
    def _derive(self) -> tuple[View, list[Part]]:
        view = self._app.view
        return self._app.derive(view, (*view.overrides, *self._overrides), ())

    def _activate(self, view: View) -> None:
        view.finish()
        self._entry = (self._app, view)
        _views.set((*_views.get(), self._entry))

    def _deactivate(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            _views.set(tuple(other for other in _views.get() if other is not entry))
            self._app.drop(entry[1])


def _build_now(part: Part) -> Any:
    made = call_provider(part.provider)
    if inspect.isawaitable(made):
        if inspect.iscoroutine(made):
            made.close()
        message = f"{part.name} is built asynchronously; write async with"
        raise StateError(message)
    set_attributes(part.provider, made)
    return made
