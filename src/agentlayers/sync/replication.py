"""One store over one connection: where it resumes, and its two halves, push and pull."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from agentlayers import limits
from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import ConnectionLostError, StorageError
from agentlayers.journal.event_journal import RelayMode, RemoteState
from agentlayers.journal.transaction import JournalTransaction
from agentlayers.logs import get_logger
from agentlayers.protocol.client_session import ClientSession
from agentlayers.protocol.credit import cost_of
from agentlayers.protocol.events import AckReceived, ChangesReceived
from agentlayers.protocol.messages import HeadDigest
from agentlayers.protocol.session import SessionState
from agentlayers.sync.inbox import Acknowledged, Received
from agentlayers.sync.known_entries import KnownEntries
from agentlayers.sync.pull import Pull
from agentlayers.sync.push import Push
from agentlayers.sync.registration import Registration
from agentlayers.sync.signal import Signal

__all__ = ["Replication"]

STOCK_GAP_SECONDS: Final = 30.0
"""So long a stock server may owe an entry below one already seen, before its backlog is read again."""

_PINGS_MAX: Final = 8
"""Pings without a Pong whose cursors are remembered; the connection is dead long before."""

DIVERGED_SECONDS: Final = 3600.0
"""A server that claims other entries than it sends itself is exchanged everything with no more often than this."""

STOCK_QUIET_SECONDS: Final = 0.25
"""A stock server does not say where its backlog ends: so long without Changes counts as the end."""

logger = get_logger(__name__)


class _Resumption(NamedTuple):
    """
    What the journal says when a connection begins.

    Attributes:
        incarnation_before: What the server's data called itself last time.
        state: Where it stands now.
        known: What the server is believed to have.
        last_position: Of the journal.
        has_kept: Something was kept aside, and was not tried with the key of this process yet.
    """

    incarnation_before: bytes
    state: RemoteState
    known: KnownEntries
    last_position: int
    has_kept: bool


class Replication:
    """
    Keeps one store equal to the server's journal of its public key, while a connection lasts.

    Attributes:
        registration: The store.
        push: The sending half.
        pull: The receiving half.
        follows: Whether changes are asked for; not where entries are fetched on demand instead.
        has_resumed: Whether this connection knows where it goes on.
        ended: Done once nothing more comes of it.
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
        self.registration, self._session = registration, session
        self.follows = not (registration.on_demand and session.fetches)
        relays = self._relay_mode is not RelayMode.NEVER
        self.push = Push(registration, session, encryption, flush, remote_id=remote_id, relays=relays)
        self.pull = Pull(
            registration,
            encryption,
            remote_id=remote_id,
            counts_entries=not session.sends_through,
            clock=clock,
            changed=changed,
            grant=self._grant if session.takes_credit else None,
        )
        self._remote_id, self._url = remote_id, url
        self._flush, self._changed, self._patience = flush, changed, patience
        self._clock = clock
        self._barriers: dict[int, asyncio.Future[None]] = {}
        self._stop_listening: Callable[[], None] | None = None
        self.has_resumed = False
        self._resumed_at = 0
        self._is_reading_backlog = True
        self._has_to_read_again = asyncio.Event()
        self._asked: dict[int, KnownEntries] = {}
        self._owed_since: int | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Resume from the stored cursor and replicate until cancelled or something fails."""
        log = self.registration.log
        # Listening starts before anything pending is read, so that no commit falls in between.
        self._stop_listening = log.journal.on_commit(self.push.on_commit)
        try:
            if await self._resume():
                await self.registration.persisted("reopen", self.pull.reopen)
            self.registration.has_reopened = True
            async with asyncio.TaskGroup() as group:
                group.create_task(self.pull.run(), name=f"pull {log.store}")
                if self._session.is_stock:
                    # Entries whose Ack was lost come back as Changes; sending them again instead
                    # would be a batch of duplicates, on which a stock server closes.
                    await self.quiet()
                    group.create_task(self._look_for_gaps(), name=f"gaps {log.store}")
                self._is_reading_backlog = False
                group.create_task(self.push.run(), name=f"push {log.store}")
                if self._relay_mode is not RelayMode.NEVER:
                    group.create_task(self._relay(), name=f"relay {log.store}")
        finally:
            self._stop_listening()
            self.close()

    def close(self) -> None:
        """Let nobody wait for what this replication will not do any more."""
        self.push.close()
        self.pull.close()
        for barrier in self._barriers.values():
            barrier.cancel()
        if not self.ended.done():
            self.ended.set_result(None)
            self.registration.left()

    @property
    def _relay_mode(self) -> RelayMode:
        """Whether the server is sent what came from others."""
        if self.registration.relay is None:
            # A server that is not followed does not say what it has.
            is_told = self.follows and not self._session.is_stock
            return RelayMode.WHEN_SEVERAL if is_told else RelayMode.NEVER
        return RelayMode.ALWAYS if self.registration.relay else RelayMode.NEVER

    async def _relay(self) -> None:
        """Let relaying begin once there is something to relay and the server has said what it has."""
        await self.push.until_relayable()
        await self._caught_up()
        self.push.relay()

    async def _caught_up(self) -> None:
        """Return once all the server had is in the journal."""
        if self._session.is_stock:
            await self.quiet()
            return
        # The Ack of an empty message comes behind every Changes below the server's head.
        await self.push.progress.until(lambda: self._session.has_room(self.registration.public_key))
        barrier = asyncio.get_running_loop().create_future()
        message_id = self._session.write_entries(self.registration.public_key, ())
        self._barriers[message_id] = barrier
        self._flush()
        await barrier

    async def _resume(self) -> bool:
        """
        Settle where reading goes on, starting over if the server's data was replaced.

        Returns:
            Whether something was kept aside that is to be tried again.
        """
        registration, extensions = self.registration, self._session.extensions
        log = registration.log
        incarnation = extensions.incarnation if extensions is not None else b""
        store, remote_id, url, relay = log.store, self._remote_id, self._url, self._relay_mode

        def prepare(tx: JournalTransaction) -> _Resumption:
            before = tx.remote_state(store, remote_id).incarnation
            if before != incarnation or registration.must_start_over:
                tx.reset_remote(store, remote_id, incarnation=incarnation)
            elif tx.count_not_kept(store):
                tx.return_to_not_kept(store, remote_id, key_check=self.pull.key_check)
            tx.remember_remote(store, remote_id, url=url, relay=relay)
            state = tx.remote_state(store, remote_id)
            known = KnownEntries.load(tx, store, remote_id, state.next_sequence)
            known.save(tx, store, remote_id)
            has_kept = not registration.has_reopened and bool(tx.quarantined(store, entries_max=1))
            return _Resumption(before, state, known, tx.next_position() - 1, has_kept)

        changes = registration.changes
        # One transaction for all of it: until it is done the server is asked nothing.
        resumption = await registration.persisted("resume", lambda: log.journal.transact(prepare))
        before, state = resumption.incarnation_before, resumption.state
        self.pull.known = resumption.known
        registration.must_start_over = False
        registration.met()
        if before not in (b"", incarnation):
            logger.warning("remote_data_replaced", store=store)
        registration.remote_id = self._remote_id
        registration.counted(state.pending, since=changes)
        if state.relayed:
            self.push.note_relayable(resumption.last_position)
        self.pull.cursor = registration.next_sequence = state.next_sequence
        self.pull.arrived_at = asyncio.get_running_loop().time()
        self._resumed_at = state.next_sequence
        self.has_resumed = True
        if self.follows:
            self._ask(state.next_sequence)
        self._flush()
        self._changed.notify()
        return resumption.has_kept

    def _ask(self, next_sequence: int) -> None:
        """Follow the store, and have the server say where it is."""
        public_key = self.registration.public_key
        credit = limits.PULL_CREDIT_BYTES if self._session.takes_credit else None
        self._session.request_changes(public_key, next_sequence, credit)
        # The answer says where the server is, even if nothing else is said on this connection.
        if self._session.compares_digests:
            self.asked(self._session.ping({public_key: next_sequence}))
        elif self._session.extensions is not None:
            self._session.write_entries(public_key, ())

    def _grant(self, amount: int) -> None:
        """Let the server send more of this store."""
        if self._session.state is SessionState.OPEN:
            self._session.grant_credit(self.registration.public_key, amount)
            self._flush()

    async def _check_head(self, through: int | None) -> None:
        """Start over when the server holds less than it once had: it was restored from a backup."""
        # A server may read "from 1" as "from the start" (a stock journal asks so when it is empty).
        if through is None or through >= self._resumed_at or self._resumed_at <= 1:
            return
        store = self.registration.store
        logger.warning("remote_head_below_cursor", store=store, head=through)
        self._start_over(f"the server has {through} entries of {store} where it had {self._resumed_at}")

    def _start_over(self, reason: str) -> NoReturn:
        # The next connection does it: a transaction of this one may still be on its way to the journal.
        self.registration.must_start_over = True
        raise ConnectionLostError(reason=f"{reason}; exchanging all of them again")

    def asked(self, ping_id: int) -> None:
        """Remember what is known now, to compare it with the Pong of this id."""
        if len(self._asked) >= _PINGS_MAX:
            del self._asked[min(self._asked)]
        self._asked[ping_id] = self.pull.known.copy()

    async def compare(self, ping_id: int, said: HeadDigest, *, is_quiet: bool) -> None:
        """
        Compare what the server says it has with what we believe it has.

        Args:
            ping_id: Which Ping it answers.
            said: Its head, and its digest below the cursor of that Ping.
            is_quiet: Nothing else came since the Ping, so the server is not busy sending what we lack.

        Raises:
            ConnectionLostError: They differ, or the server does not send what it has.
        """
        known = self._asked.pop(ping_id, None)
        if known is None:
            return
        registration = self.registration
        registration.head = said.head
        self._changed.notify()
        self._check_owed(said.head, is_quiet=is_quiet)
        if said.head < known.cursor:
            registration.is_diverged, registration.diverged_at = True, asyncio.get_running_loop().time()
            self._start_over(f"the server has {said.head} entries of {registration.store} where it had {known.cursor}")
        elif said.digest is None:
            return  # It has not computed it yet.
        elif known.digest is None:
            await self._adopt(known.cursor, said.digest)
        elif known.digest != said.digest:
            self._diverged(known.cursor, said.head)
        elif known.cursor > 0 or said.head == 0:  # That both have nothing below 0 proves nothing.
            registration.verified_at = self._clock()
            # What differed may lie behind what is the same so far.
            registration.is_diverged = registration.is_diverged and known.cursor < said.head
            registration.is_contradictory = registration.is_contradictory and registration.is_diverged

    def _check_owed(self, head: int, *, is_quiet: bool) -> None:
        """Read again from the cursor if the server sat on something for a whole heartbeat."""
        owes = is_quiet and self.pull.is_idle and head > self.pull.cursor
        if owes and self._owed_since == self.pull.cursor:
            raise ConnectionLostError(
                reason=f"the server has {head} entries of {self.registration.store} and has stopped "
                f"sending at {self.pull.cursor}"
            )
        self._owed_since = self.pull.cursor if owes else None

    def _diverged(self, cursor: int, head: int) -> None:
        registration, now = self.registration, asyncio.get_running_loop().time()
        # Nothing is restored under a connection that lives; under one that went on from a cursor it may have been, even
        # while what was found before is still being mended.
        registration.is_contradictory = registration.is_contradictory or self._resumed_at == 0
        is_recent = registration.is_diverged and now < registration.diverged_at + DIVERGED_SECONDS
        if is_recent and registration.is_contradictory:
            return
        logger.warning("remote_diverged", store=registration.store, cursor=cursor, head=head)
        registration.is_diverged, registration.diverged_at = True, now
        self._start_over(f"the server holds other entries of {registration.store} than it said it held")

    async def _adopt(self, cursor: int, digest: bytes) -> None:
        """Take the server's digest as the one to compare with from now on: ours was never computed."""
        if self.pull.known.cursor != cursor or self.pull.known.digest is not None or not self.pull.is_idle:
            return
        store, remote_id = self.registration.store, self._remote_id
        self.pull.known = known = KnownEntries(cursor, digest)
        # Where the journal cannot take it, the next transaction that it can take will.
        with contextlib.suppress(StorageError):
            await self.registration.log.journal.transact(lambda tx: known.save(tx, store, remote_id))

    async def receive(self, event: ChangesReceived | AckReceived) -> None:
        """Take what the server says of this store; waits while the journal is behind."""
        await self._check_head(event.through)
        message: Received | Acknowledged
        if isinstance(event, ChangesReceived):
            message = Received(event.entries, self._through(event), cost_of(event.entries))
        else:
            message = Acknowledged(
                self.push.acknowledge(event.message_id),
                event.sequence_numbers,
                event.through,
                entry_ids=event.entry_ids,
                barrier=self._barriers.pop(event.message_id, None),
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
        if self.has_resumed and self.follows and self._session.error is None:
            self._session.stop_changes(self.registration.public_key)
            self._flush()

    async def flush(self) -> None:
        """Return once all that was pending is acknowledged, and the journal knows it."""
        await self.push.settled()
        noted = asyncio.get_running_loop().create_future()
        await self.pull.put(Acknowledged((), (), None, barrier=noted))
        await noted

    async def settle(self) -> None:
        """
        Return once all that was pending is acknowledged and all the server had is in the journal.

        Cancelled with the connection.
        """
        await self._changed.until(lambda: self.has_resumed)
        if self.push.has_relayable:
            await self._caught_up()
            self.push.relay()
        await self.push.settled(relayed=True)
        await self._caught_up()
        if self._session.is_stock and self.pull.has_gap:
            self._has_to_read_again.set()
            await asyncio.get_running_loop().create_future()

    async def quiet(self) -> None:
        """Return once no Changes have come for a while and those that came are in the journal."""
        loop = asyncio.get_running_loop()
        seconds, since = STOCK_QUIET_SECONDS * self._patience, loop.time()
        while True:
            # From now on: what was written a moment ago may be on its way, however long it was quiet before.
            remaining = max(self.pull.arrived_at, since) + seconds - loop.time()
            if remaining <= 0 and self.pull.is_idle:
                return
            await asyncio.sleep(max(remaining, 0.01))
