"""The sync service over an in-memory transport, with the real sessions at both ends."""

import asyncio
import contextlib
from typing import Any

import pytest

from agentlayers import limits
from agentlayers.crypto.encryption import AesGcmEncryption
from agentlayers.errors import ConnectError, ErrorCode, StateError, TransportError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.eventlog.identity import Identity
from agentlayers.journal.entry import StoredEntry
from agentlayers.journal.event_journal import StoreSchema
from agentlayers.protocol.entry_codec import encode_entry
from agentlayers.protocol.messages import EncryptedEntry
from agentlayers.protocol.payload import encode_payload
from agentlayers.schedule import fixed
from agentlayers.sync.replication import Replication
from agentlayers.sync.service import SyncService
from agentlayers.sync.status import SyncState
from agentlayers.transport.memory import MemoryConnection, MemoryTransport
from agentlayers.transport.offline import OfflineTransport
from helpers.sync_world import IDENTITY, SmallServer, replica

CHAT = IDENTITY.for_store("chat_history")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sooner on a server that will never answer."""
    monkeypatch.setattr(limits, "FLUSH_ON_CLOSE_SECONDS", 0.3)
    monkeypatch.setattr("agentlayers.transport.memory._CLOSE_SECONDS", 0.1)


def sealed(entry_id: bytes, *, inner_id: bytes | None = None, key: bytes = CHAT.private_key) -> EncryptedEntry:
    """Seal an entry the way a peer would."""
    plaintext = encode_entry(inner_id or entry_id, "event", "key", encode_payload({"text": "x"}))
    return EncryptedEntry(entry_id, *AesGcmEncryption().seal(key, plaintext))


def uuid7(number: int) -> bytes:
    """Make a valid id."""
    return (1_700_000_000_000 + number).to_bytes(6) + b"\x70\x00\x80" + bytes(7)


async def test_two_replicas_converge_both_ways_and_leave_no_task() -> None:
    """What one writes the other gets, woken by events and not by time."""
    server = SmallServer()
    async with (
        replica(MemoryTransport(server.serve)) as one,
        replica(MemoryTransport(server.serve)) as other,
    ):
        first = await one.write("from one")
        await other.until_ids({first})
        second = await other.write("from other")
        await one.until_ids({first, second})
        await one.until_pushed()
        await other.until_pushed()

    assert server.sent_ids == [first, second]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_backlog_goes_in_bounded_batches_with_a_nonce_for_each_entry() -> None:
    """Never more than the window is on its way."""
    server = SmallServer()
    transport = MemoryTransport(None)
    async with replica(transport) as one:
        await one.write_many(5 * limits.PUSH_BATCH_ENTRIES_MAX)
        server.acks_answered = False
        transport.server = server.serve
        await one.until(lambda sync: sync.status.is_connected)
        await server.heard.until(lambda: len(server.writes) >= 5)

        assert max(len(entries) for _, entries in server.writes) <= limits.PUSH_BATCH_ENTRIES_MAX
        nonces = [entry.iv for _, entries in server.writes for entry in entries]
        assert len(set(nonces)) == len(nonces) == 5 * limits.PUSH_BATCH_ENTRIES_MAX


async def test_an_unacknowledged_window_bounds_what_is_under_way() -> None:
    """A server that never acknowledges gets no more than the window."""
    server = SmallServer()
    server.acks_answered = False
    async with replica(MemoryTransport(server.serve)) as one:
        for number in range(limits.PUSH_WINDOW_MESSAGES + 5):
            await one.write(str(number))
            await asyncio.sleep(0.005)

        assert len(server.writes) == limits.PUSH_WINDOW_MESSAGES
        assert (await one.sync.refresh()).stores["chat_history"].pending


async def test_after_a_reconnect_nothing_acknowledged_is_sent_again() -> None:
    """Reading goes on at the cursor, too."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        first = await one.write("first")
        await one.until_pushed()
        await server.drop()
        second = await one.write("second")
        await one.until(lambda sync: sync.status.stores["chat_history"].sent == 2)

    assert server.sent_ids == [first, second]
    assert [start for _, start in server.requests] == [0, 1]


