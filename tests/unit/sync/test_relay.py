"""What came from one server goes to the others, once, and to nobody who has it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentlayers import limits
from agentlayers.errors import ConnectError, SettingsError, StateError
from agentlayers.journal.memory import MemoryJournal
from agentlayers.sync.status import SyncState
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, Replica, SmallServer, replica

CHAT = IDENTITY.for_store("chat_history").public_key


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relay soon."""
    monkeypatch.setattr(limits, "RELAY_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(limits, "FLUSH_ON_CLOSE_SECONDS", 0.3)
    monkeypatch.setattr("agentlayers.sync.replication.STOCK_QUIET_SECONDS", 0.02)


def two_servers(*, is_stock: bool = False) -> tuple[SmallServer, SmallServer]:
    """Make two servers; the second may be a stock one."""
    return SmallServer(remote_id=b"first-----------"), SmallServer(remote_id=b"second----------", is_stock=is_stock)


def reach(server: SmallServer) -> MemoryTransport:
    """Reach a server under an address of its own."""
    return MemoryTransport(server.serve, name=server.remote_id.decode().strip("-"))


@contextlib.asynccontextmanager
async def joined(*servers: SmallServer, **options: Any) -> AsyncIterator[Replica]:
    """Open a replica of several servers."""
    first, *others = map(reach, servers)
    async with replica(first, remotes=others, **options) as one:
        yield one


def held(server: SmallServer) -> set[bytes]:
    """Return the ids a server has."""
    return {entry.entry_id for entry in server.journals.get(CHAT, ())}


async def until_held(server: SmallServer, ids: set[bytes]) -> None:
    """Wait until a server has some entries."""
    async with asyncio.timeout(10):
        await server.heard.until(lambda: ids <= held(server))


async def test_a_replica_of_two_servers_bridges_them_both_ways() -> None:
    """Replicas of either server see what is written at the other."""
    first, second = two_servers()
    async with joined(first) as one, joined(second) as other, joined(first, second) as bridge:
        a, b = await one.write("at the first"), await other.write("at the second")
        await one.until_ids({a, b})
        await other.until_ids({a, b})
        c = await bridge.write("at both")
        await one.until_ids({c})
        await other.until_ids({c})
        await bridge.until_pushed()

    # Each entry came to each server once, and none went back to where it came from.
    assert sorted(first.sent_ids) == sorted(second.sent_ids) == sorted([a, b, c])


async def test_two_bridges_converge_and_stop() -> None:
    """What one relayed the other does not relay again, and nothing travels back and forth."""
    first, second = two_servers()
    async with joined(first) as one, joined(first, second) as left, joined(second, first) as right:
        for number in range(20):
            await (left if number % 2 else right).write(str(number))
        everything = {await one.write(str(number)) for number in range(20)}
        await until_held(second, everything)
        for each in (left, right):
            await each.sync.sync_now()
        before = len(first.sent_ids), len(second.sent_ids)
        await asyncio.sleep(0.2)
        idle = len(first.sent_ids), len(second.sent_ids)

        assert held(first) == held(second)
        assert len(held(first)) == 40
        assert before == idle
        # The own entries of all three, and at the second server what came from the first.
        assert len(first.sent_ids) == 40
        assert 40 <= len(second.sent_ids) <= 60


async def test_a_second_server_gets_everything_and_is_not_sent_what_it_has() -> None:
    """It is asked first what it has."""
    first, second = two_servers()
    async with joined(first) as one, joined(first) as two:
        ids = {await one.write(str(number)) for number in range(30)}
        await two.until_ids(ids)
        second.append(CHAT, *[entries[0] for _, entries in first.writes[:10]])
        await two.sync.connect_transport(reach(second))
        await until_held(second, ids)
        await two.until_pushed()

    assert set(second.sent_ids) == ids - {entries[0].entry_id for _, entries in first.writes[:10]}
    assert len(second.sent_ids) == 20


async def test_a_server_that_lost_its_data_gets_back_what_others_wrote() -> None:
    """From a replica that has it, though it is the only server."""
    (first, _) = two_servers()
    async with joined(first) as one:
        ids = {await one.write(str(number)) for number in range(5)}
        async with joined(first) as two:
            await two.until_ids(ids)
            await one.sync.disconnect()
            await two.sync.disconnect()
            first.journals.clear()
            first.incarnation = b"incarnation-2---"
            await two.sync.connect()
            await until_held(first, ids)


async def test_relaying_can_be_switched_off() -> None:
    """Each server gets what was written here, and nothing else."""
    first, second = two_servers()
    async with joined(first) as one, joined(first, second, relay=False) as both:
        theirs = await one.write("theirs")
        await both.until_ids({theirs})
        ours = await both.write("ours")
        await until_held(second, {ours})
        await both.sync.sync_now()

    assert (held(first), held(second)) == ({theirs, ours}, {ours})


@pytest.mark.parametrize("relay", [None, True])
async def test_a_stock_server_is_relayed_to_only_if_told_to(*, relay: bool | None) -> None:
    """What is written there comes to ours in any case."""
    first, stock = two_servers(is_stock=True)
    async with joined(first) as one, joined(stock) as other, joined(first, stock, relay=relay) as both:
        a, b = await one.write("at ours"), await other.write("at the stock one")
        await one.until_ids({b})
        await both.until_ids({a, b})
        await both.sync.sync_now()

        assert held(stock) == ({a, b} if relay else {b})
        assert not stock.failures


async def test_a_status_shows_each_server_and_what_is_to_be_relayed() -> None:
    """Also for one that is away."""
    first, second = two_servers()
    away = MemoryTransport(None, name="second")
    async with joined(first) as one, replica(reach(first), remotes=[away], relay=True) as both:
        await both.until(lambda sync: sync.status.remotes["memory://first"].is_connected)
        away.server = second.serve
        await both.until(lambda sync: sync.status.remotes["memory://second"].stores["chat_history"].pending == 0)
        away.server = None
        await second.drop()
        await both.until(lambda sync: not sync.status.is_connected)
        await both.until_ids({await one.write("theirs")})
        await both.write("ours")
        await both.until(lambda sync: sync.status.remotes["memory://first"].pending == 0)
        status = await both.sync.refresh()

        assert status.state is not SyncState.CONNECTED
        assert status.url == "memory://second"
        assert status.remotes["memory://first"].is_connected
        assert status.remotes["memory://second"].pending == 2
        assert status.pending == 2


async def test_a_server_that_is_away_does_not_keep_the_others_from_being_served() -> None:
    """``sync_now`` raises its error when the others are done, or tells it in the report."""
    first, second = two_servers()
    away = MemoryTransport(None, name="second")
    async with replica(reach(first), remotes=[away]) as both:
        written = await both.write("ours")
        with pytest.raises(ConnectError):
            await both.sync.sync_now()

        assert held(first) == {written}
        report = await both.sync.sync_now(return_errors=True)
        assert [type(remote.error) for remote in report.remotes] == [type(None), ConnectError]
        away.server = second.serve
        report = await both.sync.sync_now()
        assert [remote.error for remote in report.remotes] == [None, None]
        assert held(second) == {written}


async def test_one_exchange_is_enough_for_what_is_relayed() -> None:
    """What was at one server is at the other afterwards, and in the report."""
    first, second = two_servers()
    async with joined(first) as one:
        ids = {await one.write(str(number)) for number in range(3)}
        await one.until_pushed()
    async with joined(second, first, journal=MemoryJournal()) as both:
        await both.sync.sync_now()

        assert held(second) == ids
        assert sum(store.sent for store in both.sync.status.stores.values()) == 3


async def test_one_of_two_servers_can_be_left_and_connected_again() -> None:
    """The other stays connected; an unknown address is refused."""
    first, second = two_servers()
    async with joined(first, second) as both:
        await both.until(lambda sync: sync.status.is_connected)
        await both.sync.disconnect("memory://second")
        assert list(both.sync.status.remotes) == ["memory://first"]
        assert (len(first.peers), both.sync.status.is_connected) == (1, True)
        with pytest.raises(StateError, match="memory://first"):
            await both.sync.connect("memory://second")
        written = await both.write("meanwhile")
        await both.sync.connect_transport(reach(second))
        await until_held(second, {written})
        await both.sync.disconnect("memory://first")
        await both.sync.disconnect("memory://second")
        assert both.sync.status.state is SyncState.OFFLINE
        with pytest.raises(StateError, match="no server"):
            await both.sync.sync_now()


def test_two_servers_of_one_address_are_refused() -> None:
    from agentlayers.crypto.encryption import AesGcmEncryption
    from agentlayers.sync.service import SyncService

    with pytest.raises(SettingsError, match="different addresses"):
        SyncService(MemoryTransport(None), AesGcmEncryption(), remotes=[MemoryTransport(None)])


async def test_nothing_is_looked_for_in_vain_after_foreign_commits() -> None:
    """A replica of one server reads what is pending once for each own write, and never for what it received."""
    (first, _) = two_servers()
    async with joined(first) as one, joined(first) as other:
        await other.sync.sync_now()
        reads: list[Any] = []
        real = other.journal.uncommitted

        async def counted(*arguments: Any, **options: Any) -> Any:
            reads.append(arguments)
            return await real(*arguments, **options)

        other.journal.uncommitted = counted  # type: ignore[method-assign]
        await other.until_ids({await one.write(str(number)) for number in range(5)})
        received = len(reads)
        await other.write("own")
        await other.until_pushed()

        assert (received, len(reads)) == (0, 1)


async def test_an_older_entry_relayed_while_a_push_is_on_its_way_is_not_lost() -> None:
    """What is sent next goes by arrival here, not by the time in an id."""
    first, second = two_servers()
    async with joined(first) as one:
        await one.sync.disconnect()
        old = await one.write("old")
        await asyncio.sleep(0.002)
        async with joined(first, second) as both:
            await both.until_pushed()
            second.is_answering.clear()
            new = await both.write("new")
            await one.sync.connect()
            await both.until_ids({old})
            await asyncio.sleep(0.05)
            second.is_answering.set()
            await until_held(second, {old, new})

    assert old < new
    assert second.sent_ids == [new, old]


async def test_two_replicas_that_relay_to_a_stock_server_converge() -> None:
    """It breaks off at what it is sent twice; they connect anew, and stop."""
    first, stock = two_servers(is_stock=True)
    options: dict[str, Any] = {"relay": True}
    async with (
        joined(first) as one,
        joined(first, stock, **options) as left,
        joined(first, stock, **options) as right,
    ):
        ids = {await one.write(str(number)) for number in range(20)}
        ids |= {await left.write("left"), await right.write("right")}
        await until_held(stock, ids)
        for each in (left, right, left, right):
            await each.sync.sync_now()

        assert held(first) == held(stock) == ids
        assert [(await each.sync.refresh()).pending for each in (left, right)] == [0, 0]
