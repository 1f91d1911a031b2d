"""What could not be opened is kept aside, and taken over once it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentlayers import limits
from agentlayers.crypto.encryption import AesGcmEncryption, Encryption, PlaintextEncryption
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.event_journal import QuarantinedEntry
from agentlayers.journal.sqlite import SQLiteJournal
from agentlayers.protocol.messages import EncryptedEntry
from agentlayers.sync.status import QuarantinedEntry as QuarantinedInSync
from agentlayers.sync.status import StoreStatus
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


@dataclass
class Seen:
    """What a replica was and had after it had synchronized once, and closed."""

    starts: list[int]
    ids: set[bytes]
    kept: int
    not_kept: int
    status: StoreStatus
    listed: Sequence[QuarantinedInSync]


async def exchange(directory: Path, server: SmallServer, identity: Identity = IDENTITY, **options: Any) -> Seen:
    """Synchronize a journal once, in a process of its own as it were."""
    requested = len(server.requests)
    transport = MemoryTransport(server.serve)
    async with replica(transport, journal=SQLiteJournal(directory), identity=identity, **options) as one:
        await one.sync.sync_now()
        return Seen(
            [start for _, start in server.requests[requested:]],
            await one.ids(),
            len(await kept_aside(one)),
            await one.journal.read(lambda tx: tx.count_not_kept(STORE)),
            one.sync.status.stores[STORE],
            one.sync.quarantine(STORE),
        )


@pytest.mark.parametrize("is_stock", [False, True], ids=["ours", "stock"])
async def test_what_there_was_no_room_for_is_read_again_once_the_key_is_another_one(
    is_stock: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only then, and from the first of it: a process that has the same key asks for nothing again."""
    monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 20)
    server = SmallServer(is_stock=is_stock)
    async with replica(MemoryTransport(server.serve)) as writer:
        written = {await writer.write(f"message {n}") for n in range(50)}
        await writer.sync.sync_now()

    first = await exchange(tmp_path, server, WITH_WRONG_KEY)
    second = await exchange(tmp_path, server, WITH_WRONG_KEY)
    third = await exchange(tmp_path, server)
    fourth = await exchange(tmp_path, server)

    assert [one.starts for one in (first, second, third, fourth)] == [[0], [50], [20], [50]]
    assert [(one.kept, one.not_kept) for one in (first, second, third, fourth)] == [(20, 30), (20, 30), (0, 0), (0, 0)]
    assert [one.ids for one in (first, second, third, fourth)] == [set(), set(), written, written]
    assert [one.is_kept for one in first.listed] == [False] * 20  # of those 50, the latest
    assert (first.status.quarantined, third.status.pending) == (50, 0)
    assert len(server.sent_ids) == 50


async def test_a_key_that_opens_less_than_the_one_before_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is here stays, and is not kept aside for coming back sealed with a key that is not there any more."""
    monkeypatch.setattr(limits, "QUARANTINE_ENTRIES_MAX", 3)
    server = SmallServer()
    for number in range(10):
        iv, ciphertext = AesGcmEncryption().seal(b"k" * 32, b"nobody here has this key")
        server.append(KEYS.public_key, EncryptedEntry(b"%016d" % number, iv, ciphertext))
    async with replica(MemoryTransport(server.serve)) as writer:
        written = {await writer.write(f"message {n}") for n in range(20)}
        await writer.sync.sync_now()

    right = await exchange(tmp_path, server)
    wrong = await exchange(tmp_path, server, WITH_WRONG_KEY)
    async with replica(MemoryTransport(server.serve)) as writer:
        written |= {await writer.write(f"later {n}") for n in range(20)}
        await writer.sync.sync_now()
    later = await exchange(tmp_path, server, WITH_WRONG_KEY)
    back = await exchange(tmp_path, server)

    assert [(len(one.ids), one.kept, one.not_kept) for one in (right, wrong, later, back)] == [
        (20, 3, 7), (20, 3, 7), (20, 3, 27), (40, 3, 7),
    ]  # fmt: skip
    assert [one.starts for one in (right, wrong, later, back)] == [[0], [3], [30], [3]]
    assert back.ids == written


async def test_what_was_kept_of_a_server_that_is_gone_is_taken_over_too(tmp_path: Path) -> None:
    """Another server has it as well, and sends it no more: it was read past it with the key of that time."""
    first, second = SmallServer(), SmallServer(remote_id=b"other-remote-16b")
    written: set[bytes] = set()
    for server in (first, second):
        async with replica(MemoryTransport(server.serve)) as writer:
            written.add(await writer.write("message"))
            await writer.sync.sync_now()
    both = [EncryptedEntry(one.entry_id, one.iv, one.ciphertext) for one in first.journals[KEYS.public_key]]
    second.append(KEYS.public_key, *both)
    before = [await exchange(tmp_path, server, WITH_WRONG_KEY) for server in (first, second)]
    seen = await exchange(tmp_path, second)
    async with SQLiteJournal(tmp_path) as journal:
        remotes = await journal.read(lambda tx: tx.remotes(STORE))

    assert [one.kept for one in before] == [1, 2]
    assert (seen.ids, seen.kept) == (written, 0)
    # One took the other's place at its address, and stays retired.
    assert {one.remote_id: (one.state.next_sequence, one.is_retired) for one in remotes} == {
        first.remote_id: (1, True), second.remote_id: (2, False),
    }  # fmt: skip
