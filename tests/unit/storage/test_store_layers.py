"""Stores as layers: private and shared journals, and what they take from the graph."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agentlayers.crypto.encryption import Encryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.compaction import Compaction
from agentlayers.journal.conflict_policy import ConflictPolicy, FirstWriteWins
from agentlayers.journal.event_journal import EventJournal
from agentlayers.journal.memory import MemoryJournal
from agentlayers.layer import Layer
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.audit_log import AuditEventStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.storage.cleanup import StorageCleanup
from agentlayers.storage.session_index import SessionIndexStore
from agentlayers.storage.storage_config import StorageConfig
from agentlayers.sync.service import SyncService

STORES = (ChatHistoryStore, ArtifactStore, AuditEventStore, SessionIndexStore)
IDENTITY = Identity("test", bytes(32))


def shared() -> Layer:
    """A journal in memory, and the identity that all replicas of a test share."""
    return Layer.scoped(EventJournal, MemoryJournal).merge(Identity.layer_of(IDENTITY))


@pytest.mark.parametrize("store", STORES)
async def test_a_store_in_memory_needs_nothing_from_the_graph(store: type[ChatHistoryStore]) -> None:
    async with store.layer_memory().build(store) as opened:
        assert isinstance(opened, store)
        assert isinstance(opened.journal, MemoryJournal)


@pytest.mark.parametrize(
    ("store", "file"),
    [
        (ChatHistoryStore, "chat_history"),
        (ArtifactStore, "artifacts"),
        (AuditEventStore, "audit_log"),
        (SessionIndexStore, "session_index"),
    ],
)
async def test_a_store_on_sqlite_has_a_file_of_its_own_in_the_storage_directory(
    store: type[ChatHistoryStore], file: str, tmp_path: Path
) -> None:
    config = StorageConfig.layer_of(StorageConfig(directory=tmp_path / "data"))
    async with store.layer_sqlite().provide(config).build(store):
        pass
    async with store.layer_filesystem(str(tmp_path / "given")).build(store):
        pass

    assert (tmp_path / "data" / f"{file}.sqlite").is_file()
    assert (tmp_path / "given" / f"{file}.sqlite").is_file()


async def test_what_a_store_on_sqlite_was_given_is_there_again(tmp_path: Path) -> None:
    layer = ChatHistoryStore.layer_sqlite(str(tmp_path))
    async with layer.build(ChatHistoryStore) as chat:
        event = await chat.append("s", {"text": "durable"})
    async with layer.build(ChatHistoryStore) as chat:
        assert await chat.list("s") == [event]


async def test_stores_of_one_graph_share_its_journal_and_index() -> None:
    stores = ChatHistoryStore.layer_journaled().merge(
        ArtifactStore.layer_journaled(), AuditEventStore.layer_journaled()
    )
    layer = stores.provide_merge(SessionIndexStore.layer_journaled()).provide_merge(shared())
    async with layer.build() as app:
        chat, index = app.get(ChatHistoryStore), app.get(SessionIndexStore)
        await chat.append("s", {"text": "x"})

        assert await index.list_ids() == ["s"]
        journal = app.get(EventJournal)
        assert (chat.journal, index.journal) == (journal, journal)
        assert app.get(ArtifactStore).journal is app.get(AuditEventStore).journal is journal


async def test_a_store_takes_policy_compaction_and_settings_from_the_graph() -> None:
    stores = ChatHistoryStore.layer_journaled().merge(ArtifactStore.layer_journaled())
    layer = stores.provide(
        shared(),
        ConflictPolicy.layer_first_write_wins(),
        Compaction.layer_by_count(1),
        StorageConfig.layer_of(StorageConfig.from_mapping({"pagination": {"chat_page_size": 2}})),
    )
    async with layer.build() as app:
        chat = app.get(ChatHistoryStore)
        await chat.append_all("s", [{"n": number} for number in range(3)])
        first_page = await chat.list("s")
        await chat.cleanup()

        assert isinstance(app.get(ArtifactStore).conflict_policy, FirstWriteWins)
        assert [event.message["n"] for event in first_page] == [0, 1]
        assert [event.message["n"] for event in await chat.list("s")] == [2]


async def test_a_private_store_is_not_seen_by_the_graph_s_sync_service() -> None:
    layer = (
        ChatHistoryStore.layer_memory()
        .merge(AuditEventStore.layer_journaled())
        .provide_merge(SyncService.layer_offline(stores={"chat_history": True}))
        .provide_merge(
            shared(),
            Encryption.layer_aes_gcm(),
        )
    )
    async with layer.build() as app:
        assert set(app.get(SyncService).status.stores) == {"audit_log"}


async def test_a_store_that_is_switched_off_is_not_synced() -> None:
    layer = (
        AuditEventStore.layer_journaled()
        .provide_merge(SyncService.layer_offline())
        .provide_merge(
            shared(),
            Encryption.layer_aes_gcm(),
            StorageConfig.layer_of(StorageConfig.from_mapping({"enabled": {"audit_log": False}})),
        )
    )
    async with layer.build() as app:
        assert set(app.get(SyncService).status.stores) == set()


@pytest.mark.parametrize("store", [ChatHistoryStore, ArtifactStore, AuditEventStore])
async def test_a_store_with_a_remote_of_its_own_reaches_another_replica(
    store: type[ChatHistoryStore],
) -> None:
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0) as server:
        layer = store.layer_journaled_with_sync_websocket(server.websocket_url).provide(
            shared(), Encryption.layer_aes_gcm()
        )
        async with layer.build(store) as a, layer.build(store) as b:
            await write(a)
            async with asyncio.timeout(20):
                while (arrived := await read(b)) != await read(a) or not arrived:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        assert len(arrived) == 1


async def write(store: object) -> None:
    if isinstance(store, ChatHistoryStore):
        await store.append("s", {"text": "x"})
    elif isinstance(store, ArtifactStore):
        await store.put(ArtifactRecord(id="a", session_id="s", kind="file", content=b"x"))
    elif isinstance(store, AuditEventStore):
        await store.hook_event(hook="Stop", outcome="success")


async def read(store: object) -> list[object]:
    if isinstance(store, AuditEventStore):
        return [*await store.entries()]
    assert isinstance(store, ChatHistoryStore | ArtifactStore)
    return [*await store.list("s")]


async def test_cleanup_takes_the_stores_the_graph_has() -> None:
    config = StorageConfig.from_mapping({"retention": {"chat": {"max_age": 0}}, "cleanup": {"run_on_start": True}})
    chat = ChatHistoryStore.layer_memory()
    layer = StorageCleanup.layer().provide_merge(chat).provide(StorageConfig.layer_of(config))
    async with layer.build() as app:
        await app.get(ChatHistoryStore).append("s", {"text": "x"})
        report = await app.get(StorageCleanup).run_now()

        assert list(report.stores) == ["chat_history"]
        assert report.dropped == 1


def test_importing_the_room_loads_nothing_heavy() -> None:
    code = (
        "import sys, agentlayers.storage\n"
        "heavy = {'aiohttp', 'cryptography', 'sqlite3', 'dependency_injector', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from agentlayers.storage import ChatHistoryStore, StorageConfig\n"
        "assert set(agentlayers.storage.__all__) <= set(dir(agentlayers.storage))\n"
        "for name in agentlayers.storage.__all__: getattr(agentlayers.storage, name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"
