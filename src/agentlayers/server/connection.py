"""
One connection: a socket, a protocol session, and its place in the hub.

The session decides what bytes mean; the hub decides what is sent when. What is left here is the order in
which things are handled, how much may be under way, and how a connection ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from agentlayers.errors import AccessError, LimitExceededError, StorageError
from agentlayers.limits import (
    CONNECT_TIMEOUT_SECONDS,
    KIB,
    MESSAGE_BYTES_MAX,
    OUTBOX_BYTES_MAX,
    SUBSCRIPTIONS_PER_CONNECTION_MAX,
    WRITE_WINDOW_MESSAGES,
)
from agentlayers.logs import get_logger
from agentlayers.protocol.events import (
    AuthenticateReceived,
    ChangesRequested,
    ChangesStopped,
    CreditGranted,
    FetchRequested,
    PingReceived,
    ServerEvent,
    SessionFailed,
    WriteReceived,
)
from agentlayers.protocol.messages import Hello
from agentlayers.protocol.server_session import ServerSession
from agentlayers.protocol.session import SessionState
from agentlayers.server.broadcast import Broadcast
from agentlayers.server.close import CloseReason
from agentlayers.server.hub import Hub, Key
from agentlayers.server.link import Link, StreamLink, WrongFrameError
from agentlayers.server.outbox import STALL_SECONDS_MAX, Outbox
from agentlayers.server.spacing import MessageSpacer

__all__ = ["Connection"]

logger = get_logger(__name__)

WRITES_IN_FLIGHT_MAX: Final = 64
"""Writes of one connection that are not committed yet; when reached, its socket is not read."""

WRITE_BYTES_IN_FLIGHT_MAX: Final = 16 * 1024 * 1024
"""As above, in ciphertext bytes (one larger write still goes alone)."""

ENTRY_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 64 * KIB
"""Ciphertext of one entry. One that no Changes could carry would stop its key for every subscriber."""

ACKS_OWED_MAX: Final = 2 * SUBSCRIPTIONS_PER_CONNECTION_MAX * WRITE_WINDOW_MESSAGES
"""Writes without an Ack, most of them waiting until their writer has read its backlog; more than a client that keeps to
its write windows can have, because its credit is not read either while this is reached."""

LIVE_BYTES_MAX: Final = OUTBOX_BYTES_MAX // 2
"""Queued past this, a live subscriber goes back to reading from storage, and no more is read from its socket."""

FETCH_BYTES_MAX: Final = OUTBOX_BYTES_MAX // 4
"""Ciphertext of one answer to a fetch (a larger entry goes alone)."""

CATCH_UP_BYTES_MAX: Final = OUTBOX_BYTES_MAX // 8
"""A backlog is read further once less than this is queued."""


class Connection:
    """
    Serves one peer until either side ends the connection. Implements :class:`~agentlayers.server.subscription.Peer`.

    Args:
        link: The socket.
        session: With a Hello, or waiting for an Authenticate.
        hub: Where writes and subscriptions go.
        tenant: The tenant this peer was let into; empty until it authenticates.
        connection_id: For the log.
        admit: Checks a tenant and a token, and returns that tenant's Hello; for media without headers.
        stall_seconds: How long the peer may read nothing while something waits for it.
    """

    def __init__(
        self,
        link: Link,
        session: ServerSession,
        hub: Hub,
        *,
        tenant: str,
        connection_id: int,
        admit: Callable[[str, str], Awaitable[Hello]] | None = None,
        stall_seconds: float = STALL_SECONDS_MAX,
    ) -> None:
        self._link = link
        self._session = session
        self._hub = hub
        self._tenant = tenant
        self._admit = admit
        self._log = logger.bind(tenant=tenant, connection=connection_id)
        self._outbox = Outbox(link, on_stall=lambda: self.end(CloseReason.STALLED), stall_seconds=stall_seconds)
        if isinstance(link, StreamLink) and session.state is SessionState.OPEN:
            self._outbox.spacer = MessageSpacer(link.transport)  # until it turns out to be one of ours
        self._writes_in_flight = 0
        self._bytes_in_flight = 0
        self._acks_owed = 0
        self._settled = asyncio.Event()
        self._catching_up: asyncio.Task[None] | None = None
        self._resuming: asyncio.TimerHandle | None = None
        self._to_ask: list[Callable[[], None]] = []
        self._asked: deque[list[Callable[[], None]]] = deque()
        self._asking: asyncio.Task[None] | None = None
        link.on_read = self._has_read
        self._ending: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Serve the peer; returns when the connection is closed and nothing of it is left but stored entries."""
        self._log.debug("connection_opened", stream=self._link.is_stream)
        deadline = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT_SECONDS, self._end_unauthenticated)
        try:
            self._flush()
            await self._handle_events()
            while self._ending is None:
                data = await self._link.receive()
                if data is None:
                    break
                self._session.receive_data(data)
                if self._outbox.spacer is not None and self._session.is_ours:
                    self._outbox.stop_spacing()
                self._flush()
                await self._handle_events()
                await self._take_breath()
        except WrongFrameError:
            self.end(CloseReason.NO_BINARY_FRAME)
        except StorageError as error:
            self._log.error("storage_failed", error=str(error))
            self.end(CloseReason.STORAGE)
        finally:
            deadline.cancel()
            await self._finish()

    def _end_unauthenticated(self) -> None:
        if self._session.state is SessionState.AWAITING_AUTHENTICATION:
            self.end(CloseReason.UNAUTHENTICATED)

    def end(self, reason: CloseReason) -> None:
        """Close the connection, telling the peer why; only the first reason counts."""
        if self._ending is not None:
            return
        self._log.info("connection_closing", code=reason.code, reason=reason.text)
        self._ending = asyncio.create_task(self._link.close(reason.code, reason.text))
        self._settled.set()

    async def end_gracefully(self, reason: CloseReason) -> None:
        """Let what is queued be written, then close."""
        await self._outbox.wait_below(1)
        self.end(reason)
        if self._ending is not None:
            await asyncio.wait([self._ending])

    async def _finish(self) -> None:
        self._hub.leave(self)
        if self._ending is None:
            self.end(CloseReason.NORMAL)
        if self._resuming is not None:
            self._resuming.cancel()
        for task in (self._catching_up, self._asking):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._outbox.close()
        assert self._ending is not None
        await asyncio.wait([self._ending])
        self._log.debug("connection_closed")

    # -- from the peer ----------------------------------------------------------------------------------------
    async def _handle_events(self) -> None:
        while events := self._session.events_received():
            for event in events:
                if self._ending is not None:
                    return
                await self._handle(event)

    async def _handle(self, event: ServerEvent) -> None:
        if isinstance(event, WriteReceived):
            self._write(event)
        elif isinstance(event, ChangesRequested):
            key, is_stock = self._key(event.public_key), not self._session.is_ours
            await self._hub.subscribe(self, key, event.start_sequence, event.credit, is_stock=is_stock)
        elif isinstance(event, CreditGranted):
            if self._hub.lags(self):
                self.must_catch_up()
        elif isinstance(event, ChangesStopped):
            self._hub.unsubscribe(self, self._key(event.public_key))
        elif isinstance(event, PingReceived):
            await self._answer(event)
        elif isinstance(event, FetchRequested):
            await self._fetch(event)
        elif isinstance(event, AuthenticateReceived):
            await self._authenticate(event)
        elif isinstance(event, SessionFailed):
            self._log.info("session_failed", error=event.error.code.value)
            reason = _close_reason(event.error)
            # On a stream only the Rejected that is queued last says why; a WebSocket has a close code for that.
            await self.end_gracefully(reason) if self._link.is_stream else self.end(reason)

    def _write(self, event: WriteReceived) -> None:
        if max((len(entry.ciphertext) for entry in event.entries), default=0) > ENTRY_BYTES_MAX:
            self.end(CloseReason.TOO_LARGE)
            return
        self._writes_in_flight += 1
        self._acks_owed += 1
        key = self._key(event.public_key)
        self._bytes_in_flight += self._hub.write(self, key, event.message_id, event.entries)

    async def _answer(self, ping: PingReceived) -> None:
        """Tell where each key that was asked about is, so that the peer notices when it has something else."""
        digests = {key: await self._hub.digest(self._key(key), cursor) for key, cursor in ping.cursors.items()}
        self._session.send_pong(ping.id, digests)
        self._flush()

    async def _fetch(self, event: FetchRequested) -> None:
        """Send what was asked for by id, once what is queued has left some room: nothing else bounds this."""
        await self._outbox.wait_below(CATCH_UP_BYTES_MAX)
        found = await self._hub.find(self._key(event.public_key), event.entry_ids, bytes_max=FETCH_BYTES_MAX)
        self._session.send_fetched(event.id, found.entries, found.answered)
        self._flush()

    async def _authenticate(self, event: AuthenticateReceived) -> None:
        if self._session.state is not SessionState.AUTHENTICATING:
            return  # What came behind it in one read broke the protocol: that is what comes next.
        assert self._admit is not None
        try:
            hello = await self._admit(event.tenant, event.token)
        except AccessError as error:
            self._session.reject(error)
            self._flush()
            await self.end_gracefully(CloseReason.UNAUTHENTICATED)
            return
        self._tenant = event.tenant
        self._log = self._log.bind(tenant=event.tenant)
        self._session.accept(hello)
        self._flush()

    def _key(self, public_key: str) -> Key:
        return Key(self._tenant, public_key)

    async def _take_breath(self) -> None:
        """Read no more while too much of this peer's is under way: it feels that, and nobody else does."""
        while self._ending is None and self._is_full:
            self._settled.clear()
            await self._settled.wait()
        if self._ending is None and self._outbox.size >= LIVE_BYTES_MAX:
            await self._outbox.wait_below(LIVE_BYTES_MAX)

    @property
    def _is_full(self) -> bool:
        return (
            self._writes_in_flight >= WRITES_IN_FLIGHT_MAX
            or self._bytes_in_flight >= WRITE_BYTES_IN_FLIGHT_MAX
            or self._acks_owed >= ACKS_OWED_MAX
        )

    # -- from the hub -----------------------------------------------------------------------------------------
    @property
    def is_congested(self) -> bool:
        """Whether more waits to be sent than a live subscriber may have waiting."""
        return self._outbox.size >= LIVE_BYTES_MAX

    def send_ack(self, message_id: int, sequences: Sequence[int], through: int | None) -> None:
        """Queue an Ack."""
        # A session that failed meanwhile can send nothing; the peer will ask again, and be told of duplicates.
        if self._ending is None and self._session.state is SessionState.OPEN:
            self._session.send_ack(message_id, sequences, through)
            self._flush()
            self._acks_owed -= 1
            self._settled.set()

    def send_changes(self, broadcast: Broadcast) -> None:
        """Queue encoded Changes."""
        if self._ending is not None:
            return
        if self._outbox.spacer is None:
            self._outbox.put(self._link.wire(broadcast))
        else:
            self._put_singly(broadcast.messages)

    def _put_singly(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self._outbox.put(message)

    def write_settled(self, size: int) -> None:
        """Count a write as no longer in flight."""
        self._writes_in_flight -= 1
        self._bytes_in_flight -= size
        self._settled.set()

    def write_failed(self, error: Exception) -> None:
        """End the connection: an Ack that cannot be given would otherwise be waited for."""
        del error
        self.end(CloseReason.STORAGE)

    def must_catch_up(self) -> None:
        """Start reading from storage for this peer, unless that is under way."""
        if self._catching_up is None and self._ending is None:
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        try:
            while self._ending is None and self._hub.lags(self):
                await self._outbox.wait_below(CATCH_UP_BYTES_MAX)
                await self._hub.catch_up(self)
        except StorageError as error:
            self._log.error("storage_failed", error=str(error))
            self.end(CloseReason.STORAGE)
        finally:
            self._catching_up = None
        self._catch_up_later()

    def when_read(self, then: Callable[[], None]) -> None:
        """Call back when the peer has read all that is queued for it now."""
        self._to_ask.append(then)
        if self._asking is None and self._ending is None:
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            await self._outbox.wait_below(1)
        finally:
            self._asking = None
        to_ask, self._to_ask = self._to_ask, []
        self._asked.append(to_ask)
        self._link.ask_read()

    def _has_read(self) -> None:
        if self._ending is not None or not self._asked:
            return
        for then in self._asked.popleft():
            then()
        self._catch_up_later()

    def _catch_up_later(self) -> None:
        """Go on catching up when that is only a matter of time."""
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        seconds = self._hub.pause_seconds(self)
        if seconds is not None and self._ending is None:
            self._resuming = asyncio.get_running_loop().call_later(seconds, self.must_catch_up)

    def _flush(self) -> None:
        """Move what the session wants to send into the outbox."""
        messages = self._session.data_to_send()
        if not messages:
            return
        if self._outbox.spacer is None:
            self._outbox.put(self._link.wire(Broadcast(messages)))
        else:
            self._put_singly(messages)


def _close_reason(error: Exception) -> CloseReason:
    if isinstance(error, LimitExceededError):
        return CloseReason.TOO_LARGE
    if isinstance(error, AccessError):
        return CloseReason.UNAUTHENTICATED
    return CloseReason.PROTOCOL
