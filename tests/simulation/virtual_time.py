"""
An event loop whose clock jumps to the next timer when nothing is ready, and on which one seed gives one run.

What asyncio leaves to chance is taken away: sets of tasks and futures are iterated in the order of the memory they lie
in, so here each has a number to be hashed by. Threads have no place in such a run and are refused.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NoReturn, Self, TypeVar

__all__ = ["DeadlockError", "SpinningError", "VirtualTimeLoop", "run_in_virtual_time"]

T = TypeVar("T")

_START: Final = 1_000.0
"""Loop time at the beginning: not 0, which could pass for "never"."""

_TURNS_MAX: Final = 100_000
"""Turns of the loop in one moment: with more, somebody waits by trying again and again."""


class DeadlockError(AssertionError):
    """Everybody waits, and nothing is ever going to happen."""


class SpinningError(AssertionError):
    """The loop goes round and time stands still."""


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nobody: asked to wait, it moves the clock by that much."""

    def __init__(self) -> None:
        super().__init__()
        self.now = _START
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move the clock by ``timeout`` seconds."""
        if timeout is None:
            raise DeadlockError(f"at {self.now:.3f}: everybody waits and no timer is set")
        if timeout > 0:
            self.now += timeout
            self._turns = 0
        self._turns += 1
        if self._turns > _TURNS_MAX:
            self._turns = 0
            raise SpinningError(f"at {self.now:.3f}: {_TURNS_MAX} turns of the loop in one moment")
        return []


class _NumberedTask(asyncio.Task[Any]):
    """A task with a hash that is the same in each run."""

    _number: int

    def __new__(cls, *args: Any, loop: VirtualTimeLoop, **kwargs: Any) -> Self:
        del args, kwargs
        made = super().__new__(cls)
        made._number = loop.next_number()
        return made

    def __hash__(self) -> int:
        return self._number


class _NumberedFuture(asyncio.Future[Any]):
    """A future with a hash that is the same in each run."""

    _number: int

    def __new__(cls, *, loop: VirtualTimeLoop) -> Self:
        made = super().__new__(cls)
        made._number = loop.next_number()
        return made

    def __hash__(self) -> int:
        return self._number


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for the wall clock; see the module."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        self.next_number = itertools.count(1).__next__
        super().__init__(self._clock)
        self.set_task_factory(_numbered)  # type: ignore[arg-type]  # a subclass of Task is a Task

    def time(self) -> float:
        """Return the virtual time."""
        return self._clock.now

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future with a number."""
        return _NumberedFuture(loop=self)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]
        """Refuse: a thread takes as long as it takes."""
        del executor, args
        raise AssertionError(f"{func} asks for a thread")

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        """Refuse: only threads call it."""
        raise AssertionError(f"a thread took part: {args} {kwargs}")


def _numbered(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **kwargs: Any) -> _NumberedTask:
    assert isinstance(loop, VirtualTimeLoop)
    return _NumberedTask(coro, loop=loop, **kwargs)


def run_in_virtual_time(
    main: Coroutine[Any, Any, T], *, on_exception: Callable[[Mapping[str, Any]], None] | None = None
) -> T:
    """
    Run a coroutine on a loop of its own to its end.

    Args:
        main: What to run.
        on_exception: Told what the loop's exception handler is told, such as of a task whose error nobody took.

    Raises:
        DeadlockError: It can never end.
        SpinningError: It would never end.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        if on_exception is not None:
            runner.get_loop().set_exception_handler(lambda _, context: on_exception(context))
        return runner.run(main)
