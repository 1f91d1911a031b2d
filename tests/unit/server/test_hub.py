"""The hub gives every subscriber every sequence once, in order, and every Ack its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentlayers.errors import StorageUnavailableError
from agentlayers.limits import CREDIT_ENTRY_BYTES
from agentlayers.protocol.codec import decode_message
from agentlayers.protocol.messages import Changes, EncryptedEntry
from agentlayers.server import fan_out
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.fan_out import SLICE_SUBSCRIBERS
from agentlayers.server.hub import IDLE_CHANNELS_MAX, Hub, Key
from agentlayers.server.memory_storage import MemoryServerStorage
from agentlayers.testing.contracts.server_storage import sealed_entries

KEY = Key("tenant", "key")
TAKEN = 40 + CREDIT_ENTRY_BYTES
"""What one of the entries here counts while it is not stored."""


class RecordingPeer:
    """A connection without a socket: keeps what it was given, decoded."""

    ack_sequences_max = 100_000

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.is_congested = False
        self.wants_to_catch_up = False
        self.settled = 0
        self.failed: list[Exception] = []

    def send_ack(self, message_id: int, sequences: Sequence[int], through: int | None) -> None:
        self.log.append(("ack", message_id, tuple(sequences), through))

    def send_changes(self, broadcast: Broadcast) -> None:
        for message in broadcast.messages:
            changes = decode_message(message)
            assert isinstance(changes, Changes)
            sequences = tuple(entry.sequence for entry in changes.entries)
            self.log.append(("changes", changes.public_key, sequences, changes.through))

    def write_settled(self, size: int) -> None:
        self.settled += size

    def write_failed(self, error: Exception) -> None:
        self.failed.append(error)

    def must_catch_up(self) -> None:
        self.wants_to_catch_up = True

    def when_read(self, then: Callable[[], None]) -> None:
        raise AssertionError("only a stock peer with a history is asked")

    @property
    def sent(self) -> list[int]:
        return [number for kind, _, numbers, _ in self.log if kind == "changes" for number in numbers]

    @property
    def acks(self) -> list[tuple[Any, ...]]:
        return [found for found in self.log if found[0] == "ack"]


class GatedStorage(MemoryServerStorage):
    """Stops before and after each operation until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: list[asyncio.Future[None]] = []
        self.is_open = False

    async def _gate(self) -> None:
        if not self.is_open:
            gate = asyncio.get_running_loop().create_future()
            self.gates.append(gate)
            await gate

    async def append(self, *arguments: Any) -> Any:
        await self._gate()
        appended = await super().append(*arguments)
        await self._gate()
        return appended

    async def read(self, *arguments: Any, **bounds: Any) -> Any:
        await self._gate()
        found = await super().read(*arguments, **(bounds | {"entries_max": min(3, bounds["entries_max"])}))
        await self._gate()
        return found

    async def head(self, *arguments: Any) -> int:
        await self._gate()
        return await super().head(*arguments)


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def catch_up(hub: Hub, *peers: RecordingPeer) -> None:
    for peer in peers:
        while await hub.catch_up(peer):
            pass


# -- single behaviours ------------------------------------------------------------------------------


@pytest.fixture
def storage() -> MemoryServerStorage:
    return MemoryServerStorage()


@pytest.fixture
def hub(storage: MemoryServerStorage) -> Hub:
    return Hub(storage)


async def test_a_live_subscriber_is_sent_what_another_writes(hub: Hub) -> None:
    writer, reader = RecordingPeer(), RecordingPeer()
    await hub.subscribe(reader, KEY, 0)

    hub.write(writer, KEY, 7, sealed_entries(2))
    await hub.close()

    assert reader.log == [("changes", "key", (0, 1), 2)]
    assert writer.log == [("ack", 7, (0, 1), None)]


async def test_a_writer_gets_its_ack_and_not_its_own_entries(hub: Hub) -> None:
    peer = RecordingPeer()
    await hub.subscribe(peer, KEY, 0)

    hub.write(peer, KEY, 1, sealed_entries(2))
    await hub.close()

    assert peer.log == [("ack", 1, (0, 1), 2)]


