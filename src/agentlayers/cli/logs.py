"""Logs of the command line: what the package's loggers say, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import structlog

__all__ = ["LogFormat", "configure_logs"]

LogFormat = Literal["text", "json"]


def configure_logs(*, verbosity: int = 0, log_format: LogFormat = "text") -> None:
    """
    Send logs to standard error.

    Args:
        verbosity: 0 shows warnings, 1 (``-v``) what happens, 2 (``-vv``) everything.
        log_format: ``text`` for people, ``json`` for machines: one object per line.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("agentlayers").setLevel(level)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    event = getattr(record, "agentlayers", None) or {"event": record.getMessage()}
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return {"timestamp": moment, "level": record.levelname.lower(), "logger": record.name, **event}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record), default=repr)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__()
        self._renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())

    def format(self, record: logging.LogRecord) -> str:
        return str(self._renderer(None, record.levelname.lower(), _fields(record)))
