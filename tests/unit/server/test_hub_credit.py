"""The hub sends each subscriber within its credit: all of it in order, and never more than was granted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentlayers.limits import CREDIT_ENTRY_BYTES, MESSAGE_BYTES_MAX
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.credit import cost_of
from agentlayers.protocol.events import AckReceived, ChangesReceived, ChangesRequested, CreditGranted
from agentlayers.protocol.messages import CAPABILITY_CREDIT, EncryptedEntry, Extensions, Hello
from agentlayers.protocol.server_session import ServerSession
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.fan_out import SLICE_SUBSCRIBERS
from agentlayers.server.hub import Hub, Key
from agentlayers.server.memory_storage import MemoryServerStorage
from agentlayers.testing.contracts.server_storage import sealed_entries

HELLO = Hello(bytes(16), Extensions(1, frozenset({CAPABILITY_CREDIT, "entry-nonces", "through"}), bytes(16), "t"))
ONE = CREDIT_ENTRY_BYTES + 40
"""What one entry of the tests costs."""


class Subscriber:
    """Both sessions of a connection, with the hub behind one and nothing taken over yet behind the other."""

    ack_sequences_max = 100_000

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.is_congested = False
        self.wants_to_catch_up = False
        self.wire: list[bytes] = []
        self.seen: dict[str, list[int]] = {}
        self.held: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.acks: list[int] = []
        self.server = ServerSession(is_stream=False, hello=HELLO)
        self.client = ClientSession(is_stream=False)
        self.client.receive_data(self.server.data_to_send()[0])
        self.client.events_received()

    # -- what the hub calls
    def send_ack(self, message_id: int, sequences: Sequence[int], through: int | None) -> None:
        self.server.send_ack(message_id, sequences, through)
        self.wire += self.server.data_to_send()

    def send_changes(self, broadcast: Broadcast) -> None:
        self.wire += broadcast.messages

    def write_settled(self, size: int) -> None: ...

    def write_failed(self, error: Exception) -> None:
        raise error

    def must_catch_up(self) -> None:
        self.wants_to_catch_up = True

    def when_read(self, then: Callable[[], None]) -> None:
        raise AssertionError("only a stock peer with a history is asked")

    # -- what the client does
    async def request(self, key: str, credit: int | None) -> None:
        self.client.request_changes(key, 0, credit)
        before = self.left.get(key, 0)
        self.left[key] = 10**9 if credit is None else credit
        if before > 0:  # what was sent for the request before may still be on its way, and an entry of any size
            self.left[key] += before + MESSAGE_BYTES_MAX
        await self._carry()

    async def write(self, key: str, entries: Sequence[EncryptedEntry]) -> None:
        message_id = self.client.write_entries(key, entries)
        self.client.data_to_send()
        self.hub.write(self, Key("t", key), message_id, entries)

    async def grant(self, key: str, amount: int) -> None:
        self.held[key] -= amount
        self.left[key] += amount
        self.client.grant_credit(key, amount)
        await self._carry()

    async def _carry(self) -> None:
        for data in self.client.data_to_send():
            self.server.receive_data(data)
        for event in self.server.events_received():
            if isinstance(event, ChangesRequested):
                await self.hub.subscribe(self, Key("t", event.public_key), event.start_sequence, event.credit)
            else:
                assert isinstance(event, CreditGranted)

    async def catch_up(self) -> None:
        for _ in range(100):
            if not self.hub.lags(self):
                return
            await self.hub.catch_up(self)
        raise AssertionError("it goes on without end")

    def arrive(self, count: int = 1000) -> None:
        frames, self.wire = self.wire[:count], self.wire[count:]
        for frame in frames:
            self.client.receive_data(frame)
        assert self.client.error is None
        for event in self.client.events_received():
            if isinstance(event, AckReceived):
                self.acks.append(event.message_id)
                continue
            assert isinstance(event, ChangesReceived)
            self.seen.setdefault(event.public_key, []).extend(entry.sequence for entry in event.entries)
            cost, left = cost_of(event.entries), self.left[event.public_key]
            assert cost <= left or (len(event.entries) == 1 and left > 0)
            self.left[event.public_key] -= cost
            self.held[event.public_key] = self.held.get(event.public_key, 0) + cost


@pytest.fixture
def hub() -> Hub:
    return Hub(MemoryServerStorage())


async def fill(hub: Hub, writer: Subscriber, count: int, key: str = "a") -> None:
    for number in range(count):
        await writer.write(key, sealed_entries(1, first=number))
        await asyncio.sleep(0)
    await hub.close()


async def test_a_subscriber_is_sent_no_more_than_its_credit_and_the_rest_when_it_grants(hub: Hub) -> None:
    reader, writer = Subscriber(hub), Subscriber(hub)
    await reader.request("a", 3 * ONE)
    await fill(hub, writer, 10)
    await reader.catch_up()
    reader.arrive()
    assert reader.seen["a"] == [0, 1, 2]
    assert not hub.lags(reader)

    await reader.grant("a", 3 * ONE)
    assert hub.lags(reader)
    await reader.catch_up()
    reader.arrive()
    assert reader.seen["a"] == [0, 1, 2, 3, 4, 5]


async def test_a_credit_of_nothing_is_never_used(hub: Hub) -> None:
    reader, writer = Subscriber(hub), Subscriber(hub)
    await fill(hub, writer, 2)
    await reader.request("a", 0)
    await fill(hub, writer, 3)
    await reader.catch_up()

    assert reader.wire == []


async def test_a_spent_credit_of_one_key_does_not_hold_up_another(hub: Hub) -> None:
    reader, writer = Subscriber(hub), Subscriber(hub)
    await reader.request("a", ONE)
    await reader.request("b", 100 * ONE)
    await fill(hub, writer, 20, "a")
    await fill(hub, writer, 20, "b")
    await reader.catch_up()
    reader.arrive()

    assert reader.seen == {"a": [0], "b": list(range(20))}


async def test_the_ack_of_a_followed_key_waits_for_credit_too(hub: Hub) -> None:
    """It says that everything below it was sent."""
    one, other = Subscriber(hub), Subscriber(hub)
    await one.request("a", ONE)
    await fill(hub, other, 3)
    await one.write("a", sealed_entries(1, first=100))
    await hub.close()
    await one.catch_up()
    one.arrive()
    assert (one.seen["a"], one.acks) == ([0], [])

    for _ in range(2):
        await one.grant("a", ONE)
        await one.catch_up()
        one.arrive()
    assert (one.seen["a"], one.acks) == ([0, 1, 2], [0])


async def test_messages_are_encoded_once_for_all_whose_credit_covers_them(hub: Hub) -> None:
    readers = [Subscriber(hub) for _ in range(2 * SLICE_SUBSCRIBERS)]
    for number, reader in enumerate(readers):
        await reader.request("a", None if number % 2 else 100 * ONE)
    await fill(hub, Subscriber(hub), 5)

    assert len({id(frame) for reader in readers for frame in reader.wire}) == len(readers[0].wire)
    for reader in readers:
        reader.arrive()
        assert reader.seen["a"] == list(range(5))


steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "huge", "own", "arrive", "grant", "catch_up", "congest", "again"]),
        st.sampled_from("aab"),
        st.integers(0, 3),
    ),
    max_size=40,
)


@example([("huge", "a", 3)], 1)
@example([("write", "a", 1), ("again", "a", 0)], 1)
@example([("write", "a", 1), ("write", "a", 1), ("write", "a", 1)], 5 * ONE)
@settings(max_examples=200)
@given(steps, st.sampled_from([1, ONE, 5 * ONE, 300_000]))
def test_whatever_is_granted_when_all_is_sent_in_order_and_never_too_much(
    plan: list[tuple[str, str, int]], credit: int
) -> None:
    asyncio.run(follow(plan, credit))


async def follow(plan: list[tuple[str, str, int]], credit: int) -> None:
    hub = Hub(MemoryServerStorage())
    reader, writer = Subscriber(hub), Subscriber(hub)
    total, own = {"a": 0, "b": 0}, 0
    for key in "ab":
        await reader.request(key, credit)
    for step, key, number in plan:
        if step in ("write", "huge"):  # huge ones make several Changes of one commit
            entries = sealed_entries(number + 1, first=total[key], size=40 if step == "write" else 200_000)
            total[key] += len(entries)
            await writer.write(key, entries)
            for _ in range(8 if number else 0):  # otherwise together with the next
                await asyncio.sleep(0)
        elif step == "own":
            own += 1
            await reader.write(key, sealed_entries(1, first=own, prefix=b"own"))
        elif step == "arrive":
            reader.arrive(number + 1)
        elif step == "grant" and reader.held.get(key):
            await reader.grant(key, max(reader.held[key] // (number + 1), 1))
        elif step == "catch_up" and hub.lags(reader):
            await hub.catch_up(reader)
        elif step == "congest":
            reader.is_congested = not reader.is_congested
        elif step == "again" and number == 0:
            await reader.request(key, credit)
    reader.is_congested = False
    await hub.close()
    for _ in range(200):
        await reader.catch_up()
        reader.arrive()
        if not any(reader.held.get(key) for key in "ab"):
            break
        for key in "ab":
            if reader.held.get(key):
                await reader.grant(key, reader.held[key])
    assert len(reader.acks) == own
    for key in "ab":
        stored = await hub._storage.read("t", key, 0, entries_max=1000, bytes_max=10**9)
        foreign = [entry.sequence for entry in stored if not entry.entry_id.lstrip(b"\x01").startswith(b"own")]
        assert set(foreign) <= set(reader.seen.get(key, []))
        if not any(step == "again" for step, _, _ in plan):
            assert reader.seen.get(key, []) == foreign
