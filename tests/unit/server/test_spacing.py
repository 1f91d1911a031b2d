"""To a stock peer over TCP each message goes alone, whole and late enough; to one of ours nothing changes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from agentlayers.errors import ErrorCode
from agentlayers.protocol.codec import decode_message, encode_message
from agentlayers.protocol.messages import (
    Ack,
    Authenticate,
    Changes,
    Credit,
    EncryptedEntry,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    RemoteEncryptedEntry,
    RequestChanges,
    WriteEntries,
)
from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer, spacing
from agentlayers.server.spacing import MessageSpacer
from agentlayers.testing.contracts.server_storage import sealed_entries
from helpers.peer_sight import needs_peer_sight

SEGMENT = 2000


class NoSocket:
    """A transport that has written everything and says nothing of its socket."""

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture
def spacer(monkeypatch: pytest.MonkeyPatch) -> MessageSpacer:
    monkeypatch.setattr(spacing, "_SEGMENT_BYTES", SEGMENT)
    return MessageSpacer(cast("asyncio.Transport", NoSocket()))


def changes(key: str, first: int, count: int, size: int = 40) -> bytes:
    entries = [
        RemoteEncryptedEntry(first + number, entry.iv, entry.entry_id, entry.ciphertext)
        for number, entry in enumerate(sealed_entries(count, first=first, size=size))
    ]
    return encode_message(Changes(key, entries, first + count))


def written(spacer: MessageSpacer, *messages: bytes) -> list[Message]:
    queue, found = deque(messages), []
    size = sum(map(len, messages))
    while queue:
        data, taken = spacer.next_message(queue)
        size -= taken
        assert size == sum(map(len, queue))
        found.append(decode_message(data))
    return found


# -- what is made of the messages --------------------------------------------------------------------------------------


def test_changes_that_wait_are_put_together_and_fit_into_a_segment(spacer: MessageSpacer) -> None:
    found = written(spacer, *(changes("a", number, 1) for number in range(50)))

    assert all(type(message) is Changes and len(encode_message(message)) <= SEGMENT for message in found)
    assert [entry.sequence for message in cast("list[Changes]", found) for entry in message.entries] == list(range(50))
    assert len(found) < 10
    assert all(message.through is None for message in cast("list[Changes]", found))


def test_changes_longer_than_a_segment_are_cut_between_entries(spacer: MessageSpacer) -> None:
    found = cast("list[Changes]", written(spacer, changes("a", 0, 60), changes("b", 0, 1)))

    assert max(len(encode_message(message)) for message in found) <= SEGMENT
    assert [entry.sequence for message in found[:-1] for entry in message.entries] == list(range(60))
    assert found[-1].public_key == "b"


def test_an_entry_longer_than_a_segment_goes_alone(spacer: MessageSpacer) -> None:
    found = cast("list[Changes]", written(spacer, changes("a", 0, 3, size=5000)))

    assert [len(message.entries) for message in found] == [1, 1, 1]


def test_order_is_kept_around_other_messages(spacer: MessageSpacer) -> None:
    """An Ack says that all before it was sent."""
    ack, pong = encode_message(Ack(1, (5,))), encode_message(Pong(1))
    found = written(spacer, changes("a", 0, 2), changes("b", 0, 1), ack, changes("a", 2, 1), pong, changes("a", 3, 1))

    kinds = [type(message).__name__ for message in found]
    assert kinds == ["Changes", "Changes", "Ack", "Changes", "Pong", "Changes"]


async def test_after_the_first_ack_it_is_given_time_for_all_before(
    spacer: MessageSpacer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock SQL journal stores nothing while it waits for an Ack, and then reads nothing while it stores."""
    monkeypatch.setattr(spacing, "GAP_SECONDS", 0.0)
    monkeypatch.setattr(spacing, "GAP_SECONDS_PER_ENTRY", 0.02)
    loop, seconds = asyncio.get_running_loop(), []
    for message in (changes("a", 0, 5), changes("a", 5, 5), *[encode_message(Ack(number, ())) for number in range(2)]):
        queue = deque([message])
        spacer.next_message(queue)
        assert not queue
        began = loop.time()
        await spacer.until_read()
        seconds.append(loop.time() - began)

    assert seconds[2] >= 0.2
    assert seconds[3] < seconds[2]


