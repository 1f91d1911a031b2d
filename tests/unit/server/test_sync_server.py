"""The server over real sockets: what holds for WebSocket and TCP alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from agentlayers.errors import StorageUnavailableError
from agentlayers.limits import OUTBOX_BYTES_MAX, PUBLIC_KEY_BYTES_MAX
from agentlayers.protocol.codec import encode_message
from agentlayers.protocol.messages import Ping, RemoteEncryptedEntry
from agentlayers.protocol.server_session import encode_changes_frames
from agentlayers.server import Authenticator, MemoryServerStorage, SQLiteServerStorage, SyncServer
from agentlayers.server.connection import ENTRY_BYTES_MAX
from agentlayers.server.storage import ServerStorage
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.wire_client import Client, stream_client, websocket_client

Connect = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(params=["websocket", "tcp"])
def connect(request: pytest.FixtureRequest) -> Connect:
    return websocket_client if request.param == "websocket" else stream_client


@pytest.fixture
async def storage() -> AsyncIterator[ServerStorage]:
    async with MemoryServerStorage() as storage:
        yield storage


@pytest.fixture
async def server(storage: ServerStorage) -> AsyncIterator[SyncServer]:
    async with SyncServer(storage, port=0, tcp_port=0, stall_seconds=5) as server:
        yield server
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the server left tasks behind"


async def test_hello_comes_first_and_names_the_tenants_remote(
    server: SyncServer, storage: ServerStorage, connect: Connect
) -> None:
    async with connect(server) as client:
        hello = await client.hello()

    info = await storage.tenant("default")
    assert hello.remote_id == info.remote_id
    assert hello.extensions is not None
    assert hello.extensions.incarnation == info.incarnation
    assert hello.extensions.tenant == "default"
    assert hello.extensions.capabilities == {"entry-nonces", "through", "digests", "credit", "fetch"}


async def test_a_write_is_acknowledged_with_its_sequences(server: SyncServer, connect: Connect) -> None:
    async with connect(server) as client:
        await client.hello()
        first = await client.write(sealed_entries(3))
        second = await client.write(sealed_entries(2, first=3))

    assert first.sequence_numbers == (0, 1, 2)
    assert second.sequence_numbers == (3, 4)
    assert first.through is None


async def test_a_retry_after_a_lost_ack_is_acknowledged_again(server: SyncServer, connect: Connect) -> None:
    """Fault W3: a batch of nothing but duplicates ended the connection."""
    entries = sealed_entries(3)
    async with connect(server) as client:
        await client.hello()
        client.session.write_entries("key", entries)
        await client.flush()
    async with connect(server) as client:
        await client.hello()
        again = await client.write(entries)
        mixed = await client.write([*sealed_entries(1, first=3), entries[1]])

    assert again.sequence_numbers == (0, 1, 2)
    assert mixed.sequence_numbers == (3, 1)


async def test_every_follower_gets_what_one_writes(server: SyncServer, connect: Connect) -> None:
    entries = sealed_entries(5)
    async with connect(server) as one, connect(server) as two, connect(server) as writer:
        for client in (one, two, writer):
            await client.hello()
            await client.follow()
        ack = await writer.write(entries)
        found = [await client.changes(5) for client in (one, two)]

    assert [entry.sequence for entry in found[0]] == [0, 1, 2, 3, 4]
    assert found[0] == found[1]
    assert [entry.ciphertext for entry in found[0]] == [entry.ciphertext for entry in entries]
    assert ack.through == 5
    assert writer.events == []


async def test_a_late_follower_gets_the_backlog_and_then_what_comes(server: SyncServer, connect: Connect) -> None:
    async with connect(server) as writer, connect(server) as reader:
        await writer.hello()
        await reader.hello()
        await writer.write(sealed_entries(1_900))
        await reader.follow(start=500)
        backlog = await reader.changes(1_400)
        await writer.write(sealed_entries(1, first=1_900))
        live = await reader.changes(1)

    assert [entry.sequence for entry in backlog] == list(range(500, 1_900))
    assert [entry.sequence for entry in live] == [1_900]


async def test_two_keys_on_one_connection_are_both_complete(server: SyncServer, connect: Connect) -> None:
    """Fault W4: one position for all keys of a socket hid the second key's first entries."""
    async with connect(server) as writer, connect(server) as reader:
        await writer.hello()
        await reader.hello()
        await reader.follow("one")
        await writer.write(sealed_entries(5), "one")
        await writer.write(sealed_entries(3), "two")
        one = await reader.changes(5, "one")
        await reader.follow("two")
        two = await reader.changes(3, "two")

    assert [entry.sequence for entry in one] == [0, 1, 2, 3, 4]
    assert [entry.sequence for entry in two] == [0, 1, 2]


async def test_tenants_do_not_see_each_other(server: SyncServer, connect: Connect) -> None:
    async with connect(server, tenant="one") as one, connect(server, tenant="two") as two:
        hellos = [await one.hello(), await two.hello()]
        await two.follow()
        await one.write(sealed_entries(1))
        ack = await two.write(sealed_entries(1))

    assert hellos[0].remote_id != hellos[1].remote_id
    assert ack.sequence_numbers == (0,)
    assert two.events == []


