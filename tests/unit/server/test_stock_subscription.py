"""
A stock replica with an SQL journal gets everything, and never more than one of its statements takes.

The replica here works as the stock one was seen to: it stores all that waits for it with one statement, does nothing
else meanwhile, and stores nothing while it waits for an Ack. The real one is in ``tests/interop``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentlayers.protocol.codec import decode_message
from agentlayers.protocol.messages import Changes, EncryptedEntry
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.hub import Hub, Key
from agentlayers.server.intake import BURST_ENTRIES_MAX, ENTRIES_MAX
from agentlayers.server.memory_storage import MemoryServerStorage
from agentlayers.testing.contracts.server_storage import sealed_entries
from unit.server.silent_peer import SilentPeer

KEY = Key("tenant", "key")
STATEMENT_ENTRIES_MAX = 32_766 // 5
STEP_SECONDS = 0.05
OPENING_SECONDS = 0.0001
"""For each entry, before it waits to be stored; meanwhile the peer does answer."""

SEALING_SECONDS = 0.0001
"""For each entry of its first write."""


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SQLReplica(SilentPeer):
    """A stock replica with an SQL journal, of so many times the usual time for an entry."""

    def __init__(self, hub: Hub, clock: Clock, slowness: float) -> None:
        super().__init__()
        self.hub, self.clock, self.slowness = hub, clock, slowness
        self.journal: dict[int, bytes] = {}  # what it knows the sequence of
        self.unsent: list[EncryptedEntry] = []
        self.awaited: dict[int, list[EncryptedEntry]] = {}
        self.opening: list[tuple[float, int, bytes]] = []
        self.mailbox: list[tuple[int, bytes]] = []
        self.statement: list[tuple[int, bytes]] = []
        self.busy_until = 0.0
        self.asked: list[Callable[[], None]] = []
        self.answers = True
        self.message_id = 0

    # -- what the hub calls
    def send_ack(self, message_id: int, sequences: Sequence[int], through: int | None) -> None:
        entries = self.awaited.pop(message_id)
        # It need not open what an Ack lists, which so overtakes the Changes before it.
        self.mailbox += [(number, entry.entry_id) for number, entry in zip(sequences, entries, strict=False)]

    def send_changes(self, broadcast: Broadcast) -> None:
        for message in broadcast.messages:
            changes = decode_message(message)
            assert isinstance(changes, Changes)
            ready = max(self.opening[-1][0] if self.opening else 0, self.clock.now)
            ready += OPENING_SECONDS * len(changes.entries)
            self.opening += [(ready, entry.sequence, entry.entry_id) for entry in changes.entries]

    def when_read(self, then: Callable[[], None]) -> None:
        self.asked.append(then)

    # -- what it does
    async def connect(self) -> None:
        start = max(self.journal, default=0) + 1
        await self.hub.subscribe(self, KEY, start, is_stock=True)
        self.awaited[0] = []  # it is sealing what it has written, and stores nothing
        for _ in range(int(self.slowness * SEALING_SECONDS * len(self.unsent) / STEP_SECONDS)):
            await self.step()
        del self.awaited[0]
        await self.write([])

    async def write(self, entries: Sequence[EncryptedEntry]) -> None:
        self.unsent += entries
        self.message_id += 1
        self.awaited[self.message_id] = [*self.unsent]
        self.hub.write(self, KEY, self.message_id, self.awaited[self.message_id])
        await self.hub.close()

    async def step(self) -> None:
        self.clock.now += STEP_SECONDS
        while self.hub.lags(self):
            await self.hub.catch_up(self)
        if self.clock.now < self.busy_until:
            return
        self.journal |= dict(self.statement)
        known = set(self.journal.values())
        self.unsent = [entry for entry in self.unsent if entry.entry_id not in known]
        self.statement = []
        if self.answers:
            asked, self.asked = self.asked, []
            for then in asked:
                then()
        self.mailbox += [(number, entry_id) for ready, number, entry_id in self.opening if ready <= self.clock.now]
        self.opening = [one for one in self.opening if one[0] > self.clock.now]
        if self.mailbox and not self.awaited:
            self.statement, self.mailbox = self.mailbox, []
            assert len(self.statement) <= STATEMENT_ENTRIES_MAX
            seconds = 0.0001 + 0.000_000_07 * len(self.journal)
            self.busy_until = self.clock.now + self.slowness * seconds * len(self.statement)

    async def rest(self) -> None:
        """Let time pass until the estimate has nothing left for it to do."""
        for _ in range(100):
            await self.step()

    async def settle(self, count: int) -> None:
        """Go on until it has so many entries, and has sent its own."""
        for _ in range(20_000):
            if len(self.journal) == count and not self.unsent:
                return
            await self.step()
            # Whoever is restarted now asks from behind its last sequence, so nothing may be missing below.
            assert max(self.journal, default=-1) + 1 == len(self.journal)
        raise AssertionError(f"it has {len(self.journal)} of {count}, and {len(self.unsent)} to be sent")


def others(count: int, first: int = 0) -> list[EncryptedEntry]:
    return sealed_entries(count, first=first, prefix=b"o", size=17)


async def filled(count: int, clock: Clock) -> Hub:
    hub = Hub(MemoryServerStorage(), clock=clock)
    hub.write(SilentPeer(), KEY, 0, others(count))
    await hub.close()
    return hub


@settings(max_examples=40, deadline=None)
@given(
    backlog=st.integers(0, 9_000),
    own=st.integers(0, 9_000),
    slowness=st.floats(0.1, 8),
    later=st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(1, 1_500)), max_size=6),
)
@example(backlog=15_000, own=0, slowness=1.0, later=[])
@example(backlog=15_000, own=0, slowness=8.0, later=[])
@example(backlog=15_000, own=12_000, slowness=4.0, later=[(0, True, 5_000), (0, False, 5_000)])
@example(backlog=0, own=0, slowness=1.0, later=[(0, False, 1_000), (0, True, 3)])
@example(backlog=0, own=10_001, slowness=1.0, later=[(0, True, 1), (0, True, 1)])
async def test_it_gets_everything_and_never_too_much_at_once(
    backlog: int, own: int, slowness: float, later: list[tuple[int, bool, int]]
) -> None:
    clock = Clock()
    hub = await filled(backlog, clock)
    replica, total = SQLReplica(hub, clock, slowness), backlog + own
    replica.unsent = sealed_entries(own, prefix=b"m", size=17)
    await replica.connect()
    for steps, is_own, count in later:
        for _ in range(steps):
            await replica.step()
        if is_own:
            await replica.write(sealed_entries(count, first=total, prefix=b"m", size=17))
        else:
            hub.write(SilentPeer(), KEY, 0, others(count, first=total))
            await hub.close()
        total += count

    await replica.settle(total)

    assert sorted(replica.journal) == list(range(total))


async def test_who_does_not_say_what_it_has_read_is_sent_no_more() -> None:
    clock = Clock()
    hub = await filled(5_000, clock)
    replica = SQLReplica(hub, clock, 1.0)
    replica.answers = False
    await replica.connect()
    for _ in range(2_000):
        await replica.step()

    assert ENTRIES_MAX // 2 < len(replica.journal) <= ENTRIES_MAX

    replica.answers = True
    await replica.settle(5_000)


async def test_an_ack_lists_what_fits_into_a_statement_and_the_rest_comes_back() -> None:
    clock = Clock()
    hub = await filled(0, clock)
    replica = SQLReplica(hub, clock, 1.0)
    replica.unsent = sealed_entries(10_001)
    await replica.connect()
    assert len(replica.mailbox) == BURST_ENTRIES_MAX

    await replica.settle(10_001)

    assert list(dict(sorted(replica.journal.items())).values()) == [one.entry_id for one in sealed_entries(10_001)]


async def test_an_ack_never_waits_and_never_lists_what_stands_behind_something_missing() -> None:
    clock = Clock()
    hub = await filled(5_000, clock)
    replica = SQLReplica(hub, clock, 1.0)
    replica.unsent = sealed_entries(10)
    await replica.connect()

    assert not replica.awaited
    assert not replica.mailbox

    await replica.settle(5_010)
    await replica.rest()
    await replica.write(sealed_entries(1, first=10))

    assert [number for number, _ in replica.mailbox] == [5_010]


async def test_an_ack_lists_nothing_while_changes_are_on_their_way() -> None:
    """It would overtake them, and a replica that ended then would ask for what follows the Ack."""
    clock = Clock()
    hub = await filled(100, clock)
    replica = SQLReplica(hub, clock, 1.0)
    await replica.connect()
    await replica.settle(100)
    await replica.rest()
    hub.write(SilentPeer(), KEY, 0, others(50, first=100))
    await hub.close()
    await replica.write(sealed_entries(3))

    assert not replica.mailbox
    await replica.settle(153)


async def test_an_ack_of_duplicates_lists_them_once_they_are_in_place() -> None:
    clock = Clock()
    hub = await filled(100, clock)
    replica = SQLReplica(hub, clock, 1.0)
    await replica.connect()
    await replica.settle(100)
    await replica.rest()
    await replica.write([*others(100)[40:60], *sealed_entries(3), *others(100)[:5]])

    assert [number for number, _ in replica.mailbox] == [*range(40, 60), 100, 101, 102, *range(5)]


@pytest.mark.parametrize(("start", "is_stock"), [(0, True), (700, False)])
async def test_nobody_else_is_held_back(start: int, is_stock: bool) -> None:
    """Journals in memory and in IndexedDB have no such statement, and ask from 0 when they are empty."""
    hub = await filled(9_000, Clock())
    peer = SilentPeer()
    await hub.subscribe(peer, KEY, start, is_stock=is_stock)
    while hub.lags(peer):
        await hub.catch_up(peer)

    assert peer.sequences == list(range(start, 9_000))


async def test_a_second_request_on_the_same_connection_does_not_begin_anew() -> None:
    """Both fill the same queue."""
    clock = Clock()
    hub = await filled(9_000, clock)
    replica = SQLReplica(hub, clock, 1.0)
    replica.answers = False
    for _ in range(5):
        await hub.subscribe(replica, KEY, 1, is_stock=True)
        while hub.lags(replica):
            await hub.catch_up(replica)

    assert len(replica.opening) <= ENTRIES_MAX


async def test_what_it_may_be_sent_later_is_known_in_advance() -> None:
    clock = Clock()
    hub = await filled(9_000, clock)
    replica = SQLReplica(hub, clock, 1.0)
    assert hub.pause_seconds(replica) is None
    await replica.connect()
    assert hub.pause_seconds(replica) == 0
    while hub.lags(replica):
        await hub.catch_up(replica)
    assert hub.pause_seconds(replica) is None  # first it has to say what it has read
    for then in replica.asked:
        then()
    seconds = hub.pause_seconds(replica)
    assert seconds is not None
    assert 0 < seconds < 1
    assert not hub.lags(replica)

    clock.now += seconds + 0.001

    assert hub.lags(replica)
