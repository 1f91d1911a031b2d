"""Replicas with durable journals and the real server, over real sockets on loopback."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agentlayers import limits
from agentlayers.errors import AuthenticationError, ConnectError, ErrorCode, StateError
from agentlayers.journal import SQLiteJournal
from agentlayers.server import (
    Authenticator,
    MemoryServerStorage,
    SQLiteServerStorage,
    SyncServer,
)
from agentlayers.sync.status import SyncState
from agentlayers.transport.tcp import TCPTransport
from agentlayers.transport.transport import Transport
from agentlayers.transport.websocket import WebSocketTransport
from helpers.sync_world import Replica, replica

TOKEN = "s3cr3t-t0ken"
Connect = Callable[..., Transport]


@contextlib.asynccontextmanager
async def serving(
    directory: Path | None = None,
    *,
    token: str | None = TOKEN,
    port: int = 0,
    tcp_port: int = 0,
) -> AsyncIterator[SyncServer]:
    """Run a server, durable if it has a directory."""
    storage = SQLiteServerStorage(directory) if directory else MemoryServerStorage()
    auth = Authenticator.single_token(token) if token else None
    async with storage, SyncServer(storage, auth=auth, port=port, tcp_port=tcp_port) as server:
        yield server


def websocket(server: SyncServer, token: str | None = TOKEN, tenant: str | None = None) -> Transport:
    """Reach a server over WebSocket."""
    return WebSocketTransport(server.websocket_url, token, tenant)


def tcp(server: SyncServer, token: str | None = TOKEN, tenant: str | None = None) -> Transport:
    """Reach a server over TCP."""
    assert server.tcp_url is not None
    return TCPTransport(server.tcp_url, token, tenant)


@pytest.fixture(params=[websocket, tcp], ids=["websocket", "tcp"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Each test runs over both transports."""
    made: Connect = request.param
    return made


async def test_two_replicas_converge_live_both_ways(connect: Connect, tmp_path: Path) -> None:
    """Single writes, a batch, and both at once; nothing is polled."""
    async with (
        serving(tmp_path / "server") as server,
        replica(connect(server), journal=SQLiteJournal(tmp_path / "one")) as one,
        replica(connect(server), journal=SQLiteJournal(tmp_path / "other")) as other,
    ):
        first = await one.write("from one")
        await other.until_ids({first})
        second = await other.write("from other")
        await one.until_ids({first, second})
        await asyncio.gather(one.write_many(700, size=300), other.write_many(700, size=300))
        everything = await one.ids() | await other.ids()
        await one.until_ids(everything)
        await other.until_ids(everything)
        await one.until_pushed()
        await other.until_pushed()

        assert len(everything) == 1402
        assert await one.ids() == await other.ids() == everything
        assert one.sync.status.stores["chat_history"].next_sequence == 1402
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_restarted_replica_resumes_and_sends_nothing_again(connect: Connect, tmp_path: Path) -> None:
    """Cursor and acknowledgements are in its journal."""
    async with serving() as server:
        async with replica(connect(server), journal=SQLiteJournal(tmp_path)) as one:
            await one.write_many(1000)
            first = await one.sync.sync_now()
        async with replica(connect(server), journal=SQLiteJournal(tmp_path)) as again:
            idle = await again.sync.sync_now()
            await again.write("one more")
            last = await again.sync.sync_now()

        assert first.sent == {"chat_history": 1000}
        assert (idle.sent, idle.received) == ({"chat_history": 0}, {"chat_history": 0})
        assert (last.sent, last.received) == ({"chat_history": 1}, {"chat_history": 0})


async def test_sync_now_reads_a_long_backlog_to_its_end(connect: Connect) -> None:
    """It returns when all the server had is in the journal, not before."""
    count = 3 * limits.CHANGES_BATCH_ENTRIES_MAX + 7
    async with serving() as server:
        async with replica(connect(server)) as one:
            await one.write_many(count)
            await one.sync.sync_now()
        async with replica(connect(server)) as late:
            report = await late.sync.sync_now()

            assert report.received == {"chat_history": count}
            assert len(await late.ids()) == count


async def test_a_restarted_server_is_found_again_and_all_converge(connect: Connect, tmp_path: Path) -> None:
    """Same port, same data; what was written meanwhile was never refused."""
    async with contextlib.AsyncExitStack() as stack:
        async with serving(tmp_path) as server:
            one = await stack.enter_async_context(replica(connect(server)))
            other = await stack.enter_async_context(replica(connect(server)))
            await other.until_ids({await one.write("before")})
        await one.until(lambda sync: sync.status.state is SyncState.WAITING)
        written = {await one.write("meanwhile, one"), await other.write("meanwhile, other")}

        async with serving(tmp_path, port=server.port, tcp_port=server.tcp_port or 0):
            await one.until_ids(written)
            await other.until_ids(written)
            await one.until_pushed()

            assert await one.ids() == await other.ids()
            assert one.sync.status.last_error is None


async def test_a_wrong_token_is_said_plainly_and_tried_again_slowly(connect: Connect) -> None:
    """Local writes go on; the token appears nowhere."""
    async with serving() as server, replica(connect(server, "wrong-t0ken")) as one:
        with pytest.raises(AuthenticationError) as caught:
            await one.sync.sync_now()
        await one.write("kept")
        await one.until(lambda sync: sync.status.state is SyncState.WAITING)
        status = one.sync.status

        assert status.last_error_code is ErrorCode.AUTHENTICATION
        assert status.last_error
        assert status.retry_in_seconds is not None
        assert status.retry_in_seconds >= 30
        assert "wrong-t0ken" not in f"{status!r}{caught.value}{one.sync!r}"
        assert len(await one.ids()) == 1


