"""
One connection: a socket, a protocol session, and its place in the hub.

The session decides what bytes mean; the hub decides what is sent when. What is left here is the order in
which things are handled, how much may be under way, and how a connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from agentlayers.errors import AccessError, LimitExceededError, StorageError
from agentlayers.limits import (
    CONNECT_TIMEOUT_SECONDS,
    ENTRIES_PER_MESSAGE_MAX,
    KIB,
    MESSAGE_BYTES_MAX,
    OUTBOX_BYTES_MAX,
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
from agentlayers.server.catch_up import CATCH_UP_BYTES_MAX, CatchUp
from agentlayers.server.close import CloseReason
from agentlayers.server.hub import Hub, Key
from agentlayers.server.outbox import STALL_SECONDS_MAX, Outbox
from agentlayers.server.peer_socket import PeerSocket, PeerStream, WrongFrameError
from agentlayers.server.read_receipts import ReadReceipts
from agentlayers.server.spacing import MessageSpacer
from agentlayers.server.writes_in_flight import WritesInFlight
from agentlayers.transport.loop_share import LoopShare, portions

__all__ = ["Connection"]

logger = get_logger(__name__)

ENTRY_BYTES_MAX: Final = MESSAGE_BYTES_MAX - 64 * KIB
"""Ciphertext of one entry. One that no Changes could carry would stop its key for every subscriber."""

LIVE_BYTES_MAX: Final = OUTBOX_BYTES_MAX // 2
"""Queued past this, a live subscriber goes back to reading from storage, and no more is read from its socket."""

FETCH_BYTES_MAX: Final = OUTBOX_BYTES_MAX // 4
"""Ciphertext of one answer to a fetch (a larger entry goes alone)."""


class Connection:
    """
    Serves one peer until either side ends the connection. Implements :class:`~agentlayers.server.subscription.Peer`.

    Args:
        socket: To the peer.
        session: With a Hello, or waiting for an Authenticate.
        hub: Where writes and subscriptions go.
        tenant: The tenant this peer was let into; empty until it authenticates.
        connection_id: For the log.
        admit: Checks a tenant and a token, and returns that tenant's Hello; for media without headers.
        stall_seconds: How long the peer may read nothing while something waits for it.
    """

    def __init__(
        self,
        socket: PeerSocket,
        session: ServerSession,
        hub: Hub,
        *,
        tenant: str,
        connection_id: int,
        admit: Callable[[str, str], Awaitable[Hello]] | None = None,
        stall_seconds: float = STALL_SECONDS_MAX,
    ) -> None:
        self._socket = socket
        self._session = session
        self._hub = hub
        self._tenant = tenant
        self._admit = admit
        self._log = logger.bind(tenant=tenant, connection=connection_id)
        self._outbox = Outbox(socket, on_stall=lambda: self.end(CloseReason.STALLED), stall_seconds=stall_seconds)
        if isinstance(socket, PeerStream) and session.state is SessionState.OPEN:
            self._outbox.spacer = MessageSpacer(socket.transport)  # until it turns out to be one of ours
        self._writes = WritesInFlight()
        self._share = LoopShare()
        self._catch_up = CatchUp(self, hub, self._outbox, self._storage_failed)
        self._receipts = ReadReceipts(socket, self._outbox, after=self._catch_up.go_on_later)
        self._ending: asyncio.Task[None] | None = None

    # -- life -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Serve the peer; returns when the connection is closed and nothing of it is left but stored entries."""
        self._log.debug("connection_opened", stream=self._socket.is_stream)
        deadline = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT_SECONDS, self._end_unauthenticated)
        try:
            self._flush()
            await self._handle_events()
            while self._ending is None:
                data = await self._socket.receive()
                if data is None:
                    break
                for portion in portions(data) if self._socket.is_stream else (data,):
                    await self._take(portion)
        except WrongFrameError:
            self.end(CloseReason.NO_BINARY_FRAME)
        except StorageError as error:
            self._storage_failed(error)
        finally:
            deadline.cancel()
            await self._finish()

    async def _take(self, data: bytes) -> None:
        """Act on what was received, and let the others have their turn."""
        self._share.begin()
        self._session.receive_data(data)
        if self._outbox.spacer is not None and self._session.is_ours:
            self._outbox.stop_spacing()
        self._flush()
        await self._handle_events()
        await self._share.end()
        await self._take_breath()

    def _end_unauthenticated(self) -> None:
        if self._session.state is SessionState.AWAITING_AUTHENTICATION:
            self.end(CloseReason.UNAUTHENTICATED)

    def end(self, reason: CloseReason) -> None:
        """Close the connection, telling the peer why; only the first reason counts."""
        if self._ending is not None:
            return
        self._log.info("connection_closing", code=reason.code, reason=reason.text)
        self._ending = asyncio.create_task(self._socket.close(reason.code, reason.text))
        self._writes.release()
        self._catch_up.stop()
        self._receipts.stop()

    def _storage_failed(self, error: StorageError) -> None:
        self._log.error("storage_failed", error=str(error))
        self.end(CloseReason.STORAGE)

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
        await self._catch_up.close()
        await self._receipts.close()
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
            await self._subscribe(event)
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
            await self.end_gracefully(reason) if self._socket.is_stream else self.end(reason)

    async def _subscribe(self, event: ChangesRequested) -> None:
        key, is_stock = self._key(event.public_key), not self._session.is_ours
        if self._outbox.spacer is not None and event.start_sequence > 0:
            self._outbox.spacer.has_sql_journal = True
        await self._hub.subscribe(self, key, event.start_sequence, event.credit, is_stock=is_stock)

    def _write(self, event: WriteReceived) -> None:
        if max((len(entry.ciphertext) for entry in event.entries), default=0) > ENTRY_BYTES_MAX:
            self.end(CloseReason.TOO_LARGE)
            return
        self._writes.add(self._hub.write(self, self._key(event.public_key), event.message_id, event.entries))

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
        await self._writes.wait_for_room()
        if self._ending is None and self._outbox.size >= LIVE_BYTES_MAX:
            await self._outbox.wait_below(LIVE_BYTES_MAX)

    # -- from the hub -----------------------------------------------------------------------------------------
    @property
    def is_congested(self) -> bool:
        """Whether more waits to be sent than a live subscriber may have waiting."""
        return self._outbox.size >= LIVE_BYTES_MAX

    @property
    def ack_sequences_max(self) -> int:
        """How many sequences an Ack may list that need not list all."""
        spacer = self._outbox.spacer
        return ENTRIES_PER_MESSAGE_MAX if spacer is None else spacer.sequences_max

    def send_ack(self, message_id: int, sequences: Sequence[int], through: int | None) -> None:
        """Queue an Ack."""
        # A session that failed meanwhile can send nothing; the peer will ask again, and be told of duplicates.
        if self._ending is None and self._session.state is SessionState.OPEN:
            self._session.send_ack(message_id, sequences, through)
            self._flush()
            self._writes.acknowledge()

    def send_changes(self, broadcast: Broadcast) -> None:
        """Queue encoded Changes."""
        if self._ending is not None:
            return
        if self._outbox.spacer is None:
            self._outbox.put(self._socket.wire(broadcast))
        else:
            self._put_singly(broadcast.messages)

    def _put_singly(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self._outbox.put(message)

    def write_settled(self, size: int) -> None:
        """Count a write as no longer in flight."""
        self._writes.settle(size)

    def write_failed(self, error: Exception) -> None:
        """End the connection: an Ack that cannot be given would otherwise be waited for."""
        del error
        self.end(CloseReason.STORAGE)

    def must_catch_up(self) -> None:
        """Start reading from storage for this peer, unless that is under way."""
        self._catch_up.go_on()

    def when_read(self, then: Callable[[], None]) -> None:
        """Call back when the peer has read all that is queued for it now."""
        self._receipts.when_read(then)

    def _flush(self) -> None:
        """Move what the session wants to send into the outbox."""
        messages = self._session.data_to_send()
        if not messages:
            return
        if self._outbox.spacer is None:
            self._outbox.put(self._socket.wire(Broadcast(messages)))
        else:
            self._put_singly(messages)


def _close_reason(error: Exception) -> CloseReason:
    if isinstance(error, LimitExceededError):
        return CloseReason.TOO_LARGE
    if isinstance(error, AccessError):
        return CloseReason.UNAUTHENTICATED
    return CloseReason.PROTOCOL
