"""Layers of a store's private parts: a journal of its own, or a remote of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import EventJournal
from agentlayers.key_value.key_value_store import KeyValueStore
from agentlayers.layer import Layer
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.sync.service import SyncService

__all__ = [
    "key_value_journal_layer",
    "memory_journal_layer",
    "own_journal_path",
    "own_key_value_journal",
    "private_sync_layer",
    "sqlite_journal_layer",
    "unsynced_store_layer",
]


def memory_journal_layer() -> Layer:
    """Offer a journal that is gone when it is closed."""
    from agentlayers.journal.memory import MemoryJournal

    return Layer.scoped(EventJournal, MemoryJournal)


def key_value_journal_layer(store: str) -> Layer:
    """Offer a journal in the graph's key-value store, under a prefix of one store's own."""
    return Layer.scoped(EventJournal, own_key_value_journal, store=store)


def own_key_value_journal(key_value_store: KeyValueStore, *, store: str) -> EventJournal:
    """Make the journal of a store that shares none: ``stores/<store>`` in a key-value store."""
    from agentlayers.journal.key_value import KeyValueJournal

    return KeyValueJournal(key_value_store, name=f"stores/{store}")


def sqlite_journal_layer(store: str, directory: str | Path | None = None) -> Layer:
    """Offer a journal in ``<store>.sqlite``, in ``directory`` or the storage directory."""
    return Layer.scoped(EventJournal, own_sqlite_journal, store=store, directory=directory)


def own_journal_path(store: str, directory: str | Path | None, storage_config: StorageConfig | None) -> Path:
    """Return where a store that shares no journal keeps its own."""
    base = (storage_config or StorageConfig()).directory if directory is None else Path(directory)
    return base / f"{store}.sqlite"


def own_sqlite_journal(
    *, store: str, directory: str | Path | None = None, storage_config: StorageConfig | None = None
) -> EventJournal:
    """Make the journal of a store that shares none: ``<store>.sqlite``."""
    from agentlayers.journal.sqlite import SQLiteJournal

    return SQLiteJournal(own_journal_path(store, directory, storage_config))


def unsynced_store_layer(store: type[Any], journal: Layer) -> Layer:
    """Offer a store on a journal of its own that no sync service ever sees."""
    # The entries never leave the replica, so their keys need not be kept.
    return Layer.scoped(
        store,
        store,
        journal=journal,
        identity=Layer.factory(Identity, Identity.generate),
        sync=None,
    )


def private_sync_layer(
    store: str, url: str, *, token: str | None, tenant: str | None, tls: Mapping[str, str | None]
) -> Layer:
    """Offer a sync service with a remote of its own that syncs one store."""
    return SyncService.layer_websocket(url, token, tenant, stores={store: True}, **tls)