async def test_a_missing_token_is_refused(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TCP the server waits for one, so the client gives up waiting for Hello."""
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT_SECONDS", 0.2)
    async with serving() as server, replica(connect(server, None)) as one:
        with pytest.raises((AuthenticationError, ConnectError), match="token"):
            await one.sync.sync_now()


async def test_an_unreachable_server_is_a_connect_error(tmp_path: Path) -> None:
    """Nothing is lost, and it is found once it is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with replica(WebSocketTransport(f"ws://127.0.0.1:{port}", TOKEN)) as one:
        await one.write("kept")
        with pytest.raises(ConnectError, match="refused"):
            await one.sync.sync_now()
        async with serving(tmp_path, port=port):
            await one.until(lambda sync: sync.status.is_connected)
            report_free = await one.sync.sync_now()
            assert one.sync.status.stores["chat_history"].sent == 1
            assert report_free.received == {"chat_history": 0}


async def test_tenants_are_apart(connect: Connect) -> None:
    """The same identity in another tenant sees nothing."""
    async with (
        serving() as server,
        replica(connect(server, TOKEN, "team-a")) as one,
        replica(connect(server, TOKEN, "team-a")) as same,
        replica(connect(server, TOKEN, "team-b")) as other,
    ):
        written = await one.write("for team a")
        await same.until_ids({written})
        report = await other.sync.sync_now()

        assert report.received == {"chat_history": 0}


async def test_several_stores_share_one_connection_and_only_enabled_ones_travel(
    connect: Connect,
) -> None:
    """Selective sync against the real server."""
    names = ("audit_log", "chat_history", "artifacts")
    async with (
        serving() as server,
        replica(connect(server), names=names) as one,
        replica(connect(server), names=names) as other,
    ):
        shared = {name: await one.write(name, name) for name in ("audit_log", "chat_history")}
        await one.write("private", "artifacts")
        for name, entry_id in shared.items():
            await other.until_ids({entry_id}, name)
        await other.sync.sync_now()

        assert server.connection_count == 2
        assert not await other.ids("artifacts")


async def test_one_replica_may_use_tcp_and_the_other_websocket() -> None:
    """The transports are interchangeable."""
    async with (
        serving() as server,
        replica(websocket(server)) as one,
        replica(tcp(server)) as other,
    ):
        await other.until_ids({await one.write("over websocket")})
        await one.until_ids({await other.write("over tcp")})


async def test_connecting_by_hand_adds_a_server_and_one_can_be_left(connect: Connect) -> None:
    """``connect_websocket`` and ``connect_tcp`` leave the others alone; ``disconnect(url)`` closes one of them."""
    async with serving() as first, serving() as second, replica(connect(first)) as one:
        address = one.sync.url
        await one.write("for both")
        await one.sync.sync_now()
        await one.sync.connect_websocket(second.websocket_url, TOKEN)
        await one.sync.sync_now()
        counts = first.connection_count, second.connection_count
        await one.sync.disconnect(address)
        await one.sync.connect_tcp("127.0.0.1", second.tcp_port or 0, TOKEN)
        report = await one.sync.sync_now()
        async with replica(websocket(second)) as late:
            await late.sync.sync_now()

            assert await late.ids() == await one.ids()
        with pytest.raises(StateError, match="no server"):
            await one.sync.disconnect(address)

        assert counts == (1, 1)
        assert report.sent == {"chat_history": 0}
        assert len(report.remotes) == 2
        assert (first.connection_count, address in one.sync.status.remotes) == (0, False)


async def test_a_long_entry_is_cut_and_put_together_again(connect: Connect) -> None:
    """Longer than one frame of the wire."""

    async def size_of_all(found: Replica) -> int:
        return sum(len(e.entry.payload) for e in await found.journal.entries("chat_history"))

    async with (
        serving() as server,
        replica(connect(server)) as one,
        replica(connect(server)) as other,
    ):
        written = await one.write("x" * 3_000_000)
        await other.until_ids({written})

        assert await size_of_all(one) == await size_of_all(other) > 3_000_000


def sockets() -> set[str]:
    """Return the sockets of this process, which the server's ends are in too."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(one.readlink()))
    return {one for one in found if one.startswith("socket:")}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open sockets there")
async def test_disconnect_leaves_no_task_and_no_socket(connect: Connect) -> None:
    """The journal is all that goes on: what is written then stays here until it connects again."""
    async with serving() as server:
        tasks, open_before = asyncio.all_tasks(), sockets()
        async with replica(connect(server)) as one:
            await one.sync.sync_now()

            assert len(sockets() - open_before) == 2
            assert server.connection_count == 1

            await one.sync.disconnect()
            async with asyncio.timeout(5):
                while server.connection_count or asyncio.all_tasks() != tasks:  # noqa: ASYNC110 - its end of it
                    await asyncio.sleep(0.01)
            await one.write("not sent")
            await asyncio.sleep(0.05)

            assert asyncio.all_tasks() == tasks
            assert sockets() == open_before
            assert server.connection_count == 0
            assert (await one.sync.refresh()).pending == 1
            assert one.sync.status.state is SyncState.STOPPED