async def test_a_write_while_the_backlog_is_read_is_not_left_behind() -> None:
    """Listening starts before reading, so no commit falls in between (fault W9)."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.sync.disconnect()
        real = one.journal.uncommitted
        between: list[bytes] = []

        async def racing(*arguments: Any, **options: Any) -> list[StoredEntry]:
            batch = await real(*arguments, **options)
            if not between:
                between.append(await one.write("in between"))
            return batch

        one.journal.uncommitted = racing  # type: ignore[method-assign]
        await one.sync.connect()
        async with asyncio.timeout(5):
            await server.heard.until(lambda: bool(server.writes))

    assert server.sent_ids == between


async def test_a_lost_ack_is_settled_by_sending_once_more_and_applied_once() -> None:
    """Our server recognises the duplicate and acknowledges it with its first sequence."""
    server = SmallServer()
    async with (
        replica(MemoryTransport(server.serve)) as one,
        replica(MemoryTransport(server.serve)) as other,
    ):
        server.acks_answered = False
        first = await one.write("first")
        await other.until_ids({first})
        server.acks_answered = True
        await server.drop()
        await one.until_pushed()

        assert await other.ids() == {first}
        assert [e.entry_id for e in server.journals[CHAT.public_key]] == [first]


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1008, 1011, 1012, 4000])
async def test_any_close_is_followed_by_a_reconnect(code: int) -> None:
    """A normal close too: nobody here asked for it."""
    server = SmallServer()
    transport = MemoryTransport(server.serve)
    async with replica(transport) as one:
        await one.until_pushed()
        await server.drop(code)
        entry = await one.write("after")
        await one.until(lambda sync: sync.status.stores["chat_history"].sent == 1)

        assert server.sent_ids == [entry]
        assert transport.connections == 2


async def test_malformed_data_ends_the_connection_and_is_followed_by_a_reconnect() -> None:
    """The session fails; the replica does not."""
    server = SmallServer()
    closes: list[int | None] = []

    async def garbage_once(connection: MemoryConnection) -> None:
        transport.server = server.serve
        await connection.send(b"\xc1")
        try:
            await connection.receive()
        except TransportError as error:
            closes.append(getattr(error, "close_code", None))

    transport = MemoryTransport(garbage_once)
    async with replica(transport) as one:
        entry = await one.write("after")
        await one.until(lambda sync: sync.status.stores["chat_history"].sent == 1)

    assert server.sent_ids == [entry]
    assert closes == [1002]


async def test_a_missing_pong_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open connection is found by the heartbeat."""
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.02)
    server = SmallServer()
    transport = MemoryTransport(server.serve)
    async with replica(transport) as one:
        await one.until_pushed()
        server.is_answering.clear()
        await one.until(lambda sync: sync.status.last_error is not None)

        assert "no Pong" in str(one.sync.status.last_error)

        server.is_answering.set()
        await one.until_pushed()
    assert transport.connections >= 2


