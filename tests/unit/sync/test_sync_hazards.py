"""What asyncio lets go wrong in a sync service: two things at once, and cancellation in the middle of one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agentlayers import limits
from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.errors import AgentLayersError, ConnectError, StateError, StorageUnavailableError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal import MemoryJournal
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.server import MemoryServer
from agentlayers.server.close import CloseReason
from agentlayers.sync.service import SyncService
from agentlayers.sync.status import SyncReport, SyncState
from agentlayers.transport.memory import MemoryTransport
from helpers.sync_world import IDENTITY, Replica, SmallServer, replica

CHAT = "chat_history"


class Second(MemoryTransport):
    """A way to another server."""

    @property
    def url(self) -> str:
        return "memory://second"


def no_other_task() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner on a server that will never answer."""
    monkeypatch.setattr(limits, "FLUSH_ON_CLOSE_SECONDS", 0.3)
    monkeypatch.setattr("agentlayers.transport.memory._CLOSE_SECONDS", 0.1)


class SlowAcks:
    """Holds up the transactions that take Acks over."""

    def __init__(self, one: Replica) -> None:
        self.waiting, self.gate = asyncio.Event(), asyncio.Event()
        self._real = one.journal.transact
        one.journal.transact = self._transact  # type: ignore[method-assign]

    async def _transact(self, work: Callable[[Any], Any]) -> Any:
        task = asyncio.current_task()
        if task is not None and task.get_name().startswith("commit "):
            self.waiting.set()
            await self.gate.wait()
        return await self._real(work)


async def one_acknowledged_and_one_not(server: SmallServer, one: Replica) -> SlowAcks:
    """Have an Ack on its way into the journal while an entry behind it has none yet."""
    await one.until_pushed()
    slow = SlowAcks(one)
    await one.write("acknowledged")
    await slow.waiting.wait()
    server.acks_answered = False
    await one.write("not acknowledged")
    async with asyncio.timeout(5):
        await server.heard.until(lambda: len(server.sent_ids) == 2)
    await asyncio.sleep(0.01)
    return slow


async def test_what_is_not_acknowledged_counts_as_pending_while_an_earlier_ack_is_being_noted() -> None:
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        slow = await one_acknowledged_and_one_not(server, one)
        slow.gate.set()
        await one.until(lambda sync: sync.status.stores[CHAT].sent == 1)
        while_connected = one.sync.status.pending
        await one.sync.disconnect()

        assert while_connected == 1
        assert (await one.sync.refresh()).pending == 1


async def test_an_ack_that_was_noted_while_the_connection_ended_no_longer_counts_as_pending() -> None:
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        real, is_noted = one.journal.transact, asyncio.Event()

        async def transact(work: Callable[[Any], Any]) -> Any:
            """Commit, and let whoever waits for it be cancelled before it hears of it."""
            result = await real(work)
            task = asyncio.current_task()
            if task is not None and task.get_name().startswith("commit "):
                is_noted.set()
                await asyncio.Event().wait()
            return result

        one.journal.transact = transact  # type: ignore[method-assign]
        await one.write("acknowledged")
        await is_noted.wait()
        await one.sync.disconnect()

        assert (await one.sync.refresh()).pending == 0


async def test_an_exchange_ends_at_once_when_the_service_is_disconnected() -> None:
    server = SmallServer()
    server.acks_answered = False
    async with replica(MemoryTransport(server.serve)) as one:
        await one.write("never acknowledged")
        exchange = asyncio.create_task(one.sync.sync_now(30))
        await server.heard.until(lambda: bool(server.writes))
        await one.sync.disconnect()
        async with asyncio.timeout(2):
            with pytest.raises(StateError, match="disconnected"):
                await exchange


@contextlib.asynccontextmanager
async def half_exchanged(
    seconds: float,
) -> AsyncIterator[tuple[Replica, asyncio.Task[SyncReport], SmallServer, SmallServer]]:
    """A replica, its exchange with two servers, and these: only the first one answers."""
    quick, slow = SmallServer(), SmallServer(remote_id=b"another-remote-i")
    async with replica(MemoryTransport(quick.serve), remotes=[Second(slow.serve)]) as one:
        await one.until(lambda sync: all(each.is_connected for each in sync.status.remotes.values()))
        slow.acks_answered = False
        await one.write("acknowledged by one of them")
        exchange = asyncio.create_task(one.sync.sync_now(seconds))
        await slow.heard.until(lambda: bool(slow.writes))
        yield one, exchange, quick, slow


