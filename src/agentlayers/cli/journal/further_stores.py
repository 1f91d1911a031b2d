"""The stores of a replica that the storage room does not know: agent sessions, and those an application declares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentlayers.errors import SettingsError

if TYPE_CHECKING:
    from agentlayers.journal.conflict_policy import ConflictPolicy
    from agentlayers.journal.event_journal import EventJournal, StoreSchema
    from agentlayers.storage.event_store import EventStore
    from agentlayers.storage.replica_store import FurtherStore
    from agentlayers.storage.session_index import SessionIndexStore

__all__ = ["App", "further_stores"]

App = Annotated[
    str | None,
    typer.Option(
        help="The application whose stores to know as well: its container, or one EventStore of it. Its module is "
        "imported; nothing of it is started.",
        metavar="PACKAGE.MODULE:CLASS",
        show_default=False,
    ),
]

_SESSIONS_KEPT_WHOLE = "a transcript without its beginning cannot be resumed; see retention.agent_sessions"


def further_stores(app: str | None = None) -> tuple[FurtherStore, ...]:
    """
    Return the stores to know beside those of the storage room.

    Args:
        app: The application, as ``package.module:Class``.

    Raises:
        SettingsError: There is no such class, it cannot be imported, or it declares no store.
    """
    from agentlayers.runtime.session_store import AgentSessionStore
    from agentlayers.storage.replica_store import FurtherStore

    sessions = FurtherStore(AgentSessionStore.name, _sessions_schema, _SESSIONS_KEPT_WHOLE)
    return sessions, *(() if app is None else map(_declared, _stores_of(app)))


def _sessions_schema(
    journal: EventJournal, index: SessionIndexStore | None, _policy: ConflictPolicy | None
) -> StoreSchema:
    from agentlayers.eventlog.identity import Identity
    from agentlayers.runtime.session_store import AgentSessionStore

    return AgentSessionStore(journal, Identity.generate(), session_index=index).schema


def _declared(kind: type[EventStore]) -> FurtherStore:
    from agentlayers.eventlog.identity import Identity
    from agentlayers.storage.replica_store import FurtherStore

    def schema(journal: EventJournal, _index: object, policy: ConflictPolicy | None) -> StoreSchema:
        # Only asked for its schema: it is never opened, so no reaction runs and nothing is synced.
        return kind(journal, Identity.generate(), conflict_policy=policy).schema

    return FurtherStore(kind.name, schema)


def _stores_of(app: str) -> list[type[EventStore]]:
    from agentlayers.cli.layer_source import import_named

    module, named = import_named(app, setting="--app")
    found = dict.fromkeys(_declared_in(named))
    if not found:
        what = "has no such name" if named is None else "declares no store there"
        expected = f"a container with a slot for an EventStore, or an EventStore (module {module} {what})"
        raise SettingsError(setting="--app", value=app, expected=expected)
    return list(found)


def _declared_in(named: Any) -> Iterator[type[EventStore]]:
    from agentlayers.storage.event_store import EventStore

    providers = getattr(named, "providers", None)
    slots = [getattr(slot, "provides", None) for slot in providers.values()] if isinstance(providers, dict) else []
    for one in (named, *slots):
        if isinstance(one, type) and issubclass(one, EventStore) and hasattr(one, "name"):
            yield one
