"""How services are called: for people, and as names of parts."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["service_label", "snake_case"]


def service_label(service: Any) -> str:
    """Name a service for people."""
    return service if isinstance(service, str) else str(getattr(service, "__name__", service))


def snake_case(name: str) -> str:
    """
    Turn a class name into a slot name.

    >>> snake_case("SQLiteJournal"), snake_case("ChatHistoryStore")
    ('sqlite_journal', 'chat_history_store')
    """
    name = name.replace("SQLite", "Sqlite")
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return re.sub(r"\W+", "_", name).strip("_") or "service"
