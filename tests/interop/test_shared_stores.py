"""The stores themselves, shared with a stock Effect replica that declares the events of the TypeScript SDK."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal import MemoryJournal
from agentlayers.storage.artifact import ArtifactRecord
from agentlayers.storage.artifacts import ArtifactStore
from agentlayers.storage.chat_history import ChatHistoryStore
from agentlayers.sync.service import SyncService
from interop.stock_peers import StockPeers, our_server, reach

STORES = {"chat_history": True, "artifacts": True}
MESSAGE: dict[str, Any] = {
    "type": "assistant",
    "uuid": "a1",
    "message": {"role": "assistant", "content": [{"type": "text", "text": "Grüße 世界 👋"}], "usage": {"cost": 0.25}},
    "parent_tool_use_id": None,
    "timestamp": 1_795_396_104_135,
}


@contextlib.asynccontextmanager
async def our_stores(
    url: str, identity: Identity
) -> AsyncIterator[tuple[SyncService, ChatHistoryStore, ArtifactStore]]:
    """Open a journal with both stores, synced."""
    async with (
        MemoryJournal() as journal,
        SyncService(reach(url), AesGcmEncryption(), stores=STORES) as sync,
        ChatHistoryStore(journal, identity, sync=sync) as chat,
        ArtifactStore(journal, identity, sync=sync) as artifacts,
    ):
        yield sync, chat, artifacts


@pytest.fixture(params=["ours", "stock"])
async def url(request: pytest.FixtureRequest, stock: StockPeers) -> AsyncIterator[str]:
    """Either server."""
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "ours":
            yield (await stack.enter_async_context(our_server())).websocket_url
        else:
            yield (await stack.enter_async_context(stock.server())).url


async def test_a_conversation_is_continued_by_either_side(stock: StockPeers, url: str) -> None:
    """Each reads the other's messages, with fields that neither of them knows."""
    identity = Identity.generate()
    async with our_stores(url, identity) as (sync, chat, _), stock.client(identity.for_store("chat_history")) as theirs:
        await chat.append("sitzung/1 ✓", MESSAGE)
        await sync.sync_now()
        await theirs.connect(url)
        await theirs.until(handled=1)
        answer = {"type": "user", "message": {"role": "user", "content": "weiter"}, "extra": {"of": ["theirs"]}}
        event = {"sessionId": "sitzung/1 ✓", "sequence": 2, "timestamp": 1_795_396_104_136, "source": "external"}
        await theirs.write({**event, "message": answer}, event="chat_event")
        await theirs.until(pushed=1)
        await sync.sync_now()
        (read,) = [entry.payload for entry in (await theirs.entries()).values() if entry.payload["source"] == "sdk"]
        messages = await chat.list("sitzung/1 ✓")

        assert read["message"] == MESSAGE
        assert read["sessionId"] == "sitzung/1 ✓"
        assert [message.message for message in messages] == [MESSAGE, answer]
        assert (messages[1].timestamp_ms, messages[1].source) == (1_795_396_104_136, "external")


async def read_when_there(
    sync: SyncService, artifacts: ArtifactStore, names: Sequence[str]
) -> dict[str, ArtifactRecord | None]:
    """Sync until all are here: a stock server cannot say that it has sent everything."""
    async with asyncio.timeout(30):
        while True:
            await sync.sync_now()
            read = {name: await artifacts.get(name, "s") for name in names}
            if all(read.values()):
                return read
            await asyncio.sleep(0.1)


async def test_artifacts_with_and_without_their_optional_fields_are_read_by_either_side(
    stock: StockPeers, url: str
) -> None:
    """Absent is absent on both sides, whether left out or explicitly undefined."""
    identity = Identity.generate()
    every = {
        "toolName": "Bash",
        "toolUseId": "t1",
        "hookEvent": "PostToolUse",
        "contentType": "text/plain",
        "sizeBytes": 3,
        "metadata": {"größe": 3, "tief": {"liste": [1, 2]}},
    }
    bare = {"sessionId": "s", "kind": "file", "encoding": "utf8", "content": "abc", "createdAt": 1_795_396_104_135}
    async with our_stores(url, identity) as (sync, _, artifacts):
        async with stock.client(identity.for_store("artifacts")) as theirs:
            await theirs.write({"id": "every", **bare, **every}, event="artifact_record")
            await theirs.write({"id": "bare", **bare}, event="artifact_record")
            undefined = {name: {"$undefined": True} for name in every}
            await theirs.write({"id": "undefined", **bare, **undefined}, event="artifact_record")
            await theirs.connect(url)
            await theirs.until(pushed=3)
            read = await read_when_there(sync, artifacts, ("every", "bare", "undefined"))
            await artifacts.put(ArtifactRecord(id="ours", session_id="s", kind="image", content=b"\x00\xff"))
            await artifacts.put(
                ArtifactRecord(
                    id="ours too",
                    session_id="s",
                    kind="tool_result",
                    content="ja",
                    tool_name="Read",
                    tool_use_id="t2",
                    metadata={"a": [1]},
                )
            )
            await sync.sync_now()
            await theirs.until(handled=5)
            seen = {entry.payload["id"]: entry.payload for entry in (await theirs.entries()).values()}

        assert read["every"] is not None
        assert read["every"].tool_name == "Bash"
        assert read["every"].metadata == every["metadata"]
        for name in ("bare", "undefined"):
            record = read[name]
            assert record is not None
            assert (record.tool_name, record.hook_event, record.content) == (None, None, "abc")
        assert (seen["ours"]["encoding"], seen["ours"]["content"]) == ("base64", "AP8=")
        assert "toolName" not in seen["ours"]
        assert (seen["ours too"]["toolName"], seen["ours too"]["metadata"]) == ("Read", {"a": [1]})