async def test_an_exchange_with_two_servers_does_not_connect_again_behind_a_disconnect() -> None:
    """The second of its two rounds must not open what was closed during the first."""
    async with half_exchanged(0.3) as (one, exchange, quick, slow):
        await asyncio.sleep(0.05)
        await one.sync.disconnect()
        with pytest.raises(AgentLayersError):
            await exchange
        await asyncio.sleep(0.05)

        assert one.sync.status.state is SyncState.STOPPED
        assert not quick.peers
        assert not slow.peers


async def test_a_server_that_is_left_during_an_exchange_is_not_connected_again() -> None:
    async with half_exchanged(2) as (one, exchange, quick, slow):
        await one.sync.disconnect("memory://")
        slow.acks_answered = True
        await slow.drop()
        with contextlib.suppress(AgentLayersError):
            await exchange
        await asyncio.sleep(0.02)

        assert not quick.peers
    assert no_other_task()


async def test_a_disconnect_that_is_cancelled_still_ends_every_connection() -> None:
    servers = [SmallServer(remote_id=bytes([number]) * 16) for number in range(2)]
    async with replica(MemoryTransport(servers[0].serve), remotes=[Second(servers[1].serve)]) as one:
        await one.until(lambda sync: all(each.is_connected for each in sync.status.remotes.values()))
        closing = asyncio.create_task(one.sync.disconnect())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        await asyncio.sleep(0.05)

        assert [each.state for each in one.sync.status.remotes.values()] == [SyncState.STOPPED] * 2
        assert not any(server.peers for server in servers)


async def test_a_store_may_be_taken_back_twice_at_once() -> None:
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        await asyncio.gather(one.unregister[CHAT](), one.unregister[CHAT]())

        assert CHAT not in one.sync.status.stores


async def registered_again(one: Replica) -> Awaitable[None]:
    """Give the store back to the service while it is still being taken from it."""
    leaving = asyncio.ensure_future(one.unregister[CHAT]())
    while CHAT in one.sync._logs:  # noqa: ASYNC110 - to go on at the very moment
        await asyncio.sleep(0)
    one.unregister[CHAT] = one.sync.register(one.logs[CHAT])
    return leaving


async def test_a_store_that_comes_back_while_it_is_leaving_is_synced_with_every_server() -> None:
    first, second = SmallServer(), SmallServer(remote_id=b"another-remote-i")
    async with replica(MemoryTransport(first.serve), remotes=[Second(second.serve)]) as one:
        await one.until_pushed()
        await (await registered_again(one))
        written = await one.write("to both")
        async with asyncio.timeout(5):
            await first.heard.until(lambda: written in first.sent_ids)
            await second.heard.until(lambda: written in second.sent_ids)


async def test_a_store_that_comes_back_while_it_is_leaving_is_followed() -> None:
    """The request of the new one comes behind the good-bye of the old one."""
    async with MemoryServer() as server, replica(server.transport()) as one, replica(server.transport()) as other:
        await one.until_pushed()
        await (await registered_again(one))
        await asyncio.sleep(0.02)
        written = await other.write("for the one that came back")
        await one.until_ids({written})


class FailingJournal(MemoryJournal):
    """Takes nothing from a server any more, as a disk that is full or read-only."""

    fails = False

    async def transact(self, work: Any, **options: Any) -> Any:
        if self.fails:
            raise StorageUnavailableError(backend="test", operation="append", reason="no space left on device")
        return await super().transact(work, **options)


async def test_a_store_whose_journal_fails_does_not_keep_the_others_from_being_synced() -> None:
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one, FailingJournal() as full:
        log = EventLog(full, IDENTITY, StoreSchema(name="audit_log"))
        await log.open()
        full.fails = True
        unregister = one.sync.register(log)
        await one.until(lambda sync: sync.status.stores["audit_log"].last_error is not None)
        written = await one.write("not its fault")
        await one.until_pushed()
        since = one.sync.status.since

        assert written in server.sent_ids
        assert "no space left" in str(one.sync.status.stores["audit_log"].last_error)

        full.fails = False
        in_full = await log.write("event", "key", {"text": "there is room again"})
        async with asyncio.timeout(5):
            await server.heard.until(lambda: in_full.id in server.sent_ids)
        await one.until(lambda sync: sync.status.stores["audit_log"].last_error is None)

        assert one.sync.status.since == since
        await unregister()


