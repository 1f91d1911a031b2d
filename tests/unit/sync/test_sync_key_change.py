"""What could not be opened is kept aside, and taken over once it can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption, Encryption, PlaintextEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import QuarantinedEntry
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.protocol.messages import EncryptedEntry
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, Replica, SmallServer, replica

STORE = "chat_history"
KEYS = IDENTITY.for_store(STORE)
WITH_WRONG_KEY = Identity(IDENTITY.public_key, IDENTITY.private_key, {STORE: Identity(KEYS.public_key, bytes(32))})


async def kept_aside(one: Replica) -> list[QuarantinedEntry]:
    return await one.journal.read(lambda tx: tx.quarantined(STORE))


@pytest.mark.parametrize("is_stock", [False, True], ids=["ours", "stock"])
@pytest.mark.parametrize(
    ("wrong", "encryption"),
    [(WITH_WRONG_KEY, AesGcmEncryption()), (IDENTITY, PlaintextEncryption())],
    ids=["another key", "another encryption"],
)
async def test_what_could_not_be_opened_is_taken_over_once_it_can_be(
    wrong: Identity, encryption: Encryption, is_stock: bool, tmp_path: Path
) -> None:
    """No server sends it again; what still cannot be opened stays where it is, and nothing is sent back."""
    server = SmallServer(is_stock=is_stock)
    transport = MemoryTransport(server.serve)
    async with replica(transport) as writer:
        written = {await writer.write(f"message {n}") for n in range(50)}
        await writer.sync.sync_now()
    iv, ciphertext = AesGcmEncryption().seal(b"k" * 32, b"nobody here has this key")
    server.append(KEYS.public_key, EncryptedEntry(b"g" * 16, iv, ciphertext))
    async with replica(transport, journal=SQLiteJournal(tmp_path), identity=wrong, encryption=encryption) as one:
        await one.sync.sync_now()

        assert await one.ids() == set()
        assert {kept.id for kept in await kept_aside(one)} == {*written, b"g" * 16}
    requested = len(server.requests)
    for _ in range(2):
        async with replica(transport, journal=SQLiteJournal(tmp_path)) as one:
            await one.sync.sync_now()

            assert await one.ids() == written
            assert [kept.id for kept in await kept_aside(one)] == [b"g" * 16]
            assert one.sync.status.pending == 0
    assert {start for _, start in server.requests[requested:]} == {51}
    assert len(server.sent_ids) == 50
