"""Every server storage passes the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from agentlayers.server.memory_storage import MemoryServerStorage
from agentlayers.server.sqlite_storage import SQLiteServerStorage
from agentlayers.server.storage import ServerStorage
from agentlayers.testing.contracts.server_storage import (
    DurableServerStorageContract,
    ServerStorageContract,
)


class TestMemoryServerStorage(ServerStorageContract):
    @pytest.fixture
    async def storage(self) -> AsyncIterator[ServerStorage]:
        async with MemoryServerStorage() as storage:
            yield storage


class TestSQLiteServerStorage(ServerStorageContract, DurableServerStorageContract):
    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[ServerStorage]:
        async with SQLiteServerStorage(tmp_path / "server") as storage:
            yield storage

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[ServerStorage]]:
        return lambda: SQLiteServerStorage(tmp_path / "server")