async def test_asking_for_entries_in_vain_does_not_use_up_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that gave up leaves its question with the server; the next one waits for its turn."""
    server = MemoryServer()
    async with server, replica(server.transport(), stores={"artifacts": True}, names=("artifacts",)) as one:
        await one.until_pushed("artifacts")
        real, gate = server._hub.find, asyncio.Event()  # type: ignore[union-attr]

        async def slow(*arguments: Any, **options: Any) -> Any:
            await gate.wait()
            return await real(*arguments, **options)

        monkeypatch.setattr(server._hub, "find", slow)
        for _ in range(limits.FETCHES_IN_FLIGHT_MAX):
            with pytest.raises(AgentLayersError, match="not fetched"):
                await one.sync.fetch("artifacts", [bytes(16)], timeout_seconds=0.01)
        last = asyncio.create_task(one.sync.fetch("artifacts", [bytes(16)], timeout_seconds=2))
        await asyncio.sleep(0.01)
        gate.set()

        assert await last == [bytes(16)]


async def test_one_server_connected_to_twice_at_once_gets_one_connection() -> None:
    """With other credentials, as two parts of an application may."""
    server, other = SmallServer(), SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        again = [MemoryTransport(server.serve), MemoryTransport(other.serve)]
        await asyncio.gather(*(one.sync.connect_transport(transport) for transport in again))
        await asyncio.sleep(0.02)

        assert len(server.peers) + len(other.peers) == 1
    assert no_other_task()


async def test_closing_waits_for_all_stores_together(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SmallServer()
    server.acks_answered = False
    monkeypatch.setattr(limits, "FLUSH_ON_CLOSE_SECONDS", 0.7)
    stores = {CHAT: True, "audit_log": True, "s": True}
    sync = SyncService(MemoryTransport(server.serve), AesGcmEncryption(), stores=stores)
    async with MemoryJournal() as journal:
        async with sync:
            for name in (CHAT, "audit_log", "s"):
                log = EventLog(journal, IDENTITY, StoreSchema(name=name))
                await log.open()
                sync.register(log)
                await log.write("event", "key", {})
            async with asyncio.timeout(5):
                await server.heard.until(lambda: len(server.writes) == 3)
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < 1.9


async def test_an_attempt_that_fails_while_it_is_waited_for_is_told_and_not_waited_for_again() -> None:
    async def refuse(connection: Any) -> None:
        raise ConnectError(url="memory://", reason="nobody there")

    async with replica(MemoryTransport(refuse)) as one:
        outcomes = await asyncio.gather(one.sync.sync_now(5), one.sync.sync_now(5), return_exceptions=True)

        assert all(isinstance(outcome, AgentLayersError) for outcome in outcomes)


async def test_a_server_that_goes_while_a_credit_is_used_up_sends_the_rest_when_it_is_back() -> None:
    """The account ends with its connection; what the journal did not take over is sent again."""
    async with MemoryServer() as server, replica(server.transport()) as other:
        await other.write_many(60, size=256 * 1024)
        await other.sync.sync_now()
        async with replica(server.transport()) as one:
            slow = SlowAcks(one)
            await slow.waiting.wait()
            await asyncio.sleep(0.2)
            assert server._hub is not None
            (channel,) = server._hub._channels.values()
            assert any(not found.is_live and not found.lags for found in channel.subscriptions.values())
            for connection in list(server._connections):
                connection.end(CloseReason.GOING_AWAY)
            await asyncio.sleep(0.02)
            slow.gate.set()
            await one.until_ids(await other.ids())
            await one.sync.sync_now()

            assert one.sync.status.behind == 0
            assert len(await one.ids()) == 60


async def test_an_exchange_says_at_once_that_a_journal_fails() -> None:
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one, FailingJournal() as full:
        log = EventLog(full, IDENTITY, StoreSchema(name="audit_log"))
        await log.open()
        full.fails = True
        unregister = one.sync.register(log)
        await one.until(lambda sync: sync.status.stores["audit_log"].last_error is not None)
        for _ in range(3):
            async with asyncio.timeout(2):
                with pytest.raises(StorageUnavailableError):
                    await one.sync.sync_now()
        full.fails = False
        await one.sync.sync_now()
        await unregister()
