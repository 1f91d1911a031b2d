"""
Overrides, bound to the task (or thread) that made them.

A contextvar holds what is overridden for which target; a task started inside the block inherits it, tasks and threads
outside never see it. Builds read it; nothing global is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from agentlayers.layer.origin import Origin, caller_origin

__all__ = [
    "Override",
    "active_overrides",
    "ambient_overrides",
    "clear_overrides",
    "collect_overrides",
    "override_target",
    "overriding",
    "with_ambient_overrides",
]

T = TypeVar("T")
Ambient = tuple[tuple[object, tuple["Override", ...]], ...]


@dataclass(frozen=True, slots=True)
class Override:
    """One replacement: of what (a name or a service type), by what, and where that was written."""

    key: str | type[Any]
    value: object
    origin: Origin


_active: ContextVar[tuple[tuple[object, tuple[Override, ...]], ...]] = ContextVar("agentlayers_overrides", default=())


def collect_overrides(
    overrides: Mapping[type[Any] | str, object] | None, by_name: Mapping[str, object]
) -> tuple[Override, ...]:
    """Turn the two spellings of an override's arguments into one list."""
    origin = caller_origin()
    both: dict[str | type[Any], object] = dict(overrides or {})
    both.update(by_name)
    return tuple(Override(key, value, origin) for key, value in both.items())


def override_target(
    target: object,
    overrides: Mapping[type[Any] | str, object] | None,
    by_name: Mapping[str, object],
) -> AbstractContextManager[None]:
    """Replace parts of every build of ``target`` inside the block."""
    return overriding((target, collect_overrides(overrides, by_name)))


@contextmanager
def overriding(entry: tuple[object, tuple[Override, ...]]) -> Iterator[None]:
    """Let overrides that were collected count inside the block."""
    _active.set((*_active.get(), entry))
    try:
        yield
    finally:
        # Not by a token: a fixture may end in another context than it began in, where there is nothing to undo.
        _active.set(tuple(other for other in _active.get() if other is not entry))


def active_overrides(target: object) -> tuple[Override, ...]:
    """
    Give what is overridden for ``target`` here and now, outermost first; a base container's count for its subclasses.
    """
    found: list[Override] = []
    for overridden, overrides in _active.get():
        if overridden is target or (
            isinstance(overridden, type) and isinstance(target, type) and issubclass(target, overridden)
        ):
            found.extend(overrides)
    return tuple(found)


def ambient_overrides() -> Ambient:
    """Give all overrides that count here and now, for :func:`with_ambient_overrides`."""
    return _active.get()


def with_ambient_overrides(ambient: Ambient, work: Callable[[], T]) -> T:
    """Do something under the overrides that counted at another time, such as when the app started."""
    token = _active.set(ambient)
    try:
        return work()
    finally:
        _active.reset(token)


def clear_overrides() -> None:
    """Take off whatever is overridden here and now; for what a test has left behind."""
    _active.set(())
