"""
Start and stop the parts of a plan along their edges.

A part starts when everything it needs is there, and stops when everything that needs it is gone; what is independent
goes side by side. The cost is linear in parts and edges. A failed or cancelled start leaves nothing open and no task
behind.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from dependency_injector import providers

from agentlayers.layer.errors import LayerStartError
from agentlayers.layer.lifecycle_log import log_ended_by_itself
from agentlayers.layer.plan import Part
from agentlayers.layer.resource_owner import ResourceOwner, call_provider, set_attributes
from agentlayers.layer.secret import mask_text
from agentlayers.layer.uninterrupted import uninterrupted

__all__ = ["Lifecycle"]


class Lifecycle:
    """
    The opening and closing of a set of parts.

    Args:
        parts: In dependency order; parts they need that are not among them are there already.
        bind: Called with each part and its value as soon as it is built.
        call: Makes a part; its provider is called when left out.
        needs: What each part waits for; as planned when left out.

    Attributes:
        start_seconds: How long each part took to start, by name.
        stop_seconds: How long each resource took to stop, by name.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        bind: Callable[[Part, Any], None],
        *,
        call: Callable[[Part], Any] | None = None,
        needs: Mapping[Part, tuple[Part, ...]] | None = None,
    ) -> None:
        self.parts = list(parts)
        self._needs = {part: part.needs for part in self.parts} if needs is None else needs
        self._call = call or _call_part
        self.start_seconds: dict[str, float] = {}
        self.stop_seconds: dict[str, float] = {}
        self._bind = bind
        self._dependents: dict[Part, list[Part]] = {part: [] for part in self.parts}
        self._waiting: dict[Part, int] = {}
        for part in self.parts:
            present = [need for need in self._needs[part] if need in self._dependents]
            self._waiting[part] = len(present)
            for need in present:
                self._dependents[need].append(part)
        self._owners: dict[Part, ResourceOwner] = {}
        self._built: list[Part] = []
        self._running = 0
        self._failure: tuple[Part | None, BaseException] | None = None
        self._also: list[tuple[Part, BaseException]] = []
        self._teardown: list[BaseException] = []
        self._phase: asyncio.Future[None] | None = None
        self._settled: asyncio.Future[None] | None = None
        self._stop_began: dict[Part, float] = {}
        self._ready: deque[Part] = deque()
        self._draining = False
        self._context = contextvars.copy_context()

    # -- start -------------------------------------------------------------------------------------
    async def start(self) -> None:
        """
        Open everything.

        Raises:
            LayerStartError: A part failed; all others are closed.
            asyncio.CancelledError: The caller was cancelled; all are closed.
        """
        self._loop = asyncio.get_running_loop()
        self._phase = self._loop.create_future()
        self._context = contextvars.copy_context()
        self._ready.extend(part for part in self.parts if not self._waiting[part])
        try:
            self._drain()
            if self._running or self._failure:
                await self._phase
        except BaseException as error:
            if self._failure is None:
                self._failure = (None, error)
            await uninterrupted(self._abort())
            if isinstance(error, asyncio.CancelledError):
                raise
            part, cause = self._failure
            if part is None:
                raise
            if isinstance(cause, KeyboardInterrupt | SystemExit):
                raise cause from None
            raise self._start_error(part, cause) from cause

    def abort(self, error: BaseException) -> None:
        """Make a start that is under way fail with ``error``."""
        if self._phase is not None and not self._phase.done():
            self._failure = self._failure or (None, error)
            self._phase.set_exception(error)

    def _drain(self) -> None:
        """Start all that is ready; what is built at once may make more ready."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._ready and self._failure is None:
                self._begin(self._ready.popleft())
        finally:
            self._draining = False
        if self._failure is None and not self._running and self._phase is not None and not self._phase.done():
            self._phase.set_result(None)

    def _begin(self, part: Part) -> None:
        began = self._loop.time()
        if not isinstance(part.provider, providers.BaseResource):
            try:
                made = self._context.copy().run(self._call, part)
            except BaseException as error:  # noqa: BLE001 - a constructor may raise anything
                self._part_failed(part, error)
                return
            if not inspect.isawaitable(made):
                set_attributes(part.provider, made)
                self._part_built(part, made, began)
                return
            self._own(part, lambda: _awaited(part.provider, made), began)
            return
        self._own(part, lambda: self._call(part), began)

    def _own(self, part: Part, open_it: Callable[[], Any], began: float) -> None:
        self._running += 1

        def opened(value: Any) -> None:
            self._finished_opening()
            self._part_built(part, value.value if isinstance(value, _Plain) else value, began)
            self._drain()

        def failed(error: BaseException) -> None:
            self._owners.pop(part, None)
            self._part_failed(part, error)
            self._finished_opening()

        owner = ResourceOwner(
            open_it,
            opened=opened,
            failed=failed,
            closed=lambda error: self._part_closed(part, error),
        )
        self._owners[part] = owner
        owner.begin(self._loop, f"layer {part.name}", self._context.copy())

    def _part_built(self, part: Part, value: Any, began: float) -> None:
        self.start_seconds[part.name] = self._loop.time() - began
        self._built.append(part)
        self._bind(part, value)
        for dependent in self._dependents[part]:
            self._waiting[dependent] -= 1
            if not self._waiting[dependent]:
                self._ready.append(dependent)

    def _part_failed(self, part: Part, error: BaseException) -> None:
        if self._failure is None:
            self._failure = (part, error)
            if self._phase is not None and not self._phase.done():
                self._phase.set_exception(_Failed())
        elif not isinstance(error, asyncio.CancelledError):
            self._also.append((part, error))

    async def _abort(self) -> None:
        """Cancel what is opening, then close what is open."""
        self._settled = self._loop.create_future()
        for owner in self._owners.values():
            if owner.state == "opening" and owner.task is not None:
                owner.task.cancel()
        if self._running:
            await self._settled
        assert self._failure is not None
        await self._close_all(self._failure[1])

    def _finished_opening(self) -> None:
        self._running -= 1
        if not self._running and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _start_error(self, part: Part, cause: BaseException) -> LayerStartError:
        raised = LayerStartError(name=part.name, path=part.path(), origin=part.origin, cause=cause)
        for other, also in self._also:
            raised.add_note(f"{other.name} failed too: {type(also).__name__}: {mask_text(str(also))}")
        for teardown in self._teardown:
            raised.add_note(f"while closing: {type(teardown).__name__}: {mask_text(str(teardown))}")
        raised.teardown_errors = tuple(self._teardown)
        return raised

    # -- stop --------------------------------------------------------------------------------------
    async def stop(self, error: BaseException | None = None, only: Collection[str] | None = None) -> None:
        """
        Close everything in reverse, whatever fails on the way.

        Args:
            error: Why the app ends, handed to the resources.
            only: Close only the parts of these names; whatever needs them has to be among them, or closed.

        Raises:
            ExceptionGroup: With every error of every resource that failed to close.
        """
        await uninterrupted(self._close_all(error, only))
        if self._teardown:
            failures, self._teardown = self._teardown, []
            message = "some layers failed to close"
            raise BaseExceptionGroup(message, failures)

    async def _close_all(self, error: BaseException | None, only: Collection[str] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._why = error
        leaving = [part for part in self._built if only is None or part.name in only]
        self._left = dict.fromkeys(leaving, 0)
        for part in leaving:
            for need in self._needs[part]:
                if need in self._left:
                    self._left[need] += 1
        self._all_closed = self._loop.create_future()
        self._closing = deque(part for part in reversed(leaving) if not self._left[part])
        self._open_count = len(leaving)
        self._drain_closing()
        if self._open_count:
            await self._all_closed
        self._built = [part for part in self._built if part not in self._left]
        tasks = [owner.task for part in leaving if (owner := self._owners.pop(part, None)) and owner.task]
        if tasks:
            await asyncio.wait(tasks)

    def _drain_closing(self) -> None:
        while self._closing:
            part = self._closing.popleft()
            owner = self._owners.get(part)
            if owner is None or owner.state == "closed":
                self._gone(part)
            else:
                self._stop_began[part] = self._loop.time()
                owner.stop(self._why)

    def _gone(self, part: Part) -> None:
        self._open_count -= 1
        for need in self._needs[part]:
            if need in self._left:
                self._left[need] -= 1
                if not self._left[need]:
                    self._closing.append(need)
        if not self._open_count and not self._all_closed.done():
            self._all_closed.set_result(None)

    def _part_closed(self, part: Part, error: BaseException | None) -> None:
        if error is not None:
            error.add_note(f"while closing {part.name}, declared at {part.origin}")
            self._teardown.append(error)
        began = self._stop_began.get(part)
        if began is None:
            log_ended_by_itself(part.name, error)
        else:
            self.stop_seconds[part.name] = self._loop.time() - began
            self._gone(part)
            self._drain_closing()


def _call_part(part: Part) -> Any:
    return call_provider(part.provider)


class _Failed(Exception):  # noqa: N818 - never leaves this module; it only wakes the starter
    pass


async def _awaited(provider: Any, made: Any) -> Any:
    """Finish an asynchronous factory; the result is a plain value, opened by nobody."""
    value = await made
    set_attributes(provider, value)
    return _Plain(value)


class _Plain:
    """Keeps a value from being entered; unwrapped when it is bound."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value
