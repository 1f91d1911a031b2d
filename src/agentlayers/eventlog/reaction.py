"""
Declare what an application does after an entry is committed: send a message, call a service, start a query.

A reaction sees every entry of its events in local arrival order, at least once, and its place is kept in the journal.
It holds up no write. This module only declares it; :mod:`agentlayers.eventlog.running_reaction` runs it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from agentlayers.errors import UsageError
from agentlayers.eventlog.event import Event
from agentlayers.eventlog.typed_event import TypedEntry
from agentlayers.schedule import Schedule, exponential

__all__ = ["DEFAULT_RETRY", "Reaction", "ReactionHandler", "ReactionState", "ReactionStatus"]

ReactionHandler = Callable[[TypedEntry[Any]], Awaitable[None]]
"""Handles one entry; raising means that it has to be handled again."""

DEFAULT_RETRY: Final[Schedule] = exponential("1 s").jittered().capped("1 min")
"""Try again for ever, at most a minute apart."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """
    What to do after entries are committed.

    After a crash the entry that was being handled is handled again, so a handler must bear to see one twice; the
    entry's id tells it that it did.

    Attributes:
        name: Under which its place is kept; two reactions of one store have different names.
        handler: Called with one entry at a time. The value is that of the typed event, or else the payload.
        events: What it handles; all entries of the store if empty.
        start: Where a reaction begins whose name the journal does not know yet: with what is written from ``now``
            on, or at the ``beginning``.
        retry: When to try again after a failure.
        when_exhausted: What to do with an entry that cannot be handled: once ``retry`` gives up, or at once if its
            payload is no value of its event. ``stop`` waits there, until it is resumed or started again;
            ``set_aside`` notes the entry in the journal and goes on, and tries it once more at each start.
    """

    name: str
    handler: ReactionHandler
    events: tuple[Event, ...] = ()
    start: Literal["now", "beginning"] = "now"
    retry: Schedule = DEFAULT_RETRY
    when_exhausted: Literal["stop", "set_aside"] = "stop"

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("a reaction needs a name: its place in the journal is kept under it")
        tags = [event.tag for event in self.events]
        if len(set(tags)) != len(tags):
            raise UsageError(f"reaction {self.name!r} names a tag twice: {', '.join(sorted(tags))}")
        if self.start not in {"now", "beginning"}:
            raise UsageError(f"start of reaction {self.name!r} is {self.start!r}; expected 'now' or 'beginning'")
        if self.when_exhausted not in {"stop", "set_aside"}:
            got = self.when_exhausted
            raise UsageError(f"when_exhausted of reaction {self.name!r} is {got!r}; expected 'stop' or 'set_aside'")


class ReactionState(StrEnum):
    """What a reaction is doing."""

    WORKING = "working"
    """There are entries it has yet to handle, or it waits for new ones."""
    RETRYING = "retrying"
    """An entry could not be handled; it is tried again."""
    STOPPED = "stopped"
    """An entry could not be handled, and the reaction waits until it is resumed or started again."""
    CLOSED = "closed"
    """It was left, or its journal closed."""


@dataclass(frozen=True, slots=True)
class ReactionStatus:
    """
    How a reaction is doing.

    Attributes:
        name: The reaction.
        state: What it is doing.
        position: Everything up to this place in local order is handled or set aside.
        handled: Entries handled since it was started.
        attempts: Failures of the present entry in a row; 0 when all is well.
        error: Type and text of the last of them; empty when all is well.
        set_aside: Entries that were set aside, in all.
    """

    name: str
    state: ReactionState
    position: int
    handled: int
    attempts: int
    error: str
    set_aside: int
