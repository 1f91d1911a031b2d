"""Logs of the command line: structlog to standard error, behind one redaction processor."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import structlog

__all__ = ["LogFormat", "configure_logs", "redact"]

LogFormat = Literal["text", "json"]

_SECRET_WORDS: Final = ("token", "secret", "password", "private_key", "authorization", "root_key", "api_key")
_REDACTED: Final = "[redacted]"


def redact(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the value of every field whose name speaks of a secret, nested mappings included."""
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: object) -> object:
    if any(word in str(key).lower() for word in _SECRET_WORDS):
        return _REDACTED
    if isinstance(value, Mapping):
        return {inner: _redacted(inner, item) for inner, item in value.items()}
    return value


def configure_logs(*, verbosity: int = 0, log_format: LogFormat = "text") -> None:
    """
    Send logs to standard error.

    Args:
        verbosity: 0 shows warnings, 1 (``-v``) what happens, 2 (``-vv``) everything.
        log_format: ``text`` for people, ``json`` for machines: one object per line.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
