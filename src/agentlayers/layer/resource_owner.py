"""
Build one part, and keep one resource: entered and left in the same task.

A task of its own is what makes an anyio task group, a cancel scope or a contextvar usable as a resource.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from dependency_injector import providers

__all__ = ["ResourceOwner", "call_provider"]

Leave = Callable[[BaseException | None, bool], Awaitable[None] | None]
_ASYNC_GENERATOR: Final = contextlib._AsyncGeneratorContextManager
_GENERATOR: Final = contextlib._GeneratorContextManager


def call_provider(provider: Any) -> Any:
    """Call what a singleton or resource provider provides, with its arguments resolved."""
    make = provider.provides
    if providers.is_provider(make):
        make = make()
    args = [_resolved(value) for value in provider.args]
    kwargs = {name: _resolved(value) for name, value in provider.kwargs.items()}
    return make(*args, **kwargs)


def set_attributes(provider: Any, made: Any) -> None:
    """Set the attribute injections of a singleton."""
    for name, value in getattr(provider, "attributes", {}).items():
        setattr(made, name, _resolved(value))


def _resolved(value: Any) -> Any:
    if providers.is_provider(value) and not providers.is_delegated(value):
        return value()
    return value


class ResourceOwner:
    """
    The task that opens one resource, holds it, and closes it.

    Args:
        open_it: Calls the user's callable.
        opened: Called with the value, inside the task.
        failed: Called with the error, inside the task.
        closed: Called when all is over, with the teardown error if there was one.
    """

    __slots__ = ("_closed", "_error", "_failed", "_open_it", "_opened", "_stop", "state", "task")

    def __init__(
        self,
        open_it: Callable[[], Any],
        *,
        opened: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        closed: Callable[[BaseException | None], None],
    ) -> None:
        self._open_it, self._opened, self._failed, self._closed = open_it, opened, failed, closed
        self._stop: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.state: Literal["opening", "open", "leaving", "closed"] = "opening"
        self.task: asyncio.Task[None] | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, name: str, context: contextvars.Context) -> None:
        """Start the task, in a context of its own."""
        self.task = loop.create_task(self._run(), name=name, context=context)
        self.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self.state == "opening":  # cancelled before its first step, when no code of ours could run
            self._fail(asyncio.CancelledError())
        if not task.cancelled():
            task.exception()

    def _fail(self, error: BaseException) -> None:
        self.state = "closed"
        self._failed(error)

    def stop(self, error: BaseException | None) -> None:
        """Ask the task to close; ``error`` is why the app ends, if it is one."""
        self._error = error
        if self._stop is not None and not self._stop.done():
            self._stop.set_result(None)

    async def _run(self) -> None:
        self._stop = asyncio.get_running_loop().create_future()
        try:
            value, leave = await _enter(self._open_it())
        except (KeyboardInterrupt, SystemExit) as error:
            self._fail(error)
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the app has to hear of it
            self._fail(error)
            return
        self.state = "open"
        self._opened(value)
        interrupted: asyncio.CancelledError | None = None
        try:
            await self._stop
        except asyncio.CancelledError as error:
            interrupted = error  # a task group's child failed, or the loop is going down
        await self._leave(leave, interrupted)

    async def _leave(self, leave: Leave | None, interrupted: BaseException | None) -> None:
        self.state = "leaving"
        failure: BaseException | None = None
        error = interrupted or self._error
        try:
            if leave is not None:
                outcome = leave(error, interrupted is not None)
                if outcome is not None:
                    await outcome
        except BaseException as raised:  # noqa: BLE001 - reported with the others, stops none of them
            if raised is not error:
                failure = raised
        self.state = "closed"
        self._closed(failure)
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            raise failure


async def _enter(made: Any) -> tuple[Any, Leave | None]:
    kind = type(made)
    if inspect.isawaitable(made) and not hasattr(kind, "__aenter__"):
        made = await made
        kind = type(made)
    if isinstance(made, _ASYNC_GENERATOR):
        return await made.__aenter__(), lambda error, thrown: _leave_async_generator(made, error, thrown)
    if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__"):
        return await made.__aenter__(), lambda error, _thrown: made.__aexit__(*_triple(error))
    # What is synchronous holds up the loop: all that is asynchronous begins before it, and goes on behind it.
    await asyncio.sleep(0)
    if isinstance(made, _GENERATOR):
        return made.__enter__(), lambda error, thrown: _leave_generator(made, error, thrown)
    if hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
        return made.__enter__(), lambda error, _thrown: _ignore(made.__exit__(*_triple(error)))
    return made, None


def _triple(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def _ignore(_result: Any) -> None:
    """Drop a result: a resource cannot swallow the error that ends an app."""


async def _leave_async_generator(manager: Any, error: BaseException | None, thrown: bool) -> None:  # noqa: FBT001
    """
    Resume the generator after its ``yield``, which gives the error that ends the app (or None).

    Throwing it in would skip everything after a ``yield`` that no ``try`` surrounds. Only an interruption of this very
    task is thrown, because a cancel scope inside has to see it.
    """
    if thrown:
        await manager.__aexit__(*_triple(error))
        return
    try:
        await manager.gen.asend(error)
    except StopAsyncIteration:
        return
    await manager.gen.aclose()
    raise RuntimeError(_TWO_YIELDS)


def _leave_generator(manager: Any, error: BaseException | None, thrown: bool) -> None:  # noqa: FBT001
    if thrown:
        manager.__exit__(*_triple(error))
        return
    try:
        manager.gen.send(error)
    except StopIteration:
        return
    manager.gen.close()
    raise RuntimeError(_TWO_YIELDS)


_TWO_YIELDS: Final = "a resource's generator has to yield once"
