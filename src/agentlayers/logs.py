"""
Logs of the package: structured, quiet unless the application listens, without secrets.

Events go through :mod:`structlog` to the standard loggers ``agentlayers.<room>``, so an application that configures
nothing sees warnings only, and one that configures :mod:`logging` gets them like everybody else's. Whoever
renders them, one processor has replaced the value of every field whose name speaks of a secret.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, cast

import structlog

__all__ = ["PROCESSORS", "get_logger", "redact"]

_SECRET_WORDS: Final = ("token", "secret", "password", "private_key", "authorization", "api_key", "signing_seed")
_REDACTED: Final = "[redacted]"


def redact(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """
    Replace the value of every field whose name speaks of a secret, nested mappings included.

    >>> redact(None, "", {"event": "connecting", "token": "abc", "headers": {"Authorization": "Bearer abc"}})
    {'event': 'connecting', 'token': '[redacted]', 'headers': {'Authorization': '[redacted]'}}

    """
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: object) -> object:
    if any(word in str(key).lower() for word in _SECRET_WORDS):
        return _REDACTED
    if isinstance(value, Mapping):
        return {inner: _redacted(inner, item) for inner, item in value.items()}
    return value


PROCESSORS: Final = (
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.format_exc_info,
    redact,
)
"""What every event passes before it is rendered."""


def _render(_logger: object, _name: str, event: MutableMapping[str, Any]) -> tuple[tuple[object], dict[str, Any]]:
    """Give the standard logger a readable message, and the fields themselves to a formatter that wants them."""
    fields = {key: value for key, value in event.items() if key not in {"event", "level", "logger"}}
    text = " ".join([str(event["event"]), *(f"{key}={value!r}" for key, value in fields.items())])
    return (text,), {"extra": {"agentlayers": dict(event)}}


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """
    Return a logger for a module.

    Args:
        name: The module's ``__name__``.
    """
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(name),
            processors=[*PROCESSORS, _render],
            wrapper_class=structlog.stdlib.BoundLogger,
            context_class=dict,
        ),
    )
