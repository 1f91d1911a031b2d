"""Mark the methods of a declared store that project, retract or react; see :class:`~agentlayers.storage.EventStore`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

from agentlayers.errors import UsageError
from agentlayers.eventlog.event import Event
from agentlayers.eventlog.reaction import DEFAULT_RETRY
from agentlayers.schedule import Schedule

__all__ = ["DeclaredReaction", "marked_methods", "projects", "reacts", "retracts"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__agentlayers_marks__"


@dataclass(frozen=True, slots=True)
class DeclaredReaction:
    """What :func:`reacts` was told; see :class:`~agentlayers.eventlog.reaction.Reaction`."""

    events: tuple[Event, ...]
    name: str
    start: Literal["now", "beginning"]
    retry: Schedule
    when_exhausted: Literal["stop", "set_aside"]


class MarkedMethod(NamedTuple):
    """One method and one thing it was marked with."""

    method: str
    kind: str
    declared: Any


def projects(*events: Event) -> Callable[[F], F]:
    """
    Let a method ``(self, tx, entry)`` keep a read model up to date with entries of these events.

    It runs inside the transaction of the entry, for local and received ones: it is synchronous, does no I/O but
    through ``tx``, and its result must not depend on the order in which entries arrive. Rows go under
    ``self.row_key(...)``. If it raises, the entry stays *unapplied* and is tried again at the next start.
    """
    return _marker("project", _some(events, "projects"))


def retracts(*events: Event) -> Callable[[F], F]:
    """
    Let a method ``(self, tx, entry)`` take an entry that retention drops out of a read model again.

    Of a keyed event it is called with each head of the key that goes.
    """
    return _marker("retract", _some(events, "retracts"))


def reacts(
    *events: Event,
    name: str = "",
    start: Literal["now", "beginning"] = "now",
    retry: Schedule = DEFAULT_RETRY,
    when_exhausted: Literal["stop", "set_aside"] = "stop",
) -> Callable[[F], F]:
    """
    Let an async method ``(self, entry)`` handle entries of these events after they are committed, at least once.

    Args:
        events: What it handles; every entry of the store if none is given.
        name: Under which its place is kept; the method's name if not given.
        start: See :class:`~agentlayers.eventlog.reaction.Reaction`, as the rest.
        retry: When to try again after a failure.
        when_exhausted: What to do with an entry that cannot be handled.
    """
    return _marker("react", DeclaredReaction(events, name, start, retry, when_exhausted))


def _some(events: tuple[Event, ...], decorator: str) -> tuple[Event, ...]:
    if not events or not all(isinstance(event, Event) for event in events):
        raise UsageError(f"@{decorator} needs the events it is for: @{decorator}(task_saved)")
    return events


def _marker(kind: str, declared: Any) -> Callable[[F], F]:
    def mark(method: F) -> F:
        marks = [*getattr(method, _MARK, ()), (kind, declared)]
        setattr(method, _MARK, marks)
        return method

    return mark


def marked_methods(declaring: type[Any]) -> list[MarkedMethod]:
    """List the marked methods of a class, those of its bases first; an overridden one counts with its own marks."""
    names = dict.fromkeys(name for base in reversed(declaring.__mro__) for name in vars(base))
    return [
        MarkedMethod(name, kind, declared)
        for name in names
        for kind, declared in getattr(getattr(declaring, name, None), _MARK, ())
    ]
