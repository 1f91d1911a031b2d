"""
One open connection: the socket, the protocol session, and the stores replicated over it.

Everything runs in one task group; whatever fails first ends the connection, and everything with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, NoReturn, Self, TypeVar

from agentlayers import limits
from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import (
    AccessError,
    AgentLayersError,
    ConnectError,
    ConnectionLostError,
    MalformedMessageError,
    ProtocolError,
    StateError,
)
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.events import (
    AckReceived,
    ChangesReceived,
    ClientEvent,
    EntriesFetched,
    HelloReceived,
    PongReceived,
    SessionFailed,
)
from agentlayers.sync.registration import Registration
from agentlayers.sync.replication import Replication
from agentlayers.sync.signal import Signal
from agentlayers.sync.unless_ended import unless_ended
from agentlayers.transport.loop_share import LoopShare, portions
from agentlayers.transport.transport import Connection, Transport

__all__ = ["Link"]

T = TypeVar("T")

_NORMAL: Final = 1000
_PROTOCOL_ERROR: Final = 1002


class Link:
    """
    A connection whose server has said ``Hello``; make one with :meth:`open`.

    Attributes:
        session: The protocol's state.
        remote_id: The server's id.
        replications: What is replicated here, by public key.
    """

    def __init__(
        self,
        connection: Connection,
        session: ClientSession,
        hello: HelloReceived,
        *,
        url: str,
        encryption: Encryption,
        clock: Callable[[], float],
        changed: Signal,
        patience: float,
    ) -> None:
        self.session, self.remote_id = session, hello.remote_id
        self.replications: dict[str, Replication] = {}
        self._connection, self._encryption = connection, encryption
        self._url, self._clock, self._changed = url, clock, changed
        self._patience = patience
        self._outgoing = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._left: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited_pong: int | None = None
        self._messages_since_ping = 0
        self._is_held_up = False
        self._was_useful = False
        # One at a time: an answer fills megabytes, and whoever asked writes them to the journal first.
        self._fetching = asyncio.Lock()
        self._answers: dict[int, asyncio.Future[EntriesFetched]] = {}
        self._answered = Signal()

    @classmethod
    async def open(
        cls,
        transport: Transport,
        encryption: Encryption,
        *,
        clock: Callable[[], float],
        changed: Signal,
        patience: float = 1.0,
    ) -> Self:
        """
        Connect and wait for the server's ``Hello``.

        Args:
            transport: Where to.
            encryption: Seals and opens entries.
            clock: Wall-clock time.
            changed: Notified when the status may have changed.
            patience: How much longer than usual to wait for a stock server to finish its backlog.

        Raises:
            ConnectError: Nobody answers there, or not in time.
            ConnectionLostError: The server closed before it introduced itself.
            AuthenticationError: The server refused the credentials.
            ProtocolError: What answers does not speak the protocol.
        """
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_SECONDS):
                connection = await transport.connect()
                session = ClientSession(is_stream=connection.is_stream, authenticate=connection.authenticate)
                try:
                    hello = await _await_hello(connection, session, transport.url)
                except BaseException:
                    await connection.close(_PROTOCOL_ERROR)
                    raise
        except TimeoutError as error:
            raise ConnectError(
                url=transport.url,
                reason=f"no Hello within {limits.CONNECT_TIMEOUT_SECONDS:g} s; it may be no sync "
                "server, or over TCP one that waits for a token",
            ) from error
        return cls(
            connection,
            session,
            hello,
            url=transport.url,
            encryption=encryption,
            clock=clock,
            changed=changed,
            patience=patience,
        )

    @property
    def was_useful(self) -> bool:
        """Whether anything new was exchanged; a connection that was not does not end a backoff."""
        return self._was_useful or any(r.pull.was_useful for r in self.replications.values())

    def flush(self) -> None:
        """Let the sender write what the session has to say."""
        self._outgoing.set()

    async def run(self, registrations: Iterable[Registration]) -> None:
        """
        Replicate until the connection ends, which is always by an error or by cancellation.

        Raises:
            BaseExceptionGroup: What ended it; the first is the cause.
        """
        code = _NORMAL
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._send(), name="sync send")
                group.create_task(self._receive(), name="sync receive")
                group.create_task(self._beat(), name="sync heartbeat")
                for registration in list(registrations):
                    self.start(registration)
                self.flush()
        except* ProtocolError:
            code = _PROTOCOL_ERROR
            raise
        finally:
            self._was_useful = self.was_useful
            self._note_lost_data()
            for replication in self.replications.values():
                replication.close()
            self.replications.clear()
            self._group = None
            if not self._ended.done():
                self._ended.set_result(None)
            await self._connection.close(code)

    def _note_lost_data(self) -> None:
        """Start over with stores that cannot tell by themselves, once another one showed that the server lost data."""
        if any(one.registration.must_start_over for one in self.replications.values()):
            for one in self.replications.values():
                one.registration.must_start_over = one.registration.must_start_over or not one.follows

    async def close(self) -> None:
        """Close a connection that was never run."""
        await self._connection.close(_NORMAL)

    def start(self, registration: Registration) -> None:
        """Replicate one more store over this connection."""
        if self._group is None:
            return  # Not running yet: run() starts what is assigned by then.
        key = registration.public_key
        if key in self._left:
            self._spawn(self._group, _begin_anew(registration.store), name="begin anew")
            return
        replication = Replication(
            registration,
            self.session,
            self._encryption,
            remote_id=self.remote_id,
            url=self._url,
            flush=self.flush,
            clock=self._clock,
            changed=self._changed,
            patience=self._patience,
        )
        task = self._spawn(self._group, replication.run(), name=f"replicate {registration.store}")
        if task is not None:
            self.replications[key], self._tasks[key] = replication, task
            self._changed.notify()

    @staticmethod
    def _spawn(group: asyncio.TaskGroup, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
        """Do it while the connection lasts; where that is ending already, the next one will do it."""
        try:
            return group.create_task(work, name=name)
        except RuntimeError:
            work.close()
            return None

    def stop(self, registration: Registration) -> set[asyncio.Task[None]]:
        """Stop replicating a store; the connection and the other stores stay. Returns the task that ends with it."""
        key = registration.public_key
        replication = self.replications.get(key)
        if replication is None or replication.registration is not registration:
            return set()
        task = self._tasks.pop(key)
        task.cancel()
        del self.replications[key]
        self._was_useful = self._was_useful or replication.pull.was_useful
        replication.close()
        if self._group is not None:
            self._left.add(key)
            replication.leave()
        return {task}

    async def while_open(self, work: Awaitable[T]) -> T:
        """
        Wait for ``work``, but no longer than the connection lasts.

        Raises:
            ConnectionLostError: The connection ended first.
        """
        return await unless_ended(work, self._ended)

    async def while_replicated(self, replication: Replication, work: Awaitable[T]) -> T:
        """
        Wait for ``work``, but no longer than a store is replicated over this connection.

        Raises:
            ConnectionLostError: That ended first.
        """
        return await unless_ended(work, replication.ended)

    async def fetch(self, public_key: str, entry_ids: Sequence[bytes]) -> EntriesFetched:
        """
        Ask the server for entries by id; it answers at least the first, and says which are left to ask for.

        Raises:
            ConnectionLostError: The connection ended first.
            StateError: This server does not offer it.
        """
        if not self.session.fetches:
            raise StateError(f"{self._url} does not send entries on demand; it is an unmodified or an older server")
        async with self._fetching:
            # Questions whose callers gave up count until they are answered.
            await self.while_open(self._answered.until(lambda: self.session.can_fetch_now))
            message_id = self.session.fetch_entries(public_key, entry_ids)
            answer = self._answers[message_id] = asyncio.get_running_loop().create_future()
            self.flush()
            try:
                return await self.while_open(answer)
            finally:
                del self._answers[message_id]

    async def _send(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            for frame in self.session.data_to_send():
                await self._connection.send(frame)

    async def _receive(self) -> None:
        share = LoopShare()
        # What came in one read with Hello was not looked at yet.
        await self._handle(self.session.events_received())
        while True:
            data = await self._connection.receive()
            self._messages_since_ping += 1
            for portion in portions(data) if self._connection.is_stream else (data,):
                share.begin()
                self.session.receive_data(portion)
                await self._handle(self.session.events_received())
                await share.end()

    async def _handle(self, events: Iterable[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, ChangesReceived | AckReceived):
                replication = self.replications.get(event.public_key)
                # Changes that were under way when a store was stopped have no replication.
                if replication is not None:
                    self._is_held_up = True
                    await replication.receive(event)
                    self._is_held_up = False
            elif isinstance(event, PongReceived):
                await self._handle_pong(event)
            elif isinstance(event, EntriesFetched):
                answer = self._answers.get(event.id)
                if answer is not None and not answer.done():
                    answer.set_result(event)
                self._answered.notify()
            elif isinstance(event, SessionFailed):
                raise event.error

    async def _beat(self) -> None:
        """Ping; the connection is dead when a whole beat passes without a sign of life."""
        while True:
            await asyncio.sleep(limits.HEARTBEAT_SECONDS)
            is_silent = self._awaited_pong is not None and not self._messages_since_ping
            if is_silent and not self._is_held_up:
                raise ConnectionLostError(reason=f"no Pong within {limits.HEARTBEAT_SECONDS:g} s")
            # A connection that lives through a beat is worth a fresh start of the backoff.
            self._was_useful = True
            self._messages_since_ping = 0
            self._awaited_pong = self._ping()
            self.flush()

    def _ping(self) -> int:
        """Ask whether the server is there and, if it can tell, whether it has what we believe it has."""
        if not self.session.compares_digests:
            return self.session.ping()
        asking = {key: one for key, one in self.replications.items() if one.has_resumed and one.follows}
        ping_id = self.session.ping({key: one.pull.cursor for key, one in asking.items()})
        for one in asking.values():
            one.asked(ping_id)
        return ping_id

    async def _handle_pong(self, pong: PongReceived) -> None:
        is_quiet = self._messages_since_ping <= 1
        if pong.id == self._awaited_pong:
            self._awaited_pong = None
        for key, said in pong.digests.items():
            replication = self.replications.get(key)
            if replication is not None:
                await replication.compare(pong.id, said, is_quiet=is_quiet)


async def _begin_anew(store: str) -> NoReturn:
    """End a connection on which a store comes back: what it was sent before may be under way, far beyond its cursor."""
    raise ConnectionLostError(reason=f"{store} was closed and opened again; connecting anew to read from its cursor")


async def _await_hello(connection: Connection, session: ClientSession, url: str) -> HelloReceived:
    for frame in session.data_to_send():
        await connection.send(frame)
    while True:
        session.receive_data(await connection.receive())
        for event in session.events_received():
            if isinstance(event, SessionFailed):
                raise _refusal(event.error, url)
            if isinstance(event, HelloReceived):
                return event


def _refusal(error: AgentLayersError, url: str) -> AgentLayersError:
    """Say of which server a first message is that is no greeting, and what it may be instead."""
    if isinstance(error, AccessError):
        return type(error)(f"{url}: {error}")
    if isinstance(error, MalformedMessageError):
        other = "ws://" if url.startswith("tcp:") else "wss://" if url.startswith("tls:") else "tcp://"
        return ConnectError(url=url, reason=f"what answers is no sync server, or is it {other}? ({error})")
    return error