async def test_two_writers_each_get_the_others_entries_before_their_later_ack(hub: Hub) -> None:
    """Fault W5: a client's own write must not hide another's entry below it."""
    one, two = RecordingPeer(), RecordingPeer()
    for peer in (one, two):
        await hub.subscribe(peer, KEY, 0)

    hub.write(one, KEY, 1, sealed_entries(1))
    hub.write(two, KEY, 1, sealed_entries(1, first=1))
    await hub.close()

    assert one.log == [("ack", 1, (0,), 1), ("changes", "key", (1,), 2)]
    assert two.log == [("changes", "key", (0,), 1), ("ack", 1, (1,), 2)]


async def test_a_backlog_is_sent_before_the_ack_of_a_later_write(hub: Hub, storage: MemoryServerStorage) -> None:
    await storage.append(*KEY, sealed_entries(3))
    peer = RecordingPeer()
    await hub.subscribe(peer, KEY, 0)

    hub.write(peer, KEY, 1, sealed_entries(1, first=3))
    await hub.close()
    assert peer.log == []
    await catch_up(hub, peer)

    assert peer.log == [("changes", "key", (0, 1, 2), 3), ("ack", 1, (3,), 4)]


async def test_all_duplicates_are_acknowledged_with_their_first_sequences(hub: Hub) -> None:
    """Fault W3: the retry after a lost Ack."""
    peer = RecordingPeer()
    hub.write(peer, KEY, 1, sealed_entries(3))
    hub.write(peer, KEY, 2, sealed_entries(3)[::-1])
    await hub.close()

    assert peer.acks == [("ack", 1, (0, 1, 2), None), ("ack", 2, (2, 1, 0), None)]


async def test_an_empty_write_is_acknowledged(hub: Hub) -> None:
    """A stock client sends one when it connects and when it closes."""
    peer = RecordingPeer()
    await hub.subscribe(peer, KEY, 0)
    hub.write(peer, KEY, 5, [])
    await hub.close()

    assert peer.log == [("ack", 5, (), 0)]


async def test_an_empty_write_is_acknowledged_after_the_backlog(hub: Hub, storage: MemoryServerStorage) -> None:
    """So a replica knows that it has read everything there was."""
    await storage.append(*KEY, sealed_entries(3))
    peer = RecordingPeer()
    await hub.subscribe(peer, KEY, 0)
    hub.write(peer, KEY, 1, [])
    await hub.close()
    assert peer.log == []
    await catch_up(hub, peer)

    assert peer.log == [("changes", "key", (0, 1, 2), 3), ("ack", 1, (), 3)]


async def test_two_keys_on_one_connection_do_not_touch_each_other(hub: Hub) -> None:
    """Fault W4: one position for all keys of a socket."""
    reader, writer = RecordingPeer(), RecordingPeer()
    other = Key("tenant", "other")
    await hub.subscribe(reader, KEY, 0)
    hub.write(writer, KEY, 1, sealed_entries(5))
    hub.write(writer, other, 2, sealed_entries(2))
    await hub.close()

    await hub.subscribe(reader, other, 0)
    await catch_up(hub, reader)

    assert reader.log == [("changes", "key", (0, 1, 2, 3, 4), 5), ("changes", "other", (0, 1), 2)]


async def test_tenants_with_the_same_key_do_not_touch_each_other(hub: Hub) -> None:
    reader, writer = RecordingPeer(), RecordingPeer()
    await hub.subscribe(reader, Key("one", "key"), 0)
    hub.write(writer, Key("two", "key"), 1, sealed_entries(1))
    await hub.close()

    assert reader.log == []


async def test_a_start_beyond_the_head_is_taken_as_the_head(hub: Hub) -> None:
    """After a restore the client must not miss what is written below its old cursor."""
    reader, writer = RecordingPeer(), RecordingPeer()
    await hub.subscribe(reader, KEY, 100)
    hub.write(writer, KEY, 1, sealed_entries(1))
    await hub.close()

    assert reader.sent == [0]


