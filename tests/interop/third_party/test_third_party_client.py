"""A client written from the protocol page alone, with our server and beside a replica of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentlayers.eventlog.identity import Identity
from agentlayers.server import Authenticator, MemoryServerStorage, SyncServer
from interop.stock_peers import STORE, notes_of, our_replica
from interop.third_party.client import UNDERSTOOD, EndedError, Followed, connect
from interop.third_party.wire import Entry, StoreKeys, new_ids

IDS = new_ids()


@pytest.fixture
def identity() -> Identity:
    """What the two peers share."""
    return Identity.generate()


@pytest.fixture
def keys(identity: Identity) -> StoreKeys:
    """The third party's keys for the notes: as ``our_replica`` takes them, the identity's own."""
    return StoreKeys.of(identity.encode_string())


@pytest.fixture
async def server() -> AsyncIterator[SyncServer]:
    """Our server."""
    async with MemoryServerStorage() as storage, SyncServer(storage, port=0, tcp_port=0) as running:
        yield running


@pytest.fixture(params=["websocket", "tcp"])
def url(request: pytest.FixtureRequest, server: SyncServer) -> str:
    """Where a third party reaches our server."""
    if request.param == "tcp":
        return f"tcp://127.0.0.1:{server.tcp_port}"
    return server.websocket_url.removesuffix("/event-log")


def notes(count: int, size: int = 0) -> list[Entry]:
    """Make entries."""
    return [Entry(next(IDS), "note", f"note {at}", {"text": "x" * size, "at": at}) for at in range(count)]


async def test_five_hundred_entries_reach_our_replica_and_come_back(
    url: str, identity: Identity, keys: StoreKeys
) -> None:
    sent = notes(500)
    followed = Followed(keys)

    async with our_replica(url, identity) as ours, connect(url) as theirs:
        await theirs.follow(followed)
        await theirs.write(keys, sent)
        await ours.write_many(500, STORE)
        await ours.until_ids({entry.id for entry in sent}, STORE)
        await theirs.until(lambda: len(followed.entries) == 1000)
        held = await notes_of(ours)

    assert {one.id.hex(): (one.event, one.primary_key, one.payload) for one in followed.entries.values()} == held
    assert len(held) == 1000
    assert not followed.unopened


async def test_an_entry_longer_than_a_chunk_goes_both_ways(url: str, identity: Identity, keys: StoreKeys) -> None:
    sent = notes(2, size=700_000)
    followed = Followed(keys)

    async with our_replica(url, identity) as ours, connect(url) as theirs:
        await theirs.follow(followed)
        await theirs.write(keys, sent)
        await ours.until_ids({entry.id for entry in sent}, STORE)
        await ours.write_many(2, STORE, size=1_300_000)
        await theirs.until(lambda: len(followed.entries) == 4)
        held = await notes_of(ours)

    assert sorted(len(payload["text"]) for _, _, payload in held.values()) == [700_000, 700_000, 1_300_000, 1_300_000]
    assert followed.entries.keys() == {bytes.fromhex(entry_id) for entry_id in held}


async def test_a_client_that_comes_back_is_sent_only_what_is_new(url: str, identity: Identity, keys: StoreKeys) -> None:
    followed = Followed(keys)
    async with our_replica(url, identity) as ours:
        async with connect(url) as theirs:
            await theirs.follow(followed)
            await theirs.write(keys, notes(20))
            await ours.write_many(30, STORE)
            await theirs.until(lambda: followed.cursor == 50)
        before = followed.changes
        missed = await ours.write("written while it was away", STORE)

        async with connect(url) as theirs:
            await theirs.follow(followed)
            await theirs.until(lambda: missed in followed.entries)

    assert followed.changes == before + 1
    assert len(followed.entries) == followed.cursor == 51


@pytest.mark.parametrize("without", sorted(UNDERSTOOD))
async def test_a_client_may_leave_out_any_capability(
    url: str, identity: Identity, keys: StoreKeys, without: str
) -> None:
    sent = notes(60)
    followed = Followed(keys)

    async with our_replica(url, identity) as ours, connect(url, understood=UNDERSTOOD - {without}) as theirs:
        await theirs.follow(followed)
        await theirs.write(keys, sent)
        await ours.write_many(60, STORE)
        await theirs.until(lambda: len(followed.entries) == 120)

        assert without not in theirs.capabilities
        assert len(await ours.ids(STORE)) == 120


async def test_a_client_that_knows_nothing_of_ours_sees_a_stock_server(
    server: SyncServer, identity: Identity, keys: StoreKeys
) -> None:
    sent = notes(60)
    followed = Followed(keys)
    url = server.websocket_url.removesuffix("/event-log")

    async with our_replica(url, identity) as ours, connect(url, understood=()) as theirs:
        await theirs.follow(followed)
        await theirs.write(keys, sent)
        await ours.write_many(60, STORE)
        await theirs.until(lambda: len(followed.entries) == 120)
        await ours.until_ids({entry.id for entry in sent}, STORE)


async def test_digests_agree_below_every_cursor(url: str, identity: Identity, keys: StoreKeys) -> None:
    followed = Followed(keys)

    async with our_replica(url, identity) as ours, connect(url) as theirs:
        await theirs.follow(followed)
        await theirs.write(keys, notes(7))
        await ours.write_many(5, STORE)
        await theirs.until(lambda: followed.cursor == 12)
        compared = await theirs.ping(compare=True)

        assert compared == {keys.public_key: [12, followed.digest]}
        assert await theirs.ping() == {}

        followed.cursor = 13
        assert await theirs.ping(compare=True) == {keys.public_key: [12]}


async def test_a_duplicate_is_acknowledged_with_its_first_sequence(url: str, keys: StoreKeys) -> None:
    first = notes(3)

    async with connect(url) as theirs:
        once = await theirs.write(keys, first)
        again = await theirs.write(keys, [first[2], *notes(1), first[0]])
        nothing = await theirs.write(keys, [])

    assert (once, again, nothing) == ([0, 1, 2], [2, 3, 0], [])


async def test_a_key_that_is_not_followed_is_not_sent(url: str, keys: StoreKeys) -> None:
    followed = Followed(keys)

    async with connect(url) as reader, connect(url) as writer:
        await reader.follow(followed)
        await writer.write(keys, notes(1))
        await reader.until(lambda: len(followed.entries) == 1)
        await reader.stop(followed)
        await reader.ping()
        await writer.write(keys, notes(1))
        await reader.ping()

    assert len(followed.entries) == 1


async def test_more_than_the_credit_arrives_because_it_is_renewed(url: str, keys: StoreKeys) -> None:
    followed = Followed(keys)
    async with connect(url) as writer:
        await writer.write(keys, notes(40, size=100_000))

    async with connect(url) as reader:
        await reader.follow(followed)
        await reader.until(lambda: len(followed.entries) == 40)

    assert followed.changes > 4


async def test_entries_are_fetched_by_id_without_following(url: str, identity: Identity, keys: StoreKeys) -> None:
    async with our_replica(url, identity) as ours:
        await ours.write_many(150, STORE)
        await ours.sync.sync_now()
        ids = sorted(await ours.ids(STORE))

    async with connect(url) as theirs:
        found = await theirs.fetch(keys, [next(IDS), *ids, next(IDS)])

    assert [entry.id for entry in found] == ids


async def test_writes_wait_for_the_write_window(url: str, keys: StoreKeys) -> None:
    async with connect(url) as theirs:
        messages, size = theirs.hello["agentlayers"]["writeWindow"]
        await theirs.follow(Followed(keys))
        await asyncio.gather(*(theirs.write(keys, [entry]) for entry in notes(int(messages) * 3)))

        assert (messages, size) == (64, 16 * 2**20)


@pytest.fixture
async def guarded() -> AsyncIterator[SyncServer]:
    """Our server with a token for each of two tenants."""
    tokens = {"default": "open-sesame", "team-a": "team-as"}
    async with (
        MemoryServerStorage() as storage,
        SyncServer(storage, port=0, tcp_port=0, auth=Authenticator(tokens)) as one,
    ):
        yield one


@pytest.mark.parametrize(("scheme", "reason"), [("ws", "HTTP 401"), ("tcp", "authentication")])
@pytest.mark.parametrize(("tenant", "token"), [("", "wrong"), ("team-a", "open-sesame"), ("nobody", "open-sesame")])
async def test_a_wrong_token_is_refused_and_the_client_learns_why(
    guarded: SyncServer, scheme: str, reason: str, tenant: str, token: str
) -> None:
    port = guarded.port if scheme == "ws" else guarded.tcp_port

    with pytest.raises(EndedError, match=reason):
        async with connect(f"{scheme}://127.0.0.1:{port}", tenant=tenant, token=token):
            pass


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
async def test_tenants_have_journals_of_their_own(guarded: SyncServer, keys: StoreKeys, scheme: str) -> None:
    port = guarded.port if scheme == "ws" else guarded.tcp_port
    url = f"{scheme}://127.0.0.1:{port}"

    async with (
        connect(url, token="open-sesame") as theirs,
        connect(url, tenant="team-a", token="team-as") as others,
    ):
        first = await theirs.write(keys, notes(1))
        second = await others.write(keys, notes(1))

    assert first == second == [0]


async def test_a_tcp_client_names_a_tenant_of_an_open_server(server: SyncServer, keys: StoreKeys) -> None:
    async with connect(f"tcp://127.0.0.1:{server.tcp_port}", tenant="elsewhere") as theirs:
        assert theirs.hello["agentlayers"]["tenant"] == "elsewhere"
        assert await theirs.write(keys, notes(1)) == [0]
