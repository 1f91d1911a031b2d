"""Sync of a service's stores with one server: its connections, and what is known there of each store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from agentlayers import limits
from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import AgentLayersError, ConnectionLostError, StateError, TransportError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.event_journal import Commit
from agentlayers.logs import get_logger
from agentlayers.schedule import Schedule
from agentlayers.sync.connection import ConnectionWorker
from agentlayers.sync.connection_pool import ConnectionPool, OnHello
from agentlayers.sync.flags import SyncFlag
from agentlayers.sync.registration import Registration
from agentlayers.sync.signal import Signal
from agentlayers.sync.status import RemoteReport, SyncState, SyncStatus
from agentlayers.transport.transport import Transport

__all__ = ["RemoteSync", "fetch_from_any", "settle_all", "until_ended"]

logger = get_logger(__name__)

_BREAKS_MAX: Final = 3
"""So often may a connection break before it has answered a question once more."""


class RemoteSync:
    """
    One server, and the stores replicated with it.

    Attributes:
        transport: Where it is.
        registrations: The stores, by name.
    """

    def __init__(
        self,
        transport: Transport,
        encryption: Encryption,
        *,
        relay: bool | None,
        schedule: Schedule,
        clock: Callable[[], float],
        random: Random,
        changed: Signal,
    ) -> None:
        self.transport = transport
        self.registrations: dict[str, Registration] = {}
        self._relay, self._random, self._changed = relay, random, changed

        def new_worker(on_hello: OnHello) -> ConnectionWorker:
            return ConnectionWorker(
                transport,
                encryption,
                schedule=schedule,
                clock=clock,
                random=random,
                changed=changed,
                on_hello=on_hello,
            )

        self._pool = ConnectionPool(new_worker, changed)

    @property
    def url(self) -> str:
        """Where the server is, without credentials."""
        return self.transport.url

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin connecting in the background, if there is anywhere to connect to."""
        if self.transport.is_online:
            self._pool.start()

    def stop(self) -> set[asyncio.Task[None]]:
        """Begin to close all connections; returns the tasks that end with them."""
        return self._pool.stop()

    def leave(self) -> set[asyncio.Task[None]]:
        """Begin to close all connections for good; returns the tasks that end with them."""
        for registration in self.registrations.values():
            registration.met()
        return self.stop()

    async def until_connected(self) -> None:
        """
        Wait for the outcome of the first attempt.

        Raises:
            AgentLayersError: Why it failed.
        """
        await self._pool.until_connected()

    def look_again(self) -> None:
        """Cut pauses short, and look for pending entries on open connections."""
        self._pool.look_again()

    # -- stores ---------------------------------------------------------------------------------

    def add(self, log: EventLog, *, flag: SyncFlag) -> None:
        """Let a store take part."""
        enabled, on_demand = flag is not False, flag == "on_demand"
        registration = Registration(
            log,
            enabled=enabled,
            on_demand=on_demand,
            relay=self._relay,
            random=self._random,
            changed=self._changed,
        )
        self.registrations[log.store] = registration
        if enabled:
            if self.transport.is_online:
                registration.expect(self.url)
            self._pool.assign(registration)

    def remove(self, store: str) -> set[asyncio.Task[None]]:
        """Stop replicating a store; returns the tasks that end with it."""
        registration = self.registrations.pop(store, None)
        if registration is None:
            return set()
        registration.met()
        return self._pool.release(registration)

    def note_commit(self, store: str, commit: Commit) -> None:
        """Take note that a store got entries."""
        registration = self.registrations.get(store)
        if registration is not None:
            registration.note_commit(commit)

    # -- exchanging -----------------------------------------------------------------------------

    async def flush(self, store: str) -> None:
        """Give a connected server a moment to acknowledge what was written here."""
        registration = self.registrations.get(store)
        found = None if registration is None else self._pool.link_of(registration)
        if found is None:
            return
        link, replication = found
        try:
            async with asyncio.timeout(limits.FLUSH_ON_CLOSE_SECONDS):
                await link.while_replicated(replication, replication.flush())
        except (TimeoutError, TransportError):
            logger.info("sync_flush_incomplete", store=store, url=self.url)

    async def fetch(self, store: str, entry_ids: Sequence[bytes]) -> list[bytes]:
        """
        Take over entries by id, once it is connected; whoever asks has called :meth:`start`.

        Returns:
            The ids the server does not have.

        Raises:
            StateError: This server does not offer it, or the store was closed meanwhile.
            AgentLayersError: Why an attempt to connect failed.
        """
        await self._pool.until_connected()
        registration, breaks = self.registrations.get(store), 0
        if registration is None:
            raise StateError(f"store {store!r} was closed meanwhile")
        left, missing = list(entry_ids), list[bytes]()
        while left:
            batch = left[: limits.FETCH_ENTRIES_MAX]
            try:
                link, replication = await self._pool.until_linked(registration)
                answer = await link.fetch(registration.public_key, batch)
            except ConnectionLostError:
                # It was open and broke, perhaps for another store's sake; not for ever, as another server may have it.
                breaks += 1
                if breaks > _BREAKS_MAX:
                    raise
                await self._pool.until_connected(at_once=False)
                continue
            breaks = 0
            answered = batch[: len(batch) - len(answer.unanswered)]
            found = {entry.entry_id for entry in answer.entries}
            missing += [entry_id for entry_id in answered if entry_id not in found]
            await replication.pull.take(answer.entries)
            left = left[len(answered) :]
        return missing

    async def settle(self, deadline: float, timeout_seconds: float) -> None:
        """
        Exchange everything there is, connecting as often as it takes; whoever asks has called :meth:`start`.

        Args:
            deadline: Loop time at which it has to be done.
            timeout_seconds: What that was at the beginning, for the message.

        Raises:
            AgentLayersError: Why an attempt to connect failed, or a :class:`TransportError`: it was not done in time.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await self._pool.settle([r for r in self.registrations.values() if r.enabled])
        except TimeoutError as error:
            raise TransportError(
                f"sync with {self.url} was not complete within {timeout_seconds:g} s; "
                "what was exchanged stays, the rest follows in the background"
            ) from error

    def counts(self) -> RemoteReport:
        """Return what was exchanged so far, since the stores were registered."""
        enabled = [r for r in self.registrations.values() if r.enabled]
        return RemoteReport(
            url=self.url, sent={r.store: r.sent for r in enabled}, received={r.store: r.received for r in enabled}
        )

    # -- status ---------------------------------------------------------------------------------

    def status(self) -> SyncStatus:
        """Return what is known now."""
        worker = self._pool.foremost
        link, error = worker.link, worker.error
        return SyncStatus(
            state=worker.state if self.transport.is_online else SyncState.OFFLINE,
            url=self.url,
            since=worker.since,
            stores={name: registration.status() for name, registration in self.registrations.items()},
            attempt=worker.attempt,
            retry_in_seconds=worker.retry_in_seconds,
            last_error=None if error is None else str(error),
            last_error_code=getattr(error, "code", None),
            remote_id=None if link is None else link.remote_id.hex(),
            is_stock=link is not None and link.session.is_stock,
        )

    async def recount(self) -> None:
        """Count what is pending where it changed unseen."""
        for registration in list(self.registrations.values()):
            if self._pool.link_of(registration) is None or registration.is_relayed_stale:
                await registration.recount()
                if (found := self._pool.link_of(registration)) is not None:
                    # What is in flight may be noted already, and its Acks are about to be taken off once more.
                    registration.is_stale = True
                    found[1].push.wake()


async def settle_all(
    remotes: Sequence[RemoteSync], deadline: float, timeout_seconds: float
) -> dict[str, BaseException]:
    """Exchange with several servers at once, as :meth:`RemoteSync.settle` does; returns why some failed, by address."""
    outcomes = await asyncio.gather(
        *(remote.settle(deadline, timeout_seconds) for remote in remotes), return_exceptions=True
    )
    return {remote.url: error for remote, error in zip(remotes, outcomes, strict=True) if error is not None}


async def fetch_from_any(remotes: Sequence[RemoteSync], store: str, entry_ids: Sequence[bytes]) -> list[bytes]:
    """
    Take over entries by id from whichever server has them; returns the ids that none has.

    Raises:
        AgentLayersError: Why the first of those failed that might have had what is missing.
    """
    missing, errors = list(entry_ids), list[AgentLayersError]()
    # All before any is waited for: what is disconnected meanwhile must not be connected again.
    for remote in remotes:
        remote.start()
    for remote in remotes:
        try:
            missing = await remote.fetch(store, missing) if missing else []
        except AgentLayersError as error:
            errors.append(error)
    if missing and errors:
        raise errors[0]
    return missing


async def until_ended(tasks: set[asyncio.Task[None]]) -> None:
    """Return once all of them have ended."""
    if tasks:
        await asyncio.wait(tasks)
