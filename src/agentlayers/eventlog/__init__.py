"""Events, groups of them, identities, and the log of one store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlayers.eventlog.event import Event, EventGroup, EventKind
    from agentlayers.eventlog.event_log import EventLog
    from agentlayers.eventlog.identity import Identity

__all__ = ["Event", "EventGroup", "EventKind", "EventLog", "Identity"]

_MODULES = {
    "Event": "event",
    "EventGroup": "event",
    "EventKind": "event",
    "EventLog": "event_log",
    "Identity": "identity",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