async def test_long_messages_are_cut_and_put_together(server: SyncServer, connect: Connect) -> None:
    """Entries over the 512,000 bytes of a frame, both ways."""
    entries = sealed_entries(2, size=700_000)
    async with connect(server) as writer, connect(server) as reader:
        await writer.hello()
        await reader.hello()
        await reader.follow()
        await writer.write(entries)
        found = await reader.changes(2)

    assert [entry.ciphertext for entry in found] == [entry.ciphertext for entry in entries]


async def test_pings_are_answered(server: SyncServer, connect: Connect) -> None:
    async with connect(server) as client:
        await client.hello()
        await client.pong()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xc1",
        b"\x00",
        encode_message(Ping(1)).replace(b"Ping", b"Pung"),
        b"\x81\xa4_tag\xa3Ack",
    ],
    ids=["invalid", "no-map", "unknown-tag", "a-servers-message"],
)
async def test_garbage_ends_its_own_connection_only(server: SyncServer, connect: Connect, garbage: bytes) -> None:
    """A stock server process ends, and every connection with it."""
    async with connect(server) as good, connect(server) as bad:
        await good.hello()
        await bad.hello()
        await bad.socket.send(garbage)
        closed = await bad.closed()
        ack = await good.write(sealed_entries(1))

    assert closed.code in (1002, 1009, None)
    assert "_tag" not in closed.reason
    assert ack.sequence_numbers == (0,)


async def test_a_reader_that_pauses_is_bounded_and_still_gets_everything(server: SyncServer, connect: Connect) -> None:
    """A slow subscriber costs bounded memory, and is neither dropped nor robbed."""
    count, size = 24, 1_000_000
    async with connect(server) as writer, connect(server) as slow:
        await writer.hello()
        await slow.hello()
        await slow.follow()
        highest = 0
        for number in range(count):
            await writer.write(sealed_entries(1, first=number, size=size))
            highest = max(highest, *(found._outbox.size for found in server._connections))
        found = await slow.changes(count)

    assert [entry.sequence for entry in found] == list(range(count))
    assert highest <= OUTBOX_BYTES_MAX
    assert highest > 0, "the reader was not slow enough to show anything"


async def test_a_reader_that_never_reads_is_closed(storage: ServerStorage, connect: Connect) -> None:
    async with (
        SyncServer(storage, port=0, tcp_port=0, stall_seconds=0.3) as server,
        connect(server) as writer,
        connect(server) as dead,
    ):
        await writer.hello()
        await dead.hello()
        await dead.follow()
        for number in range(16):
            await writer.write(sealed_entries(1, first=number, size=1_000_000))
        async with asyncio.timeout(5):
            while server.connection_count > 1:  # noqa: ASYNC110 - nothing tells when it is closed but the count
                await asyncio.sleep(0.05)
        await writer.pong()


async def test_many_writes_in_flight_are_acknowledged_in_order(server: SyncServer, connect: Connect) -> None:
    async with connect(server) as client:
        await client.hello()
        keys = [f"key {number % 5}" for number in range(300)]  # the window of each lets 64 be under way
        for number, key in enumerate(keys):
            client.session.write_entries(key, sealed_entries(1, first=number))
        await client.flush()
        acks = [await client.next() for _ in keys]

    for first in range(5):
        found = [ack for ack in acks if ack.public_key == f"key {first}"]
        assert [ack.message_id for ack in found] == list(range(first, 300, 5))
        assert [ack.sequence_numbers for ack in found] == [(number,) for number in range(60)]


async def test_stopping_acknowledges_what_was_received_and_says_goodbye(
    storage: ServerStorage, connect: Connect
) -> None:
    server = SyncServer(storage, port=0, tcp_port=0)
    async with server:
        client_context = connect(server)
        client = await client_context.__aenter__()
        await client.hello()
        await client.write(sealed_entries(1))
        idle = asyncio.create_task(client.closed())
        await asyncio.sleep(0)
    closed = await idle
    await client_context.__aexit__(None, None, None)

    assert closed.code in (1001, None)
    assert server.connection_count == 0


async def test_a_restart_keeps_remote_id_and_sequences(tmp_path: Path, connect: Connect) -> None:
    """A stock client uploads everything again to a new remote id."""
    hellos, acks = [], []
    for number in range(2):
        async with (
            SQLiteServerStorage(tmp_path) as storage,
            SyncServer(storage, port=0, tcp_port=0) as server,
            connect(server) as client,
        ):
            hellos.append(await client.hello())
            acks.append(await client.write(sealed_entries(2, first=number)))

    assert hellos[0].remote_id == hellos[1].remote_id
    assert [ack.sequence_numbers for ack in acks] == [(0, 1), (1, 2)]