async def test_an_answered_ping_keeps_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection lives through several beats."""
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.2)
    server = SmallServer()
    transport = MemoryTransport(server.serve)
    async with replica(transport) as one:
        await one.until_pushed()
        await asyncio.sleep(0.9)

        assert one.sync.status.is_connected
    assert transport.connections == 1


async def test_what_cannot_be_opened_is_kept_aside_and_stops_nothing_else() -> None:
    """Wrong key, foreign inner id, garbage: the entries before, between and behind still arrive."""
    server = SmallServer()
    good = [uuid7(number) for number in range(3)]
    garbage = AesGcmEncryption().seal(CHAT.private_key, b"\xc1")
    server.append(
        CHAT.public_key,
        sealed(good[0]),
        sealed(uuid7(10), key=bytes(32)),
        sealed(good[1]),
        sealed(uuid7(11), inner_id=uuid7(12)),
        EncryptedEntry(uuid7(13), *garbage),
        sealed(good[2]),
    )
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_ids(set(good))
        last = uuid7(20)
        await server.publish(CHAT.public_key, sealed(last))
        await one.until_ids({*good, last})
        await one.until(lambda sync: sync.status.stores["chat_history"].next_sequence == 7)
        kept = one.sync.quarantine("chat_history")

        assert await one.ids() == {*good, last}
        assert [(e.entry_id, e.sequence) for e in kept] == [
            (uuid7(10), 1),
            (uuid7(11), 3),
            (uuid7(13), 4),
        ]
        assert f"calls itself {uuid7(12).hex()}" in kept[1].reason
        assert one.sync.status.stores["chat_history"].quarantined == 3
        assert len(await one.journal.read(lambda tx: tx.quarantined("chat_history"))) == 3
        await server.drop()
        await server.heard.until(lambda: len(server.requests) == 2)

    assert server.requests[-1] == (CHAT.public_key, 7)


async def test_a_store_whose_flag_is_off_is_neither_sent_nor_asked_for() -> None:
    """Selective sync: it is registered, and that is all."""
    server = SmallServer()
    flags = {"audit_log": True, "chat_history": False}
    names = ("audit_log", "chat_history")
    async with replica(MemoryTransport(server.serve), stores=flags, names=names) as one:
        await one.write("private", "chat_history")
        shared = await one.write("shared", "audit_log")
        await one.until_pushed("audit_log")
        report = await one.sync.sync_now()

        assert report.sent.keys() == {"audit_log"}
        assert not one.sync.status.stores["chat_history"].enabled

    assert server.sent_ids == [shared]
    assert {key for key, _ in server.requests} == {IDENTITY.for_store("audit_log").public_key}


async def test_by_default_the_audit_log_is_synced_and_conversations_are_not() -> None:
    """A store nobody named is not synced either."""
    names = ("audit_log", "chat_history", "artifacts", "own")
    async with replica(OfflineTransport(), stores={}, names=names) as one:
        enabled = {name for name, store in one.sync.status.stores.items() if store.enabled}

    assert enabled == {"audit_log"}


async def test_our_server_gets_all_stores_over_one_connection() -> None:
    """One public key each."""
    server = SmallServer()
    transport = MemoryTransport(server.serve)
    async with replica(transport, names=("audit_log", "chat_history")) as one:
        await one.write("a", "audit_log")
        await one.write("c", "chat_history")
        await one.until_pushed("audit_log")
        await one.until_pushed("chat_history")

    assert transport.connections == 1
    assert {key for key, _ in server.requests} == {
        IDENTITY.for_store(name).public_key for name in ("audit_log", "chat_history")
    }


async def test_stores_come_and_go_while_connected() -> None:
    """Leaving sends what is pending first, and tells the server to stop."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve), names=("audit_log",)) as one:
        await one.until_pushed("audit_log")
        log = EventLog(one.journal, IDENTITY, StoreSchema(name="chat_history"))
        await log.open()
        unregister = one.sync.register(log)
        written = await log.write("event", "key", {})
        with pytest.raises(StateError, match="registered"):
            one.sync.register(log)
        await unregister()
        await unregister()
        await one.write("still there", "audit_log")
        await one.until_pushed("audit_log")

        assert written.id in server.sent_ids
        assert server.stops == [CHAT.public_key]
        assert "chat_history" not in one.sync.status.stores

        one.sync.register(log)
        await one.until_pushed("chat_history")


async def test_sync_now_exchanges_everything_and_says_what_it_did() -> None:
    """It connects by itself, at once."""
    server = SmallServer()
    server.append(CHAT.public_key, *(sealed(uuid7(number)) for number in range(3)))
    async with replica(MemoryTransport(server.serve)) as one:
        await one.sync.disconnect()
        await one.write_many(5)
        report = await one.sync.sync_now()
        again = await one.sync.sync_now()

        assert (report.sent, report.received) == ({"chat_history": 5}, {"chat_history": 3})
        assert (again.sent, again.received) == ({"chat_history": 0}, {"chat_history": 0})
        assert one.sync.status.pending == 0
        assert len(await one.ids()) == 8


async def test_sync_now_uses_the_connection_there_is() -> None:
    """However often it is called (fault R9)."""
    server = SmallServer()
    transport = MemoryTransport(server.serve)
    async with replica(transport) as one:
        for number in range(5):
            await one.write(str(number))
            await one.sync.sync_now()
        sent = len(server.sent_ids)

        assert transport.connections == len(server.peers) == 1
        assert sent == 5


async def test_sync_now_without_a_server_says_how_to_configure_one() -> None:
    """It is the caller's error, and nothing is lost."""
    async with replica(OfflineTransport()) as one:
        await one.write("kept")
        with pytest.raises(StateError, match="connect_websocket"):
            await one.sync.sync_now()
        with pytest.raises(StateError, match="connect_websocket"):
            await one.sync.connect()

        assert one.sync.status.state is SyncState.OFFLINE
        assert len(await one.ids()) == 1


