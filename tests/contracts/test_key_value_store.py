"""Every key-value store passes the contract."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentlayers.errors import StorageUnavailableError
from agentlayers.key_value import (
    FileSystemKeyValueStore,
    MemoryKeyValueStore,
    RedisKeyValueStore,
    SQLiteKeyValueStore,
)
from agentlayers.testing.contracts.key_value_store import KeyValueStoreContract, Make, read_all
from agentlayers.testing.contracts.key_value_store_condition import (
    ConditionalKeyValueStoreContract,
    RacingKeyValueStoreContract,
)
from agentlayers.testing.contracts.key_value_store_medium import (
    DurableKeyValueStoreContract,
    LimitedKeyValueStoreContract,
    LimitedMedium,
)
from agentlayers.testing.contracts.key_value_store_processes import (
    CrashingKeyValueStoreContract,
    SharedKeyValueStoreContract,
    StoreRecipe,
)
from helpers import redis_server, small_disk


class TestMemoryKeyValueStore(KeyValueStoreContract, ConditionalKeyValueStoreContract):
    @pytest.fixture
    def make(self) -> Make:
        return MemoryKeyValueStore


class FileStoreContract(
    KeyValueStoreContract,
    ConditionalKeyValueStoreContract,
    RacingKeyValueStoreContract,
    DurableKeyValueStoreContract,
    SharedKeyValueStoreContract,
    CrashingKeyValueStoreContract,
    LimitedKeyValueStoreContract,
):
    """Everything a store on files has to do."""

    store_class: type[FileSystemKeyValueStore | SQLiteKeyValueStore]

    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return lambda: self.store_class(tmp_path / "store")

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> StoreRecipe:
        return StoreRecipe(f"agentlayers.key_value:{self.store_class.__name__}", {"directory": str(tmp_path / "store")})

    @pytest.fixture
    def limited(self, tmp_path: Path) -> Iterator[LimitedMedium]:
        with small_disk.mounted(tmp_path / "disk", size="2m") as disk:
            yield LimitedMedium(lambda: self.store_class(disk.path / "store"), lambda: disk.change("size=64m"))

    async def test_a_write_too_large_fails_alone(self, limited: LimitedMedium) -> None:
        async with limited.make() as store:
            small = [store.put(b"small %d" % number, b"value") for number in range(10)]
            outcomes = await asyncio.gather(
                *small[:5], store.put(b"large", bytes(range(256)) * 40_000), *small[5:], return_exceptions=True
            )

            assert [type(outcome) for outcome in outcomes].count(type(None)) == 10
            assert isinstance(outcomes[5], StorageUnavailableError)
            assert len(await read_all(store, b"small")) == 10


class TestFileSystemKeyValueStore(FileStoreContract):
    store_class = FileSystemKeyValueStore


class TestSQLiteKeyValueStore(FileStoreContract):
    store_class = SQLiteKeyValueStore


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.running() as server:
        yield server


class TestRedisKeyValueStore(
    KeyValueStoreContract,
    ConditionalKeyValueStoreContract,
    RacingKeyValueStoreContract,
    DurableKeyValueStoreContract,
    SharedKeyValueStoreContract,
    CrashingKeyValueStoreContract,
    LimitedKeyValueStoreContract,
):
    @pytest.fixture
    def recipe(self, server: redis_server.RedisServer) -> StoreRecipe:
        # A namespace for each test, so that one server does for all.
        arguments = {"url": server.url, "namespace": uuid.uuid4().hex}
        return StoreRecipe("agentlayers.key_value:RedisKeyValueStore", arguments)

    @pytest.fixture
    def make(self, recipe: StoreRecipe) -> Make:
        return lambda: RedisKeyValueStore(**recipe.arguments)

    @pytest.fixture
    def limited(self) -> Iterator[LimitedMedium]:
        with redis_server.running("--maxmemory", "4mb") as server:
            yield LimitedMedium(
                lambda: RedisKeyValueStore(server.url), lambda: print(server.command("CONFIG SET maxmemory 0"))
            )
