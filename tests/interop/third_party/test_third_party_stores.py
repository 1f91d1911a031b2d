"""A third party that knows the pages on protocol and events shares our stores: same identity, derived keys."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from agentlayers import ArtifactStore, ChatHistoryStore, EventJournal, Identity, Layer, SyncService
from agentlayers.crypto import Encryption
from agentlayers.server import MemoryServerStorage, SyncServer
from agentlayers.storage import ArtifactRecord
from interop.third_party.client import Client, Followed, connect
from interop.third_party.server import Server
from interop.third_party.wire import Entry, StoreKeys, new_ids

IDS = new_ids()
SECOND = 1_795_396_104_135


class World(NamedTuple):
    """Our replica's stores, and the third party's connection with what it follows."""

    chat: ChatHistoryStore
    artifacts: ArtifactStore
    sync: SyncService
    client: Client
    followed: dict[str, Followed]

    async def write(self, store: str, event: str, primary_key: str, payload: dict[str, Any]) -> bytes:
        """Write an entry as the third party, and wait until ours has it."""
        entry = Entry(next(IDS), event, primary_key, payload)
        await self.client.write(self.followed[store].keys, [entry])
        await self.sync.sync_now()
        return entry.id

    async def read(self, store: str, event: str) -> list[Entry]:
        """Return what the third party has of an event, once ours has sent everything."""
        await self.sync.sync_now()
        await self.client.write(self.followed[store].keys, [])
        return [one for one in self.followed[store].entries.values() if one.event == event]


def replica(url: str, identity: Identity, stores: dict[str, Any]) -> Layer:
    """Our stores, synced with a server."""
    return (
        Layer.merge(ChatHistoryStore.layer_journaled(), ArtifactStore.layer_journaled())
        .provide_merge(SyncService.with_remote_sync(url, stores=stores))
        .provide(Layer.succeed(Identity, identity), EventJournal.layer_memory(), Encryption.layer_aes_gcm())
    )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Both, connected to our server."""
    identity = Identity.generate()
    text = identity.encode_string()
    keys = {store: StoreKeys.derived(text, store) for store in ("chat_history", "artifacts")}
    keys["artifact_content"] = StoreKeys.derived_from(keys["artifacts"].encryption_key, "artifact_content")
    stores = {"chat_history": True, "artifacts": True}
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0) as server,
        replica(server.websocket_url, identity, stores).build() as app,
        connect(f"ws://127.0.0.1:{server.port}") as client,
    ):
        followed = {store: Followed(one) for store, one in keys.items()}
        for one in followed.values():
            await client.follow(one)
        yield World(app.get(ChatHistoryStore), app.get(ArtifactStore), app.get(SyncService), client, followed)


async def test_a_conversation_is_held_by_both(world: World) -> None:
    first = await world.chat.append("s1", {"type": "user", "text": "from ours"})
    payload = {
        "sessionId": "s1",
        "sequence": first.sequence + 1,
        "timestamp": SECOND,
        "source": "external",
        "message": {"type": "user", "text": "from theirs"},
    }
    await world.write("chat_history", "chat_event", f"s1:{first.sequence + 1}", payload)
    (ours,) = [one for one in await world.read("chat_history", "chat_event") if one.id == first.entry_id]

    assert [one.message["text"] for one in await world.chat.list("s1")] == ["from ours", "from theirs"]
    assert (ours.primary_key, ours.payload["message"]) == (
        f"s1:{first.sequence}",
        {"type": "user", "text": "from ours"},
    )


def record(text: str, **more: Any) -> dict[str, Any]:
    """Return the payload of an artifact."""
    fields = {"id": "plan", "sessionId": "s1", "kind": "file", "encoding": "utf8", "content": text, "createdAt": SECOND}
    return {**fields, **more}


async def test_versions_that_have_not_seen_each_other_conflict_and_the_next_one_ends_it(world: World) -> None:
    theirs = await world.write("artifacts", "artifact_record", "s1:plan", record("theirs"))
    await world.artifacts.put(ArtifactRecord(id="plan", session_id="s1", kind="file", content="ours"))
    (ours,) = [one for one in await world.read("artifacts", "artifact_record") if one.id != theirs]

    assert ours.payload["_causal"]["seen"] == {"?": theirs}
    assert await world.artifacts.conflicts() == []

    unseen = {"replica": "third", "seen": {}}
    concurrent = await world.write("artifacts", "artifact_record", "s1:plan", record("unseen", _causal=unseen))
    (conflict,) = await world.artifacts.conflicts()

    assert {head.id for head in conflict.heads} == {ours.id, concurrent}

    seen = {ours.payload["_causal"]["replica"]: ours.id, "third": concurrent, "?": theirs}
    last = {"replica": "third", "seen": seen}
    await world.write("artifacts", "artifact_record", "s1:plan", record("the end", _causal=last))

    found = await world.artifacts.get("plan", "s1")
    assert await world.artifacts.conflicts() == []
    assert found is not None
    assert found.content == "the end"


async def test_large_content_goes_both_ways_in_pieces(world: World) -> None:
    content = b"x" * 1_500_000
    await world.artifacts.put(ArtifactRecord(id="scan", session_id="s1", kind="file", content=content))
    (ours,) = await world.read("artifacts", "artifact_record")
    pieces = {
        one.payload["sha256"]: one.payload["data"] for one in await world.read("artifact_content", "artifact_chunk")
    }

    assert ours.payload["content"] == ""
    assert b"".join(pieces[name] for name in ours.payload["metadata"]["chunks"]["sha256"]) == content

    names = []
    for piece in (b"a" * 400_000, b"b" * 5):
        names.append(hashlib.sha256(piece).hexdigest())
        await world.write(
            "artifact_content", "artifact_chunk", f"sha256:{names[-1]}", {"sha256": names[-1], "data": piece}
        )
    chunks = {"sizeBytes": 400_005, "sha256": names}
    whole = record("", id="theirs", encoding="base64", sizeBytes=400_005, metadata={"chunks": chunks})
    await world.write("artifacts", "artifact_record", "s1:theirs", whole)

    assert b"".join([piece async for piece in world.artifacts.open("theirs")]) == b"a" * 400_000 + b"b" * 5


async def test_our_replica_fetches_content_on_demand_from_a_third_partys_server() -> None:
    identity, content = Identity.generate(), bytes(range(256)) * 40_000
    sparse = {"artifacts": True, "artifact_content": "on_demand"}
    async with Server().run() as server:
        async with replica(server.url, identity, {"artifacts": True}).build() as whole:
            await whole.get(ArtifactStore).put(ArtifactRecord(id="scan", session_id="s1", kind="file", content=content))
            await whole.get(SyncService).sync_now()
        async with replica(server.url, identity, sparse).build() as other:
            await other.get(SyncService).sync_now()
            artifacts = other.get(ArtifactStore)
            before = server.received["FetchEntries"]
            found = b"".join([piece async for piece in artifacts.open("scan")])

        assert (before, found) == (0, content)
        assert server.received["FetchEntries"] > 1
        assert not server.failures