async def test_no_secret_is_logged(storage: ServerStorage, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """Neither tokens, right or wrong, nor keys nor ciphertext."""
    auth = Authenticator.single_token("right-token")
    caplog.set_level(logging.DEBUG)
    async with SyncServer(storage, auth=auth, port=0, tcp_port=0) as server:
        async with connect(server, token="right-token") as client:
            await client.hello()
            await client.follow("secret-key")
            await client.write(sealed_entries(1), "secret-key")
            await client.socket.send(b"\xc1secret-key")
            await client.closed()
        await refused(connect, server)

    text = repr([vars(record) for record in caplog.records])
    assert "authentication_failed" in text
    assert not any(secret in text for secret in ("right-token", "wrong-token", "secret-key"))


async def refused(connect: Connect, server: SyncServer) -> None:
    with pytest.raises(Exception) as caught:
        async with connect(server, token="wrong-token") as client:
            await client.hello()
    assert "wrong-token" not in str(caught.value)


async def test_two_writers_and_readers_see_one_order(server: SyncServer, connect: Connect) -> None:
    """Everybody follows and writes at once; each has every sequence once, sent or acknowledged."""
    each = 40

    async def play(client: Client, number: int) -> set[int]:
        await client.hello()
        await client.follow()
        own: list[int] = []
        seen: list[int] = []
        for index in range(each):
            first = number * each + index
            client.session.write_entries("key", sealed_entries(1, first=first))
            await client.flush()
        while len(own) + len(seen) < 3 * each:
            event: Any = await client.next()
            if hasattr(event, "sequence_numbers"):
                assert event.sequence_numbers[0] == len(own) + len(seen)
                own += event.sequence_numbers
            else:
                assert event.entries[0].sequence == len(own) + len(seen)
                seen += [entry.sequence for entry in event.entries]
        assert len(own) == each
        return {*own, *seen}

    async with connect(server) as one, connect(server) as two, connect(server) as three:
        results = await asyncio.gather(play(one, 0), play(two, 1), play(three, 2))

    assert list(results) == [set(range(3 * each))] * 3


async def test_an_entry_that_no_changes_could_carry_is_refused(
    server: SyncServer, storage: ServerStorage, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stop its key for every subscriber, for ever."""
    monkeypatch.setattr("agentlayers.server.connection.ENTRY_BYTES_MAX", 1_000)
    async with connect(server) as client:
        await client.hello()
        client.session.write_entries("key", sealed_entries(1, size=1_001))
        await client.flush()
        closed = await client.closed()
    async with connect(server) as client:
        await client.hello()
        await client.write(sealed_entries(1, size=1_000))

    assert closed.code in (1009, None)


def test_the_largest_entry_that_is_taken_can_be_handed_out() -> None:
    entry = RemoteEncryptedEntry(2**40, bytes(12), bytes(16), bytes(ENTRY_BYTES_MAX))

    frames = encode_changes_frames("k" * PUBLIC_KEY_BYTES_MAX, [entry], 2**40 + 1, lambda: 2**32)

    assert len(frames) > 1


async def test_a_storage_that_fails_ends_the_writers_connection_without_an_ack(
    server: SyncServer, storage: ServerStorage, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StorageUnavailableError(backend="test", operation="append", reason="the disk is full")

    async with connect(server) as reader, connect(server) as writer:
        await reader.hello()
        await writer.hello()
        await reader.follow()
        with monkeypatch.context() as patched:
            patched.setattr(storage, "append", fail)
            writer.session.write_entries("key", sealed_entries(1))
            await writer.flush()
            closed = await writer.closed()
        await reader.pong()

    assert closed.code in (1011, None)
    assert "disk" not in closed.reason
    assert writer.events == []


async def test_stopping_does_not_wait_for_ever_for_a_peer_that_never_reads(
    storage: ServerStorage, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlayers.server.app.STOP_SECONDS_MAX", 0.2)
    monkeypatch.setattr("agentlayers.server.peer_socket.CLOSE_SECONDS_MAX", 0.2)
    await storage.append("default", "key", sealed_entries(16, size=1_000_000))
    async with AsyncExitStack() as clients:
        async with SyncServer(storage, port=0, tcp_port=0) as server:
            dead = await clients.enter_async_context(connect(server))
            await dead.hello()
            await dead.follow()
            await asyncio.sleep(0.1)
            started = asyncio.get_running_loop().time()
        took = asyncio.get_running_loop().time() - started

        assert took < 10
        assert server.connection_count == 0


async def test_a_peer_that_is_being_let_in_while_the_server_stops_is_not_kept(
    storage: ServerStorage, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is not yet among those that stopping closes."""
    asked, answer = asyncio.Event(), asyncio.Event()
    real = storage.tenant

    async def slow(tenant: str) -> Any:
        asked.set()
        await answer.wait()
        return await real(tenant)

    async def connect_anyway(server: SyncServer) -> None:
        async with connect(server) as client:
            await client.closed()

    monkeypatch.setattr(storage, "tenant", slow)
    async with asyncio.timeout(5):
        async with SyncServer(storage, port=0, tcp_port=0) as server:
            client = asyncio.create_task(connect_anyway(server))
            await asked.wait()
            asyncio.get_running_loop().call_later(0.1, answer.set)
        await asyncio.gather(client, return_exceptions=True)

    assert server.connection_count == 0
