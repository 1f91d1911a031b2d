"""
The connections of one service: one for all stores, or to a stock server one for each store.

A stock server keeps one position for all public keys of a connection, and so hides entries of one
key behind another's. Which kind of server it is, ``Hello`` tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from agentlayers.errors import ConnectionLostError, StateError
from agentlayers.sync.connection import ConnectionWorker
from agentlayers.sync.link import Link
from agentlayers.sync.registration import Registration
from agentlayers.sync.replication import Replication
from agentlayers.sync.signal import Signal
from agentlayers.sync.status import SyncState
from agentlayers.sync.unless_ended import unless_ended

__all__ = ["ConnectionPool", "OnHello"]

OnHello = Callable[[ConnectionWorker, Link], bool]

_ADVANCEMENT: Final = (
    SyncState.STOPPED,
    SyncState.WAITING,
    SyncState.CONNECTING,
    SyncState.CONNECTED,
)


class ConnectionPool:
    """
    Assigns stores to connections.

    Args:
        new_worker: Makes a connection that asks the given function what to do after ``Hello``.
        changed: Notified by the workers whenever a state changes.
    """

    def __init__(self, new_worker: Callable[[OnHello], ConnectionWorker], changed: Signal) -> None:
        self._new_worker, self._changed = new_worker, changed
        self._workers = [new_worker(self._arrange)]

    @property
    def foremost(self) -> ConnectionWorker:
        """The least advanced connection: the one whose state is that of the whole."""
        return min(self._workers, key=lambda worker: _ADVANCEMENT.index(worker.state))

    def start(self) -> None:
        """Begin connecting, wherever that was not begun or was given up."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> set[asyncio.Task[None]]:
        """Begin to close all connections; returns the tasks that end with them."""
        return {task for worker in self._workers for task in worker.stop()}

    def assign(self, registration: Registration) -> None:
        """Replicate a store, at once over a connection that is open."""
        worker = self._workers[0]
        if worker.assigned and worker.link is not None and worker.link.session.is_stock:
            self._give_own_connection(registration)
        else:
            worker.assign(registration)

    def release(self, registration: Registration) -> set[asyncio.Task[None]]:
        """Stop replicating a store; returns the tasks that end with it."""
        ending: set[asyncio.Task[None]] = set()
        for worker in list(self._workers):
            ending |= worker.release(registration)
            if worker in self._workers[1:] and not worker.assigned:
                self._workers.remove(worker)
                ending |= worker.stop()
        return ending

    def link_of(self, registration: Registration) -> tuple[Link, Replication] | None:
        """Find the open connection that replicates a store."""
        for worker in self._workers:
            if worker.link is not None:
                replication = worker.link.replications.get(registration.public_key)
                if replication is not None and replication.registration is registration:
                    return worker.link, replication
        return None

    def look_again(self) -> None:
        """Cut pauses short, and look for pending entries on open connections."""
        for worker in self._workers:
            worker.retry_now()
            for registration in worker.assigned.values():
                registration.retry()
            for replication in worker.link.replications.values() if worker.link else ():
                replication.push.wake()

    async def until_connected(self, *, at_once: bool = True) -> None:
        """
        Wait until every connection is up.

        Args:
            at_once: Cut the pause short that one is in.

        Raises:
            AgentLayersError: What made the next attempt of one fail.
            StateError: It was disconnected meanwhile.
        """
        before = {worker: worker.failures for worker in self._workers}
        for worker in self._workers if at_once else ():
            worker.retry_now()

        def failed() -> ConnectionWorker | None:
            for worker in self._workers:
                has_failed = worker.failures > before.get(worker, 0) and worker.error is not None
                if has_failed or not worker.is_running:
                    return worker
            return None

        def is_decided() -> bool:
            return failed() is not None or all(worker.state is SyncState.CONNECTED for worker in self._workers)

        await self._changed.until(is_decided)
        loser = failed()
        if loser is not None:
            raise loser.error or StateError("the sync service was disconnected meanwhile; what was exchanged stays")

    async def settle(self, registrations: Sequence[Registration]) -> None:
        """
        Wait until nothing is pending and all the server had is here, connecting as often as it takes.

        Raises:
            AgentLayersError: What made an attempt to connect fail, or why a journal did not take what there was.
        """
        failures = {registration: registration.failures for registration in registrations}
        for registration in registrations:
            registration.retry()
        await self.until_connected()
        while True:
            try:
                for registration in registrations:
                    link, replication = await self.until_linked(registration)
                    await link.while_replicated(replication, _settled(replication, failures[registration]))
                return
            except ConnectionLostError:
                # It was open and broke; the next attempt tells whether the server is still there. Not at once: one that
                # breaks off each time would be stormed.
                await self.until_connected(at_once=False)

    async def until_linked(self, registration: Registration) -> tuple[Link, Replication]:
        """
        Wait for the connection that replicates a store.

        Raises:
            StateError: The store was closed meanwhile.
            AgentLayersError: Why an attempt to connect failed.
        """
        while (found := self.link_of(registration)) is None:
            if not any(one is registration for worker in self._workers for one in worker.assigned.values()):
                raise StateError(f"store {registration.store!r} was closed meanwhile")
            await self.until_connected(at_once=False)
            if self.link_of(registration) is None:
                await self._changed.wait()
        return found

    def _arrange(self, worker: ConnectionWorker, link: Link) -> bool:
        """Spread or gather the stores as the server needs it; whether ``worker`` is needed."""
        if link.session.is_stock:
            for registration in list(worker.assigned.values())[1:]:
                del worker.assigned[registration.public_key]
                self._give_own_connection(registration)
            return True
        first = self._workers[0]
        if worker is first or (first.link is not None and first.link.session.is_stock):
            return True  # A stock server, which is perhaps about to be replaced, must not get a second store there.
        self._workers.remove(worker)
        for registration in worker.assigned.values():
            first.assign(registration)
        return False

    def _give_own_connection(self, registration: Registration) -> None:
        worker = self._new_worker(self._arrange)
        self._workers.append(worker)
        worker.assign(registration)
        worker.start()


async def _settled(replication: Replication, failures: int) -> None:
    """
    Wait until everything is exchanged of a store, but not for a journal that fails.

    Args:
        replication: Of the store.
        failures: How often its journal had failed before.

    Raises:
        ConnectionLostError: The connection ended.
        AgentLayersError: Why the journal fails.
    """
    failing = asyncio.ensure_future(replication.registration.until_failed(failures))
    try:
        await unless_ended(replication.settle(), failing)
    finally:
        failing.cancel()