async def test_a_journal_in_sql_is_given_longer_the_more_it_holds(
    spacer: MessageSpacer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks through all of it for each entry, and reads nothing meanwhile."""
    monkeypatch.setattr(spacing, "GAP_SECONDS", 0.0)
    loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
    monkeypatch.setattr(spacing, "ENTRIES_GAP_SECONDS_MAX", 1000.0)
    async with asyncio.timeout(60):  # one in memory does not: it would be 420 s
        spacer.next_message(deque([changes("a", 1_000_000_000, 3)]))
        await spacer.until_read()
    spacer.has_sql_journal = True
    spacer.next_message(deque([changes("a", 1_000_000, 3)]))
    began = loop.time()
    await spacer.until_read()

    assert loop.time() - began >= 0.4


async def test_no_gap_is_so_long_that_a_pong_behind_it_comes_too_late(
    spacer: MessageSpacer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert spacing.GAP_SECONDS + spacing.ENTRIES_GAP_SECONDS_MAX < 10
    monkeypatch.setattr(spacing, "ENTRIES_GAP_SECONDS_MAX", 0.01)
    spacer.has_sql_journal = True
    spacer.next_message(deque([changes("a", 1_000_000_000, 3)]))
    async with asyncio.timeout(60):  # of 420
        await spacer.until_read()


async def test_what_an_ack_lists_takes_a_journal_in_sql_its_time(
    spacer: MessageSpacer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spacing, "GAP_SECONDS", 0.0)
    spacer.has_sql_journal = True
    spacer.next_message(deque([encode_message(Ack(1, range(1_000_000, 1_000_003)))]))
    began = asyncio.get_running_loop().time()
    await spacer.until_read()

    assert asyncio.get_running_loop().time() - began >= 0.4


def test_what_a_stock_client_cannot_wait_for_overtakes_the_rest(spacer: MessageSpacer) -> None:
    """Without its Pong it goes offline for good; before its first Ack a journal in SQL stores nothing."""
    pong, empty, ack = encode_message(Pong(2**53)), encode_message(Ack(2**53, (), 2**53)), encode_message(Ack(1, (5,)))
    messages = (pong, empty, ack, changes("a", 0, 1), encode_message(Hello(bytes(16))))

    assert [spacer.goes_first(message) for message in messages] == [True, False, False, False, False]
    spacer.has_sql_journal = True
    assert [spacer.goes_first(message) for message in messages] == [True, True, False, False, False]


# -- over a socket -----------------------------------------------------------------------------------------------------


class Reads:
    """A TCP peer that, as a stock one, takes each read for a message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *messages: Message) -> None:
        self.writer.write(b"".join(encode_message(message, entry_nonces=True) for message in messages))

    async def next(self) -> Message:
        async with asyncio.timeout(10):
            return decode_message(await self.reader.read(65_536))


