"""A server that may do anything: what it says must not outlive it, hold up the application, or pass for an entry."""

from __future__ import annotations

import asyncio

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.entry_id import next_entry_id
from agentlayers.protocol import session as protocol_session
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.entry_codec import encode_entry
from agentlayers.protocol.messages import EncryptedEntry, Hello, Message, Pong
from agentlayers.protocol.payload import encode_payload
from agentlayers.sync import replication
from agentlayers.transport import loop_share
from agentlayers.transport.memory import MemoryConnection, MemoryTransport
from helpers.sync_world import IDENTITY, SmallServer, replica

CHAT, AUDIT = IDENTITY.for_store("chat_history"), IDENTITY.for_store("audit_log")
NOW_MS = 1_790_000_000_000


def sealed(identity: Identity, number: int) -> EncryptedEntry:
    """Seal an entry as another replica would."""
    entry_id = next_entry_id(NOW_MS + number, bytes(16), number)
    plaintext = encode_entry(entry_id, "event", "key", encode_payload({"number": number}))
    return EncryptedEntry(entry_id, *AesGcmEncryption().seal(identity.private_key, plaintext))


async def test_a_sequence_beyond_which_no_cursor_stands_does_not_bar_the_server_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cursor behind it could be stored, and never be sent: not even when the server is mended."""
    monkeypatch.setattr(replication, "STOCK_QUIET_SECONDS", 0.03)
    server = SmallServer(is_stock=True, first_sequence=2**53)
    server.append(CHAT.public_key, sealed(CHAT, 1))
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until(lambda sync: "leaves no number" in str(sync.status.last_error))
        server.journals.clear()
        server.first_sequence = 0
        written = await one.write("still here")
        await one.until_pushed()

        assert written in server.sent_ids


async def test_only_what_was_sealed_for_a_store_under_its_id_is_taken_over() -> None:
    """Whatever else stands around it, under the same id or another, and in whatever order."""
    good = [sealed(CHAT, number) for number in range(3)]
    forged = [
        EncryptedEntry(good[0].entry_id, good[0].iv, bytes(40)),  # in its place, and first
        EncryptedEntry(good[1].entry_id, good[2].iv, good[2].ciphertext),  # relabelled
        sealed(AUDIT, 7),  # of another store
        EncryptedEntry(good[2].entry_id, bytes(12), good[2].ciphertext),  # under another nonce
        EncryptedEntry(sealed(CHAT, 8).entry_id, bytes(12), b""),
    ]
    server = SmallServer()
    server.append(CHAT.public_key, *forged, *good, *forged, *good)
    async with replica(MemoryTransport(server.serve), names=("audit_log", "chat_history")) as one:
        await one.sync.sync_now()

        assert await one.ids() == {entry.entry_id for entry in good}
        assert await one.ids("audit_log") == set()
        kept = {entry.entry_id for entry in one.sync.quarantine("chat_history")}
        assert kept >= {forged[2].entry_id, forged[4].entry_id}


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "frames"])
async def test_a_flood_does_not_keep_the_application_waiting(is_stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message is little work, and there is always one more to read: the loop would see to nothing else."""
    monkeypatch.setattr(loop_share, "SECONDS_MAX", 0.0)
    flood = [encode_message(Pong(number)) for number in range(3_000)]
    handled = most = 0

    def counted(data: bytes) -> Message:
        nonlocal handled
        handled += 1
        return decode_message(data)

    async def serve(connection: MemoryConnection) -> None:
        await connection.send(encode_message(Hello(bytes(16))))
        for data in [b"".join(flood)] if is_stream else flood:
            await connection.send(data)
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(protocol_session, "decode_message", counted)
    async with replica(MemoryTransport(serve, is_stream=is_stream)), asyncio.timeout(10):
        before = handled
        while handled <= len(flood):
            await asyncio.sleep(0)
            most, before = max(most, handled - before), handled

    assert most < 400