async def test_a_start_of_one_is_taken_as_zero(hub: Hub) -> None:
    """Fault W16: an empty stock SQL journal asks for 1 and would never get entry 0."""
    reader, writer = RecordingPeer(), RecordingPeer()
    hub.write(writer, KEY, 1, sealed_entries(2))
    await hub.close()
    await hub.subscribe(reader, KEY, 1)
    await catch_up(hub, reader)

    assert reader.sent == [0, 1]


async def test_after_unsubscribing_nothing_more_comes(hub: Hub) -> None:
    reader, writer = RecordingPeer(), RecordingPeer()
    await hub.subscribe(reader, KEY, 0)
    hub.unsubscribe(reader, KEY)
    hub.unsubscribe(reader, KEY)
    hub.write(writer, KEY, 1, sealed_entries(1))
    await hub.close()

    assert reader.log == []


async def test_unsubscribing_releases_the_acks_that_wait(hub: Hub, storage: MemoryServerStorage) -> None:
    await storage.append(*KEY, sealed_entries(3))
    peer = RecordingPeer()
    await hub.subscribe(peer, KEY, 0)
    hub.write(peer, KEY, 1, sealed_entries(1, first=3))
    await hub.close()

    hub.unsubscribe(peer, KEY)

    assert peer.log == [("ack", 1, (3,), None)]


async def test_a_congested_subscriber_reads_from_storage_and_misses_nothing(hub: Hub) -> None:
    reader, writer = RecordingPeer(), RecordingPeer()
    await hub.subscribe(reader, KEY, 0)
    reader.is_congested = True
    hub.write(writer, KEY, 1, sealed_entries(2))
    await hub.close()
    assert (reader.sent, reader.wants_to_catch_up) == ([], True)

    reader.is_congested = False
    hub.write(writer, KEY, 2, sealed_entries(2, first=2))
    await hub.close()
    await catch_up(hub, reader)
    hub.write(writer, KEY, 3, sealed_entries(1, first=4))
    await hub.close()

    assert reader.sent == [0, 1, 2, 3, 4]


async def test_writes_of_a_peer_that_left_still_reach_the_others(hub: Hub) -> None:
    reader, writer = RecordingPeer(), RecordingPeer()
    await hub.subscribe(reader, KEY, 0)
    await hub.subscribe(writer, KEY, 0)
    hub.write(writer, KEY, 1, sealed_entries(1))
    hub.leave(writer)
    await hub.close()

    assert reader.sent == [0]


async def test_entries_are_encoded_once_for_all_subscribers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    real = Broadcast.__init__

    def counting(self: Broadcast, messages: Sequence[bytes]) -> None:
        encoded.append(messages)
        real(self, messages)

    readers = [RecordingPeer() for _ in range(20)]
    for reader in readers:
        await hub.subscribe(reader, KEY, 0)
    monkeypatch.setattr(Broadcast, "__init__", counting)
    hub.write(RecordingPeer(), KEY, 1, sealed_entries(4))
    await hub.close()

    assert len(encoded) == 1
    assert all(reader.sent == [0, 1, 2, 3] for reader in readers)


async def test_a_write_that_is_not_stored_is_not_acknowledged(
    hub: Hub, storage: MemoryServerStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StorageUnavailableError(backend="test", operation="append", reason="full")

    peer = RecordingPeer()
    await hub.subscribe(peer, KEY, 0)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "append", fail)
        size = hub.write(peer, KEY, 1, sealed_entries(1))
        await hub.close()
    hub.write(peer, KEY, 2, sealed_entries(1))
    await hub.close()

    assert len(peer.failed) == 1
    assert size == TAKEN
    assert peer.settled == 2 * TAKEN
    assert peer.acks == [("ack", 2, (0,), 1)]


