"""Replicas of ours with a server written from the protocol page alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from agentlayers import limits
from agentlayers.errors import AuthenticationError
from agentlayers.eventlog.identity import Identity
from agentlayers.transport import TCPTransport, WebSocketTransport
from helpers.sync_world import replica
from interop.stock_peers import STORE, our_replica
from interop.third_party.server import EVERYTHING, Server


@pytest.fixture
def identity() -> Identity:
    """What the replicas share."""
    return Identity.generate()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """The third party's server with all capabilities."""
    async with Server().run() as running:
        yield running


@pytest.fixture(params=["websocket", "tcp"])
def url(request: pytest.FixtureRequest, server: Server) -> str:
    """Where our replicas reach it."""
    return server.url if request.param == "websocket" else server.tcp_url


async def test_two_replicas_exchange_five_hundred_entries_each(server: Server, url: str, identity: Identity) -> None:
    async with our_replica(url, identity) as one, our_replica(url, identity) as other:
        await one.write_many(500, STORE)
        await other.write_many(500, STORE)
        await one.until_pushed(STORE)
        await other.until_pushed(STORE)
        both = await one.ids(STORE) | await other.ids(STORE)
        await one.until_ids(both, STORE)
        await other.until_ids(both, STORE)

    assert len(both) == 1000
    assert not server.failures


async def test_an_entry_longer_than_a_chunk_arrives(server: Server, url: str, identity: Identity) -> None:
    async with our_replica(url, identity) as one, our_replica(url, identity) as other:
        await one.write_many(2, STORE, size=1_300_000)
        await other.until_ids(await one.ids(STORE), STORE)

    assert not server.failures


async def test_a_replica_that_comes_back_resumes(server: Server, url: str, identity: Identity) -> None:
    async with our_replica(url, identity) as one, our_replica(url, identity) as other:
        await one.write_many(20, STORE)
        await other.until_ids(await one.ids(STORE), STORE)
        for connection in list(server.connections):
            await connection.drop()
        await one.write_many(20, STORE)
        await other.write_many(20, STORE)
        await one.until_pushed(STORE)
        await other.until_pushed(STORE)
        both = await one.ids(STORE) | await other.ids(STORE)
        await one.until_ids(both, STORE)
        await other.until_ids(both, STORE)

    assert len(both) == 60
    assert sum(len(journal.entries) for journal in server.journals.values()) == 60
    assert not server.failures


async def test_a_server_that_lost_its_data_gets_it_back(server: Server, url: str, identity: Identity) -> None:
    async with our_replica(url, identity) as one:
        await one.write_many(20, STORE)
        await one.until_pushed(STORE)
        server.journals.clear()
        server.incarnation = bytes(16)
        for connection in list(server.connections):
            await connection.drop()
        await one.write("and one more", STORE)
        await one.until(
            lambda sync: len(next(iter(server.journals.values())).entries) == 21 if server.journals else False
        )

    assert not server.failures


async def exchange(capabilities: Sequence[str], identity: Identity, scheme: str) -> Server:
    """Let two replicas exchange entries through a server with some capabilities."""
    async with Server(capabilities).run() as server:
        url = server.url if scheme == "ws" else server.tcp_url
        async with our_replica(url, identity) as one, our_replica(url, identity) as other:
            await one.write_many(60, STORE)
            await other.until_ids(await one.ids(STORE), STORE)
            await other.write_many(60, STORE)
            await one.until_ids(await other.ids(STORE), STORE)
            await one.until_pushed(STORE)
            await other.until_pushed(STORE)
            assert len(await one.ids(STORE)) == 120
        return server


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
@pytest.mark.parametrize("without", EVERYTHING)
async def test_a_server_may_leave_out_any_capability(identity: Identity, without: str, scheme: str) -> None:
    server = await exchange([one for one in EVERYTHING if one != without], identity, scheme)

    assert not server.failures


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
async def test_a_server_without_any_of_ours_is_a_stock_server(identity: Identity, scheme: str) -> None:
    server = await exchange((), identity, scheme)

    assert not server.failures
    assert server.received["WriteEntries"] >= 120
    assert server.received["Credit"] == 0


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
async def test_sync_now_knows_when_it_has_everything(server: Server, identity: Identity, scheme: str) -> None:
    url = server.url if scheme == "ws" else server.tcp_url
    async with our_replica(url, identity) as one:
        await one.write_many(50, STORE)
        sent = (await one.sync.sync_now()).sent[STORE]
    async with our_replica(url, identity) as other:
        received = (await other.sync.sync_now()).received[STORE]

    assert (sent, received) == (50, 50)


async def test_sync_now_ends_no_earlier_than_a_backlog_beyond_the_credit(server: Server, identity: Identity) -> None:
    async with our_replica(server.url, identity) as one:
        await one.write_many(60, STORE, size=200_000)
        await one.sync.sync_now()
    async with our_replica(server.url, identity) as other:
        received = (await other.sync.sync_now()).received[STORE]

    assert received == 60


@pytest.mark.parametrize("without", [(), *((one,) for one in EVERYTHING)], ids=str)
async def test_a_replica_resumes_where_it_was(identity: Identity, without: tuple[str, ...]) -> None:
    capabilities = [one for one in EVERYTHING if one not in without]
    async with Server(capabilities).run() as server, our_replica(server.url, identity) as one:
        await one.write_many(20, STORE)
        await one.sync.sync_now()
        async with our_replica(server.url, identity) as other:
            await other.sync.sync_now()
            await other.write_many(5, STORE)
            await other.sync.sync_now()
            for connection in list(server.connections):
                await connection.drop()
            await other.sync.sync_now()

        assert server.requested[-1] == 25


async def test_heartbeats_compare_digests(
    server: Server, url: str, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.02)
    async with our_replica(url, identity) as one:
        await one.write_many(5, STORE)
        await one.until_pushed(STORE)
        journal = next(iter(server.journals.values()))
        await one.until(lambda sync: server.received["Ping"] > 1)
        lost = journal.entries.pop()
        del journal.sequences[lost["entryId"]]
        await one.until(lambda sync: len(journal.entries) == 5)

    assert lost["entryId"] in journal.sequences
    assert not server.failures


async def test_writes_keep_to_the_window_that_the_server_announces(identity: Identity) -> None:
    async with Server(write_window=[1, 1000]).run() as server, our_replica(server.url, identity) as one:
        await one.write_many(300, STORE, size=100)
        await one.until_pushed(STORE)

        assert server.received["WriteEntries"] > 1
        assert not server.failures


def transport_to(server: Server, scheme: str, token: str) -> WebSocketTransport | TCPTransport:
    """Return our transport with a token."""
    if scheme == "tcp":
        return TCPTransport(server.tcp_url, tenant="team-a", token=token)
    return WebSocketTransport(f"{server.url}/event-log/team-a", token=token)


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
async def test_a_token_opens_a_tenant_and_a_wrong_one_does_not(scheme: str) -> None:
    async with Server(tokens={"team-a": "open-sesame"}).run() as server:
        async with replica(transport_to(server, scheme, "open-sesame")) as one:
            await one.write("let in")
            await one.until_pushed()
        async with replica(transport_to(server, scheme, "wrong")) as one:
            with pytest.raises(AuthenticationError):
                await one.sync.sync_now()

    assert {tenant for tenant, _ in server.journals} == {"team-a"}
