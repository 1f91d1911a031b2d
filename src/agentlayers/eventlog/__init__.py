"""Events, groups of them, identities, and the log of one store: writing, following, subscribing, reacting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlayers.eventlog.event import Event, EventGroup, EventKind
    from agentlayers.eventlog.event_log import EventLog
    from agentlayers.eventlog.identity import Identity
    from agentlayers.eventlog.reaction import Reaction, ReactionState, ReactionStatus
    from agentlayers.eventlog.running_reaction import RunningReaction
    from agentlayers.eventlog.subscription import KeyView
    from agentlayers.eventlog.typed_event import TypedEntry, TypedEvent, projection_of

__all__ = [
    "Event",
    "EventGroup",
    "EventKind",
    "EventLog",
    "Identity",
    "KeyView",
    "Reaction",
    "ReactionState",
    "ReactionStatus",
    "RunningReaction",
    "TypedEntry",
    "TypedEvent",
    "projection_of",
]

_MODULES = {
    "Event": "event",
    "EventGroup": "event",
    "EventKind": "event",
    "EventLog": "event_log",
    "Identity": "identity",
    "KeyView": "subscription",
    "Reaction": "reaction",
    "ReactionState": "reaction",
    "ReactionStatus": "reaction",
    "RunningReaction": "running_reaction",
    "TypedEntry": "typed_event",
    "TypedEvent": "typed_event",
    "projection_of": "typed_event",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