async def test_a_look_up_that_failed_is_made_again(
    hub: Hub, storage: MemoryServerStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes during a failure is sent away; nothing of it is left for who comes after (fault V3)."""
    await storage.append(KEY.tenant, KEY.public_key, sealed_entries(3))

    async def fail(*_: object) -> None:
        raise StorageUnavailableError(backend="test", operation="read", reason="busy")

    refused, peer = RecordingPeer(), RecordingPeer()
    with monkeypatch.context() as patched:
        patched.setattr(storage, "head", fail)
        for look_up in (hub.subscribe(refused, KEY, 0), hub.digest(KEY, 0)):
            with pytest.raises(StorageUnavailableError):
                await look_up
        hub.leave(refused)
    await hub.subscribe(peer, KEY, 0)
    while hub.lags(peer):
        await hub.catch_up(peer)

    assert peer.sent == [0, 1, 2]
    assert (await hub.digest(KEY, 3)).head == 3


async def test_a_writer_has_its_ack_before_a_long_fan_out_is_finished(hub: Hub) -> None:
    """So the next entries are stored meanwhile; to whom they go too, they go together."""
    writer, readers = RecordingPeer(), [RecordingPeer() for _ in range(5 * SLICE_SUBSCRIBERS)]
    for reader in readers:
        await hub.subscribe(reader, KEY, 0)
    last = readers[-1]
    for number in range(3):
        hub.write(writer, KEY, number, sealed_entries(1, first=number))
        await until(partial(lambda done: len(writer.acks) == done, number + 1))
        assert last.sent == []
    assert writer.settled == 0
    await hub.close()

    assert last.log == [("changes", "key", (0,), 1), ("changes", "key", (1, 2), 3)]
    assert all(reader.log == last.log for reader in readers)
    assert writer.settled == 3 * TAKEN


async def test_whoever_leaves_or_comes_during_a_fan_out_gets_what_is_his(hub: Hub) -> None:
    readers = [RecordingPeer() for _ in range(3 * SLICE_SUBSCRIBERS)]
    for reader in readers:
        await hub.subscribe(reader, KEY, 0)
    writer, late = RecordingPeer(), RecordingPeer()
    hub.write(writer, KEY, 1, sealed_entries(1))
    await until(lambda: bool(readers[0].log))
    hub.leave(readers[-1])
    hub.unsubscribe(readers[-2], KEY)
    await hub.subscribe(late, KEY, 0)
    await hub.close()
    await catch_up(hub, late)

    assert [reader.sent for reader in readers] == [[0]] * (len(readers) - 2) + [[], []]
    assert late.sent == [0]


@pytest.mark.parametrize("count", [2, 2 * SLICE_SUBSCRIBERS])
async def test_whoever_missed_a_fan_out_that_failed_reads_it_from_storage(
    count: int, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that cannot be made stops neither its writer nor what comes after it."""
    readers, writer = [RecordingPeer() for _ in range(count)], RecordingPeer()
    for reader in readers:
        await hub.subscribe(reader, KEY, 0)
    with monkeypatch.context() as patched:
        patched.setattr("agentlayers.server.hub.encode_changes_frames", lambda *_: 1 / 0)
        hub.write(writer, KEY, 1, sealed_entries(1))
        await hub.close()
    hub.write(writer, KEY, 2, sealed_entries(1, first=1))
    await hub.close()
    await catch_up(hub, *readers)

    assert [ack[1] for ack in writer.acks] == [1, 2]
    assert writer.settled == 2 * TAKEN
    assert all(reader.sent == [0, 1] for reader in readers)


class LateFailure(MemoryServerStorage):
    """A medium whose answer is lost: what it was given is stored, and it says that it failed."""

    fails = False

    async def append(self, *arguments: Any) -> Any:
        appended = await super().append(*arguments)
        if self.fails:
            raise StorageUnavailableError(backend="server", operation="append", reason="the answer was lost")
        return appended


@pytest.mark.parametrize("count", [2, 2 * SLICE_SUBSCRIBERS])
@pytest.mark.parametrize("comes_back_with", ["the same", "something new"])
async def test_what_was_stored_though_its_append_failed_reaches_everybody(count: int, comes_back_with: str) -> None:
    storage = LateFailure()
    hub = Hub(storage)
    readers, writer = [RecordingPeer() for _ in range(count)], RecordingPeer()
    for peer in (*readers, writer):
        await hub.subscribe(peer, KEY, 0)
    hub.write(writer, KEY, 1, sealed_entries(1))
    await hub.close()
    storage.fails = True
    hub.write(writer, KEY, 2, sealed_entries(2, first=1))
    await hub.close()
    storage.fails = False
    hub.write(writer, KEY, 3, sealed_entries(2, first=1 if comes_back_with == "the same" else 3))
    await hub.close()
    await catch_up(hub, *readers, writer)

    assert len(writer.failed) == 1
    assert [ack[1] for ack in writer.acks] == [1, 3]
    assert all(reader.sent == list(range(3 if comes_back_with == "the same" else 5)) for reader in readers)
    assert writer.sent == [1, 2], "it was told of these that they failed"


async def test_idle_keys_are_forgotten(hub: Hub) -> None:
    """A client that writes under ever new keys does not grow the server's memory."""
    peer = RecordingPeer()
    for number in range(IDLE_CHANNELS_MAX + 50):
        hub.write(peer, Key("tenant", str(number)), number, [])
    await hub.close()
    await settle()

    assert len(hub._channels) <= IDLE_CHANNELS_MAX


# -- any interleaving -------------------------------------------------------------------------------


@dataclass
class World:
    """A hub on a gated storage, some peers, and what each of them did."""

    storage: GatedStorage = field(default_factory=GatedStorage)
    peers: list[RecordingPeer] = field(default_factory=lambda: [RecordingPeer() for _ in range(3)])
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    catching_up: set[int] = field(default_factory=set)
    writes: dict[Key, list[tuple[int, int, list[EncryptedEntry]]]] = field(default_factory=dict)
    barriers: dict[int, int] = field(default_factory=dict)
    message_id: int = 0

    def __post_init__(self) -> None:
        self.hub = Hub(self.storage)

    def spawn(self, index: int, running: set[int], coroutine: Any) -> None:
        running.add(index)
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(lambda _: running.discard(index))

    def write(self, index: int, key: Key, ids: Sequence[int]) -> None:
        self.message_id += 1
        entries = [sealed_entries(1, first=number)[0] for number in ids]
        self.writes.setdefault(key, []).append((index, self.message_id, entries))
        if not entries:
            channel = self.hub._channels.get(key)
            self.barriers[self.message_id] = (channel.head if channel else 0) or 0
        self.hub.write(self.peers[index], key, self.message_id, entries)

    async def subscribe(self, index: int, key: Key, start: int) -> None:
        self.peers[index].log.append(("subscribed", key.public_key, start, None))
        await self.hub.subscribe(self.peers[index], key, start)

    def step(self, action: tuple[Any, ...]) -> None:
        kind, index, key, detail = action
        peer = self.peers[index]
        if kind == "release":
            if self.storage.gates:
                self.storage.gates.pop(detail[0] % len(self.storage.gates)).set_result(None)
        elif kind == "congest":
            peer.is_congested = not peer.is_congested
        elif kind == "catch_up":
            if index not in self.catching_up:
                self.spawn(index, self.catching_up, self.hub.catch_up(peer))
        elif index in self.busy:
            return
        elif kind == "write":
            self.write(index, key, detail)
        elif kind == "barrier":
            self.write(index, key, [])
        elif kind == "subscribe":
            # A client only knows sequences it was told of, and those are published.
            channel = self.hub._channels.get(key)
            known = channel.head if channel else None
            if known is None:
                known = len(self.storage._journals[key].entries) if key in self.storage._journals else 0
            start = detail[0] % (known + 1)
            self.spawn(index, self.busy, self.subscribe(index, key, 0 if start == 1 else start))
        elif kind == "unsubscribe":
            self.hub.unsubscribe(peer, key)
            peer.log.append(("unsubscribed", key.public_key, 0, None))

    async def finish(self) -> None:
        self.storage.is_open = True
        for gate in self.storage.gates:
            gate.set_result(None)
        for peer in self.peers:
            peer.is_congested = False
        await asyncio.gather(*self.tasks)
        await self.hub.close()
        for peer in self.peers:
            for _ in range(200):
                if not await self.hub.catch_up(peer):
                    break
            assert not self.hub.lags(peer)

    def check(self) -> None:
        for key, writes in self.writes.items():
            stored = (
                [entry.entry_id for entry in self.storage._journals[key].entries]
                if (key in self.storage._journals)
                else []
            )
            owner: dict[int, int] = {}
            for _, message_id, entries in writes:
                for entry in entries:
                    owner.setdefault(stored.index(entry.entry_id), message_id)
            for index, peer in enumerate(self.peers):
                mine = {m: e for i, m, e in writes if i == index}
                check_log(peer.log, key.public_key, mine, owner, stored, self.barriers)


def check_log(
    log: Sequence[tuple[Any, ...]],
    public_key: str,
    mine: dict[int, list[EncryptedEntry]],
    owner: dict[int, int],
    stored: list[bytes],
    barriers: dict[int, int],
) -> None:
    """Check one peer's view of one key against the rules of DESIGN 7."""
    start: int | None = None
    sent: set[int] = set()
    own: set[int] = set()
    acknowledged = []

    def first_missing() -> int:
        assert start is not None
        number = start
        while number in sent or number in own:
            number += 1
        return number

    for kind, what, numbers, through in log:
        if kind == "subscribed" and what == public_key:
            start, sent, own = numbers, set(), set()
        elif kind == "unsubscribed" and what == public_key:
            start = None
        elif kind == "changes" and what == public_key:
            assert start is not None, "Changes of a key that is not followed"
            for number in numbers:
                assert number == first_missing(), "out of order, twice or missing"
                sent.add(number)
            assert through == first_missing() or owner[through] in mine
        elif kind == "ack" and what in mine:
            acknowledged.append(what)
            entries = mine[what]
            assert [stored[number] for number in numbers] == [entry.entry_id for entry in entries]
            if through is None:
                continue
            new = {number for number in numbers if owner[number] == what}
            before = first_missing()
            assert all(number < before or number in new for number in numbers), "Ack too early"
            if new and max(new) >= start:
                assert min(number for number in new if number >= start) == before, "Ack too early"
            own |= new
            assert through == first_missing()
            assert through >= barriers.get(what, 0), "an empty write overtook the backlog"
    assert acknowledged == list(mine), "every write is acknowledged, in order"
    if start is not None:
        assert first_missing() == max(len(stored), start), "something was never sent"
        assert not sent & own, "an own entry came back"


KEYS = (KEY, Key("tenant", "other"))
actions = st.tuples(
    st.sampled_from(
        [
            "write",
            "write",
            "subscribe",
            "release",
            "release",
            "release",
            "catch_up",
            "congest",
            "unsubscribe",
            "barrier",
        ]
    ),
    # Few peers and mostly one key, so that what they do meets.
    st.sampled_from([0, 0, 0, 1, 1, 2]),
    st.sampled_from([KEY, KEY, KEY, KEYS[1]]),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(actions, min_size=8, max_size=60))
@example([("write", 0, KEY, [1]), ("subscribe", 0, KEY, [0]), ("write", 0, KEY, [1, 2])])
@pytest.mark.parametrize("subscribers", [1, 32])
def test_any_interleaving_gives_every_subscriber_everything_once_and_in_order(
    subscribers: int, steps: list[tuple[Any, ...]]
) -> None:
    """
    Each sequence once, ascending, own entries as Acks in their place, ``through`` exact.

    With slices of one subscriber everything else may also happen in the middle of a fan-out.
    """

    async def run() -> None:
        world = World()
        for action in steps:
            world.step(action)
            await settle()
        await world.finish()
        world.check()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fan_out, "SLICE_SUBSCRIBERS", subscribers)
        asyncio.run(run())