@contextlib.asynccontextmanager
async def peer(server: SyncServer) -> AsyncIterator[Reads]:
    assert server.tcp_url is not None
    address = urlsplit(server.tcp_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield Reads(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class OwnReads(Reads):
    """As above, but nothing reads the socket except :meth:`next`."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def send(self, *messages: Message) -> None:
        self.socket.send(b"".join(encode_message(message) for message in messages))

    async def next(self) -> Message:
        async with asyncio.timeout(10):
            return decode_message(await asyncio.get_running_loop().sock_recv(self.socket, 65_536))

    async def changes(self, count: int) -> list[int]:
        """Read so many entries, and return their sequences."""
        found: list[int] = []
        while len(found) < count:
            message = await self.next()
            assert isinstance(message, Changes)
            found += [entry.sequence for entry in message.entries]
        return found


@contextlib.asynccontextmanager
async def own_reads(server: SyncServer) -> AsyncIterator[OwnReads]:
    assert server.tcp_url is not None
    address = urlsplit(server.tcp_url)
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
        yield OwnReads(sock)


async def fill(server: SyncServer, count: int, size: int) -> None:
    async with peer(server) as writer:
        await writer.next()
        writer.send(WriteEntries("key", 0, sealed_entries(count, size=size)))
        assert isinstance(await writer.next(), Ack)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SyncServer]:
    monkeypatch.setattr(spacing, "GAP_SECONDS", 0.02)
    async with SyncServer(MemoryServerStorage(), port=0, tcp_port=0) as made:
        yield made


async def test_a_stock_peer_reads_one_message_at_a_time(server: SyncServer) -> None:
    async with peer(server) as stock:
        stock.send(*(Ping(number) for number in range(10)))
        found = [await stock.next() for _ in range(11)]

    assert isinstance(found[0], Hello)
    assert found[1:] == [Pong(number) for number in range(10)]


@pytest.mark.parametrize(
    "known",
    [
        (RequestChanges("other", 0, 5),),
        (Ping(1, {}),),
        (Credit("other", 5),),
        (WriteEntries("other", 1, sealed_entries(2)),),
    ],
)
async def test_a_peer_that_uses_anything_of_ours_is_not_waited_for(
    server: SyncServer, known: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was held back until then comes at once."""
    monkeypatch.setattr(spacing, "GAP_SECONDS", 60.0)
    async with peer(server) as ours:
        ours.send(Ping(2), *known, *(Ping(number) for number in range(3, 50)))
        data = b""
        async with asyncio.timeout(5):
            while encode_message(Pong(49)) not in data:
                data += await ours.reader.read(65_536)

    assert data.count(b"Pong") >= 48


async def test_a_peer_that_authenticates_is_told_why_it_is_rejected_although_the_greeting_was_just_sent(
    server: SyncServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spacing, "GAP_SECONDS", 60.0)
    async with peer(server) as ours:
        ours.send(Authenticate("no tenant/at all", ""))
        async with asyncio.timeout(5):
            data = await ours.reader.read(-1)

    assert data.endswith(encode_message(Rejected(ErrorCode.AUTHORIZATION)))


async def test_a_server_that_waits_for_a_token_speaks_to_ours_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacing, "GAP_SECONDS", 60.0)
    auth = Authenticator.single_token("token")
    async with SyncServer(MemoryServerStorage(), auth=auth, port=0, tcp_port=0) as server, peer(server) as ours:
        ours.send(Authenticate("default", "token"), *(Ping(number) for number in range(20)))
        data = b""
        async with asyncio.timeout(5):
            while data.count(b"Pong") < 20:
                data += await ours.reader.read(65_536)


@needs_peer_sight
async def test_a_peer_on_this_machine_that_does_not_read_is_sent_no_more(server: SyncServer) -> None:
    """However long it is busy, or stopped: two messages in one read would be its end."""
    await fill(server, 30, size=20_000)
    async with own_reads(server) as stock:
        assert isinstance(await stock.next(), Hello)
        stock.send(RequestChanges("key", 0))
        found = await stock.changes(1)
        await asyncio.sleep(0.3)  # fifteen times what is left between two messages
        found += await stock.changes(1)
        await asyncio.sleep(0.3)
        found += await stock.changes(30 - len(found))

        assert found == list(range(30))


@needs_peer_sight
async def test_a_pong_does_not_wait_behind_a_backlog(server: SyncServer) -> None:
    await fill(server, 60, size=20_000)
    async with own_reads(server) as stock:
        assert isinstance(await stock.next(), Hello)
        stock.send(RequestChanges("key", 0))
        found = await stock.changes(1)
        stock.send(Ping(7))
        before: list[Message] = []
        while Pong(7) not in before:
            before.append(await stock.next())

        assert len(before) < 10  # of some thirty; what is on its way when the Ping comes goes on
        found += [entry.sequence for one in before if isinstance(one, Changes) for entry in one.entries]
        assert found + await stock.changes(60 - len(found)) == list(range(60))


@needs_peer_sight
async def test_the_first_ack_to_a_journal_in_sql_does_not_wait_behind_a_backlog(server: SyncServer) -> None:
    """Before it such a journal stores nothing of what it reads."""
    await fill(server, 60, size=20_000)
    async with own_reads(server) as stock:
        assert isinstance(await stock.next(), Hello)
        stock.send(RequestChanges("key", 1))
        found = await stock.changes(1)
        stock.send(WriteEntries("key", 0, ()))
        before: list[Message] = []
        while not any(isinstance(one, Ack) for one in before):
            before.append(await stock.next())
        found += [entry.sequence for one in before if isinstance(one, Changes) for entry in one.entries]

        assert len(before) < 10  # of some thirty
        assert found + await stock.changes(60 - len(found)) == list(range(60))


@needs_peer_sight
async def test_an_ack_to_a_journal_in_sql_lists_what_fits_into_a_segment(
    server: SyncServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other entries of the write come back as Changes."""
    monkeypatch.setattr(spacing, "SEGMENT_BYTES_MAX", SEGMENT)
    monkeypatch.setattr(spacing, "GAP_SECONDS", 0.0)
    own = [EncryptedEntry(one.entry_id, bytes(12), one.ciphertext) for one in sealed_entries(400)]
    async with own_reads(server) as stock:
        assert isinstance(await stock.next(), Hello)
        stock.send(RequestChanges("key", 1), WriteEntries("key", 0, own))
        ack = await stock.next()
        assert isinstance(ack, Ack)
        listed = list(ack.sequence_numbers)

        assert 100 < len(listed) < SEGMENT / 9
        assert listed + await stock.changes(400 - len(listed)) == list(range(400))
