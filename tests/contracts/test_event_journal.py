"""Every journal passes the contract."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.key_value import KeyValueJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.key_value import (
    FileSystemKeyValueStore,
    KeyValueStore,
    MemoryKeyValueStore,
    RedisKeyValueStore,
    SQLiteKeyValueStore,
)
from agentlayers.testing.contracts.event_journal import EventJournalContract
from agentlayers.testing.contracts.event_journal_world import ManualClock, Medium
from helpers import redis_server


class TestMemoryJournal(EventJournalContract):
    @pytest.fixture
    def medium(self, clock: ManualClock) -> Medium:
        journals: dict[str, EventJournal] = {}

        def make(name: str = "a") -> EventJournal:
            return journals.setdefault(name, MemoryJournal(clock=clock))

        return make


class TestSQLiteJournal(EventJournalContract):
    @pytest.fixture
    def medium(self, clock: ManualClock, tmp_path: Path) -> Medium:
        def make(name: str = "a") -> EventJournal:
            return SQLiteJournal(tmp_path / name, clock=clock, durability="normal")

        return make


class KeyValueJournalContract(EventJournalContract):
    """Journals of several names in one store."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> KeyValueStore:
        raise NotImplementedError

    @pytest.fixture
    async def medium(self, clock: ManualClock, store: KeyValueStore) -> AsyncIterator[Medium]:
        def make(name: str = "a") -> EventJournal:
            return KeyValueJournal(store, name=name, clock=clock)

        async with store:
            yield make


class TestKeyValueJournalInMemory(KeyValueJournalContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> KeyValueStore:
        return MemoryKeyValueStore()


class TestKeyValueJournalInFiles(KeyValueJournalContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> KeyValueStore:
        return FileSystemKeyValueStore(tmp_path)


class TestKeyValueJournalInSQLite(KeyValueJournalContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> KeyValueStore:
        return SQLiteKeyValueStore(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.running() as server:
        yield server


class TestKeyValueJournalInRedis(KeyValueJournalContract):
    @pytest.fixture
    def store(self, tmp_path: Path, server: redis_server.RedisServer) -> KeyValueStore:
        return RedisKeyValueStore(server.url, namespace=uuid.uuid4().hex)
