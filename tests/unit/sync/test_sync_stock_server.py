"""Towards an unmodified Effect server, whose faults are avoided by how ours speaks to it."""

import pytest

from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.protocol.entry_codec import encode_entry
from agentlayers.protocol.messages import EncryptedEntry
from agentlayers.protocol.payload import encode_payload
from agentlayers.sync import replication
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, SmallServer, replica

CHAT = IDENTITY.for_store("chat_history")


@pytest.fixture(autouse=True)
def short_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a backlog as read sooner than with a network in between."""
    monkeypatch.setattr(replication, "STOCK_QUIET_SECONDS", 0.03)


async def test_each_message_holds_one_entry() -> None:
    """A stock server keeps one nonce for a whole message."""
    server = SmallServer(is_stock=True)
    async with (
        replica(MemoryTransport(server.serve)) as one,
        replica(MemoryTransport(server.serve)) as other,
    ):
        await one.write_many(30)
        await one.until_pushed()
        everything = await one.ids()
        await other.until_ids(everything)
        assert one.sync.status.is_stock

    assert {len(entries) for _, entries in server.writes} == {1}
    assert len(server.sent_ids) == 30
    assert not server.failures


async def test_each_store_has_a_connection_of_its_own() -> None:
    """It would hide entries of one key behind another's."""
    server = SmallServer(is_stock=True)
    transport = MemoryTransport(server.serve)
    names = ("audit_log", "chat_history")
    async with (
        replica(transport, names=names) as one,
        replica(MemoryTransport(server.serve), names=names) as other,
    ):
        ids = {name: {await one.write("x", name) for _ in range(5)} for name in names}
        for name in names:
            await other.until_ids(ids[name], name)
        assert transport.connections == 2
        assert one.sync.status.is_connected

    assert not server.failures


async def test_a_server_that_is_no_longer_stock_gets_all_stores_over_one_connection_again() -> None:
    """Which kind it is, each Hello tells anew."""
    server = SmallServer(is_stock=True)
    names = ("audit_log", "chat_history")
    async with replica(MemoryTransport(server.serve), names=names) as one:
        for name in names:
            await one.until_pushed(name)
        assert len(server.peers) == 2
        server.is_stock = False
        await server.drop()
        for name in names:
            await one.write("x", name)
        await one.sync.sync_now()

        assert len(server.peers) == 1
        assert one.sync.status.pending == 0
        assert not one.sync.status.is_stock


async def test_a_lost_ack_is_settled_by_reading_and_never_by_sending_duplicates() -> None:
    """A stock server closes on a batch of duplicates only."""
    server = SmallServer(is_stock=True)
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        server.acks_answered = False
        first = await one.write("first")
        await server.heard.until(lambda: bool(server.writes))
        server.acks_answered = True
        await server.drop()
        second = await one.write("second")
        await one.until(lambda sync: second in server.sent_ids and sync.status.pending == 0)
        report = await one.sync.sync_now()

    assert server.sent_ids == [first, second]
    assert report.sent == {"chat_history": 0}


async def test_the_cursor_moves_by_changes_and_by_an_ack_equal_to_it_only() -> None:
    """Another writer's entry may lie below our own number and not have been sent yet."""
    server = SmallServer(is_stock=True)
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        await one.write("0")
        await one.until_pushed()
        assert one.sync.status.stores["chat_history"].next_sequence == 1
        # Entry 1 of another writer is stored but, as happens there, not sent before our own Ack.
        hidden = EncryptedEntry(b"\x01" * 6 + b"\x70\x00\x80" + bytes(7), bytes(12), b"garbage")
        server.append(CHAT.public_key, hidden)
        await one.write("2")
        await one.until_pushed()
        assert one.sync.status.stores["chat_history"].next_sequence == 1
        await server.drop()
        await one.until(lambda sync: sync.status.stores["chat_history"].next_sequence == 3)

    assert [start for _, start in server.requests] == [0, 1]


async def test_sequences_may_start_at_one_and_have_gaps() -> None:
    """As with its SQL storage: the gap is crossed once the server itself lists what is behind it."""
    server = SmallServer(is_stock=True, first_sequence=1)
    async with (
        replica(MemoryTransport(server.serve)) as one,
        replica(MemoryTransport(server.serve)) as other,
    ):
        first = await one.write("first")
        await other.until_ids({first})
        await other.sync.sync_now()
        assert other.sync.status.stores["chat_history"].next_sequence == 2
        await one.sync.sync_now()
        assert one.sync.status.stores["chat_history"].next_sequence == 2

    assert server.sent_ids == [first]


async def test_an_entry_hidden_behind_our_own_write_is_found_by_sync_now() -> None:
    """A stock server does not send it on this connection any more (fault W5)."""
    server = SmallServer(is_stock=True)
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        server.append(CHAT.public_key, foreign(1))
        own = await one.write("own")
        report = await one.sync.sync_now()

        assert await one.ids() == {own, foreign_id(1)}
        assert report.received == {"chat_history": 1}


async def test_an_entry_hidden_behind_our_own_write_is_found_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later Changes must not carry the cursor past it."""
    monkeypatch.setattr(replication, "STOCK_GAP_SECONDS", 0.05)
    server = SmallServer(is_stock=True)
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        server.append(CHAT.public_key, foreign(1))
        own = await one.write("own")
        await server.heard.until(lambda: bool(server.writes))
        await server.publish(CHAT.public_key, foreign(2))
        await one.until_ids({own, foreign_id(1), foreign_id(2)})


async def test_an_unacknowledged_write_is_read_back_though_later_changes_came() -> None:
    """Else it would be sent again, alone, and a stock server closes on that: for ever."""
    server = SmallServer(is_stock=True)
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        server.acks_answered = False
        own = await one.write("own")
        await server.heard.until(lambda: bool(server.writes))
        await server.publish(CHAT.public_key, foreign(1))
        await one.until_ids({foreign_id(1)})
        server.acks_answered = True
        await server.drop()
        await one.sync.sync_now()

        assert one.sync.status.pending == 0
    assert server.sent_ids == [own]


def foreign_id(number: int) -> bytes:
    """Make the id of another writer's entry."""
    return (1_700_000_000_000 + number).to_bytes(6) + b"\x70\x00\x80" + bytes(7)


def foreign(number: int) -> EncryptedEntry:
    """Seal an entry of another writer."""
    entry_id = foreign_id(number)
    plaintext = encode_entry(entry_id, "event", "key", encode_payload({"text": "x"}))
    return EncryptedEntry(entry_id, *AesGcmEncryption().seal(CHAT.private_key, plaintext))
