"""Key-value stores in a graph: their layers, and a user that refuses a medium too weak for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from agentlayers.errors import LayerError, UsageError
from agentlayers.key_value import (
    FileSystemKeyValueStore,
    KeyValueCapabilities,
    KeyValueStore,
    MemoryKeyValueStore,
    RedisKeyValueStore,
    SQLiteKeyValueStore,
)
from agentlayers.layer import Layer
from helpers import redis_server


async def works(layer: Layer, kind: type[KeyValueStore]) -> None:
    async with layer.build(KeyValueStore) as store:
        await store.put(b"key", b"value")

        assert type(store) is kind
        assert await store.get(b"key") == b"value"


async def test_a_store_in_memory_is_a_layer() -> None:
    await works(KeyValueStore.layer_memory(), MemoryKeyValueStore)


async def test_a_store_in_files_is_a_layer(tmp_path: Path) -> None:
    await works(KeyValueStore.layer_filesystem(tmp_path / "store"), FileSystemKeyValueStore)


async def test_a_store_in_sqlite_is_a_layer(tmp_path: Path) -> None:
    await works(KeyValueStore.layer_sqlite(str(tmp_path / "store")), SQLiteKeyValueStore)


async def test_a_store_in_redis_is_a_layer() -> None:
    with redis_server.running() as server:
        await works(KeyValueStore.layer_redis(server.url, namespace="layer"), RedisKeyValueStore)


WEAK = KeyValueCapabilities(
    ordered_scans=True, atomic_batches=False, conditional_batches=False, durable=False, shared_between_processes=True
)


class WeakStore(MemoryKeyValueStore):
    """A medium whose batches are not atomic; says when it is opened."""

    capabilities = WEAK
    was_opened = False

    async def __aenter__(self) -> Self:
        WeakStore.was_opened = True
        return await super().__aenter__()


class Ledger:
    """Something that needs whole batches in order."""

    def __init__(self, store: KeyValueStore) -> None:
        store.capabilities.require("ordered_scans", "atomic_batches", medium=repr(store), user="the ledger")


async def test_a_medium_that_can_do_what_is_needed_is_taken() -> None:
    async with Layer.factory(Ledger).provide(KeyValueStore.layer_memory()).build(Ledger) as ledger:
        assert isinstance(ledger, Ledger)


async def test_a_medium_that_cannot_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(LayerError, match=r"the ledger cannot be kept in .* no atomic batches"):
        async with Layer.factory(Ledger).provide(Layer.scoped(KeyValueStore, WeakStore)).build(Ledger):
            pass


def test_capabilities_of_a_class_are_known_without_a_store() -> None:
    with pytest.raises(LayerError, match="a weak store, which has no durable writes and no atomic batches"):
        WeakStore.capabilities.require("durable", "atomic_batches", medium="a weak store", user="a journal")


def test_a_misspelt_capability_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="atomic_batches"):
        WEAK.missing("atomic_batch")


@pytest.mark.parametrize("kind", [SQLiteKeyValueStore, FileSystemKeyValueStore])
def test_making_a_store_touches_no_file(kind: type[SQLiteKeyValueStore], tmp_path: Path) -> None:
    store = kind(tmp_path / "store")

    assert repr(store) == f"{kind.__name__}({str(tmp_path / 'store')!r})"
    assert list(tmp_path.iterdir()) == []


def test_the_port_loads_no_driver() -> None:
    code = "import sys, agentlayers.key_value as kv; kv.KeyValueStore; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert {"sqlite3", "redis", "sortedcontainers"} & set(loaded) == set()