async def test_sync_now_with_nobody_there_raises_what_the_attempt_raised() -> None:
    """And does not wait for the schedule."""
    async with replica(MemoryTransport(None), schedule=fixed("1 hour")) as one:
        for _ in range(2):
            with pytest.raises(ConnectError, match="refused"):
                await asyncio.wait_for(one.sync.sync_now(), 2)

        status = one.sync.status
        assert (status.state, status.retry_in_seconds) == (SyncState.WAITING, 3600)
        assert status.last_error_code is ErrorCode.CONNECT


async def test_sync_now_gives_up_after_its_timeout() -> None:
    """What was exchanged stays."""
    server = SmallServer()
    server.acks_answered = False
    async with replica(MemoryTransport(server.serve)) as one:
        await one.write("never acknowledged")
        with pytest.raises(TransportError, match=r"within 0.05 s"):
            await one.sync.sync_now(timeout_seconds=0.05)


async def test_disconnect_closes_everything_and_connect_resumes() -> None:
    """No task and no open socket is left; local writes go on."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve), interval_seconds=60) as one:
        await one.until_pushed()
        before = {task.get_name() for task in asyncio.all_tasks()}
        await one.sync.disconnect()
        left = {task.get_name() for task in asyncio.all_tasks()} - {"memory journal"}

        assert "sync connection" in before
        assert not {name for name in left if name.startswith(("sync", "push", "pull", "repl"))}
        assert not server.peers
        assert one.sync.status.state is SyncState.STOPPED

        written = await one.write("offline")
        status = await one.sync.refresh()
        assert status.stores["chat_history"].pending == 1
        assert (await one.sync.connect()).is_connected
        await one.until_pushed()
        assert server.sent_ids == [written]


async def test_disconnecting_while_a_connection_is_breaking_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failing task group may swallow the cancellation; the retry must not begin all the same."""
    server = SmallServer()
    is_ending = asyncio.Event()

    async def end_slowly(self: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_ending.set()
            await asyncio.sleep(0.05)

    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        await one.sync.disconnect()
        monkeypatch.setattr(Replication, "run", end_slowly)
        await one.sync.connect()
        await server.drop()
        await is_ending.wait()
        await asyncio.wait_for(one.sync.disconnect(), 1)

        assert one.sync.status.state is SyncState.STOPPED


async def test_status_is_connected_only_after_hello() -> None:
    """A socket alone is no evidence."""
    answered = asyncio.Event()
    server = SmallServer()

    async def hesitant(connection: MemoryConnection) -> None:
        await answered.wait()
        await server.serve(connection)

    async with replica(MemoryTransport(hesitant)) as one:
        await asyncio.sleep(0.01)
        assert one.sync.status.state is SyncState.CONNECTING
        answered.set()
        await one.until_pushed()
        status = one.sync.status
        assert status.is_connected
        assert status.remote_id == server.remote_id.hex()
        assert not status.is_stock
        assert status.last_error is None


async def test_the_backoff_starts_afresh_only_after_a_connection_that_was_of_use() -> None:
    """A server that greets and closes at once is not hammered."""
    server = SmallServer()

    async def greet_and_close(connection: MemoryConnection) -> None:
        serving = asyncio.ensure_future(server.serve(connection))
        await asyncio.sleep(0)
        await connection.close(1011, "overloaded")
        serving.cancel()
        await asyncio.wait({serving})

    transport = MemoryTransport(greet_and_close)
    async with replica(transport) as one:
        await one.until(lambda sync: sync.status.attempt >= 3)
        transport.server = server.serve
        await one.write("of use")
        await one.until_pushed()
        await server.drop()
        await one.until(lambda sync: sync.status.last_error is not None)
        assert one.sync.status.attempt == 1


async def test_a_schedule_may_give_up_and_connect_begins_again() -> None:
    """The status says stopped, and why."""
    transport = MemoryTransport(None)
    async with replica(transport, schedule=fixed(0.001).limited(2)) as one:
        await one.until(lambda sync: sync.status.state is SyncState.STOPPED)
        assert "refused" in str(one.sync.status.last_error)
        transport.server = SmallServer().serve
        assert (await one.sync.connect()).is_connected


async def test_a_replaced_server_gets_everything_again() -> None:
    """A new incarnation under the same id: its data is gone, so nothing counts as acknowledged."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        written = await one.write("kept")
        await one.until_pushed()
        server.incarnation, server.journals = b"another-incarnat", {}
        await server.drop()
        await one.until(lambda sync: sync.status.stores["chat_history"].sent == 2)

    assert server.sent_ids == [written, written]
    assert [start for _, start in server.requests] == [0, 0]


async def test_a_server_restored_from_a_backup_gets_what_it_lost() -> None:
    """Its head lies below our cursor, though it calls itself the same."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.write_many(5)
        await one.until_pushed()
        everything = await one.ids()
        del server.journals[CHAT.public_key][2:]
        await server.drop()
        await server.heard.until(lambda: len(server.journals[CHAT.public_key]) == 5)

    assert {entry.entry_id for entry in server.journals[CHAT.public_key]} == everything


async def test_received_messages_are_bounded_while_the_journal_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there are enough for the next transaction, and the queue is full, the socket is not read."""
    monkeypatch.setattr("agentlayers.sync.pull._ENTRIES_PER_TRANSACTION_MAX", 32)
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        link = next(iter(one.sync._remotes.values()))._pool._workers[0].link
        assert link is not None
        pull = link.replications[CHAT.public_key].pull
        hold, real = asyncio.Event(), one.journal.transact

        async def slow(work: object) -> object:
            await hold.wait()
            return await real(work)  # type: ignore[arg-type]

        one.journal.transact = slow  # type: ignore[method-assign, assignment]
        ids = [uuid7(number) for number in range(200)]
        await server.publish(CHAT.public_key, sealed(ids[0]))
        await asyncio.sleep(0.01)
        assert not pull.is_idle

        async def flood() -> None:
            for entry_id in ids[1:]:
                await server.publish(CHAT.public_key, sealed(entry_id))

        flooding = asyncio.create_task(flood())
        done, _ = await asyncio.wait({flooding}, timeout=0.2)

        assert not done
        assert pull.queued == limits.PULL_QUEUE_MESSAGES_MAX

        hold.set()
        await flooding
        await one.until_ids(set(ids))


async def test_local_writes_never_wait_for_a_server_that_does_not_read() -> None:
    """What is queued for it stays within the window."""

    async def deaf(connection: MemoryConnection) -> None:
        session = SmallServer()
        await connection.send(_hello(session))
        await asyncio.Event().wait()

    async with replica(MemoryTransport(deaf)) as one:
        await one.until(lambda sync: sync.status.is_connected)
        await asyncio.wait_for(one.write_many(20 * limits.PUSH_BATCH_ENTRIES_MAX, size=200), 5)
        await asyncio.sleep(0.1)
        link = next(iter(one.sync._remotes.values()))._pool._workers[0].link
        assert link is not None
        assert link.session.unacknowledged <= limits.PUSH_WINDOW_MESSAGES + 1
        await one.sync.disconnect()


def _hello(server: SmallServer) -> bytes:
    from agentlayers.protocol.server_session import ServerSession

    return ServerSession(is_stream=False, hello=server.hello()).data_to_send()[0]


async def test_closing_sends_what_is_pending() -> None:
    """A replica that writes and closes at once loses nothing and leaves nothing behind."""
    server = SmallServer()
    async with replica(MemoryTransport(server.serve)) as one:
        await one.until_pushed()
        await one.write_many(700)

    assert len(server.sent_ids) == 700


async def test_the_status_stream_shows_each_state_and_ends_with_its_reader() -> None:
    """It is a series of values; equal ones are shown once."""
    server = SmallServer()
    transport = MemoryTransport(None)
    async with replica(transport) as one:
        seen: list[SyncState] = []
        async with contextlib.aclosing(one.sync.status_stream()) as stream:
            async for status in stream:
                if not seen or status.state is not seen[-1]:
                    seen.append(status.state)
                if status.state is SyncState.WAITING:
                    transport.server = server.serve
                if status.is_connected:
                    break

    assert SyncState.WAITING in seen
    assert seen[-1] is SyncState.CONNECTED


async def test_another_identity_sees_nothing() -> None:
    """Its public keys are others."""
    server = SmallServer()
    stranger = Identity.generate(bytes)
    async with (
        replica(MemoryTransport(server.serve)) as one,
        replica(MemoryTransport(server.serve), identity=stranger) as other,
    ):
        await one.write("mine")
        await one.until_pushed()
        report = await other.sync.sync_now()

        assert report.received == {"chat_history": 0}


async def test_a_service_that_is_not_open_refuses_to_sync() -> None:
    """It says what to do."""
    service = SyncService(MemoryTransport(None), AesGcmEncryption())

    with pytest.raises(StateError, match="async with"):
        await service.sync_now()
