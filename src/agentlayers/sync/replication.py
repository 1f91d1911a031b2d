"""One store over one connection: where it resumes, and its two halves, push and pull."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import ConnectionLostError
from agentlayers.journal.event_journal import RemoteState
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.logs import get_logger
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.events import AckReceived, ChangesReceived
from agentlayers.sync.inbox import Acknowledged, Received
from agentlayers.sync.pull import Pull
from agentlayers.sync.push import Push
from agentlayers.sync.registration import Registration
from agentlayers.sync.signal import Signal

__all__ = ["Replication"]

STOCK_GAP_SECONDS: Final = 30.0
"""So long a stock server may owe an entry below one already seen, before its backlog is read again."""

STOCK_QUIET_SECONDS: Final = 0.25
"""A stock server does not say where its backlog ends: so long without Changes counts as the end."""

logger = get_logger(__name__)


class Replication:
    """
    Keeps one store equal to the server's journal of its public key, while a connection lasts.

    Attributes:
        registration: The store.
        push: The sending half.
        pull: The receiving half.
    """

    def __init__(
        self,
        registration: Registration,
        session: ClientSession,
        encryption: Encryption,
        *,
        remote_id: bytes,
        url: str,
        flush: Callable[[], None],
        clock: Callable[[], float],
        changed: Signal,
        patience: float = 1.0,
    ) -> None:
        self.registration = registration
        self.push = Push(registration, session, encryption, flush)
        self.pull = Pull(
            registration,
            encryption,
            remote_id=remote_id,
            is_stock=session.is_stock,
            clock=clock,
            changed=changed,
        )
        self._session, self._remote_id, self._url = session, remote_id, url
        self._flush, self._changed, self._patience = flush, changed, patience
        self._barriers: dict[int, asyncio.Future[None]] = {}
        self._stop_listening: Callable[[], None] | None = None
        self._has_resumed = False
        self._resumed_at = 0
        self._is_reading_backlog = True
        self._has_to_read_again = asyncio.Event()

    async def run(self) -> None:
        """Resume from the stored cursor and replicate until cancelled or something fails."""
        log = self.registration.log
        # Listening starts before anything pending is read, so that no commit falls in between.
        self._stop_listening = log.journal.on_commit(self.push.on_commit)
        try:
            await self._resume()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.pull.run(), name=f"pull {log.store}")
                if self._session.is_stock:
                    # Entries whose Ack was lost come back as Changes; sending them again instead
                    # would be a batch of duplicates, on which a stock server closes.
                    await self.quiet()
                    group.create_task(self._look_for_gaps(), name=f"gaps {log.store}")
                self._is_reading_backlog = False
                group.create_task(self.push.run(self._remote_id), name=f"push {log.store}")
        finally:
            self._stop_listening()
            for barrier in self._barriers.values():
                barrier.cancel()

    async def _resume(self) -> None:
        """Settle where reading goes on, starting over if the server's data was replaced."""
        registration, extensions = self.registration, self._session.extensions
        log = registration.log
        incarnation = extensions.incarnation if extensions is not None else b""
        store, remote_id, url = log.store, self._remote_id, self._url

        def prepare(tx: JournalTransaction) -> RemoteState:
            state = tx.remote_state(store, remote_id)
            if state.incarnation != incarnation:
                tx.reset_remote(store, remote_id, incarnation=incarnation)
            tx.remember_remote(store, remote_id, url=url)
            return state

        known = await log.journal.transact(prepare)
        state = await log.journal.remote_state(store, remote_id)
        if known.incarnation not in (b"", incarnation):
            logger.warning("remote_data_replaced", store=store)
        registration.remote_id = self._remote_id
        registration.pending, registration.is_stale = state.pending, False
        self.pull.cursor = registration.next_sequence = state.next_sequence
        self.pull.arrived_at = asyncio.get_running_loop().time()
        self._resumed_at = state.next_sequence
        self._session.request_changes(log.public_key, state.next_sequence)
        self._has_resumed = True
        if extensions is not None:
            # Its Ack says where the server is, even if nothing else is said on this connection.
            self._session.write_entries(log.public_key, ())
        self._flush()
        self._changed.notify()

    async def _check_head(self, through: int | None) -> None:
        """Start over when the server holds less than it once had: it was restored from a backup."""
        # A server may read "from 1" as "from the start" (a stock journal asks so when it is empty).
        if through is None or through >= self._resumed_at or self._resumed_at <= 1:
            return
        log, extensions = self.registration.log, self._session.extensions
        incarnation = extensions.incarnation if extensions is not None else b""
        logger.warning("remote_head_below_cursor", store=log.store, head=through)
        await log.journal.reset_remote(log.store, self._remote_id, incarnation=incarnation)
        raise ConnectionLostError(
            reason=f"the server has {through} entries of {log.store} where it had "
            f"{self._resumed_at}; exchanging all of them again"
        )

    async def receive(self, event: ChangesReceived | AckReceived) -> None:
        """Take what the server says of this store; waits while the journal is behind."""
        await self._check_head(event.through)
        message: Received | Acknowledged
        if isinstance(event, ChangesReceived):
            size = sum([len(entry.ciphertext) for entry in event.entries])
            message = Received(event.entries, self._through(event), size)
        else:
            message = Acknowledged(
                self.push.acknowledge(event.message_id),
                event.sequence_numbers,
                event.through,
                self._barriers.pop(event.message_id, None),
            )
        await self.pull.put(message)

    def _through(self, event: ChangesReceived) -> int | None:
        """Tell what Changes prove about the entries below them."""
        if self._session.is_stock and self._is_reading_backlog and event.entries:
            # Nothing was written here yet that could hide an entry: what is missing does not exist.
            return max(entry.sequence for entry in event.entries) + 1
        return event.through

    async def _look_for_gaps(self) -> None:
        """Break the connection to a stock server that may be hiding entries from it."""
        had_gap = False
        while not self._has_to_read_again.is_set():
            try:
                async with asyncio.timeout(STOCK_GAP_SECONDS):
                    await self._has_to_read_again.wait()
            except TimeoutError:
                if had_gap and self.pull.has_gap:
                    break
                had_gap = self.pull.has_gap
        raise ConnectionLostError(
            reason=f"the server may be hiding entries of {self.registration.store} from this "
            "connection; reading from the first that is missing"
        )

    def leave(self) -> None:
        """Tell the server not to send more of this store."""
        if self._has_resumed and self._session.error is None:
            self._session.stop_changes(self.registration.public_key)
            self._flush()

    async def flush(self) -> None:
        """Return once all that was pending is acknowledged, and the journal knows it."""
        await self.push.settled()
        noted = asyncio.get_running_loop().create_future()
        await self.pull.put(Acknowledged((), (), None, noted))
        await noted

    async def settle(self) -> None:
        """
        Return once all that was pending is acknowledged and all the server had is in the journal.

        Cancelled with the connection.
        """
        await self.push.settled()
        if self._session.is_stock:
            await self.quiet()
            if self.pull.has_gap:
                self._has_to_read_again.set()
                await asyncio.get_running_loop().create_future()
            return
        # The Ack of an empty message comes behind every Changes below the server's head.
        barrier = asyncio.get_running_loop().create_future()
        message_id = self._session.write_entries(self.registration.public_key, ())
        self._barriers[message_id] = barrier
        self._flush()
        await barrier

    async def quiet(self) -> None:
        """Return once no Changes have come for a while and those that came are in the journal."""
        loop = asyncio.get_running_loop()
        seconds = STOCK_QUIET_SECONDS * self._patience
        while True:
            remaining = self.pull.arrived_at + seconds - loop.time()
            if remaining <= 0 and self.pull.is_idle:
                return
            await asyncio.sleep(max(remaining, 0.01))
