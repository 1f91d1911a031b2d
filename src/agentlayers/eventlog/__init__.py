"""Events, groups of them, identities, and the log of one store: writing, following, subscribing, reacting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentlayers.lazy_exports import lazy_exports

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

_HOMES = {
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

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(__name__, _HOMES)
