"""
Keep a connection: connect, replicate until it ends for whatever reason, wait, and again.

Every end of a connection that nobody asked for counts as a failure, a close with code 1000 too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Final

from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import AccessError, AgentLayersError
from agentlayers.logs import get_logger
from agentlayers.schedule import Schedule
from agentlayers.sync.link import Link
from agentlayers.sync.registration import Registration
from agentlayers.sync.signal import Signal
from agentlayers.sync.status import SyncState
from agentlayers.transport.transport import Transport

__all__ = ["ConnectionWorker"]

REFUSED_RETRY_SECONDS: Final = 30.0
"""Shortest pause after refused credentials: they do not get better by themselves."""

_PATIENCE_MAX: Final = 16.0
"""Backlogs of a stock server whose connections keep breaking are waited for up to so much longer."""

logger = get_logger(__name__)


class ConnectionWorker:
    """
    One connection, again and again, and the stores assigned to it.

    Attributes:
        state: Where it stands.
        since: When that state began.
        link: The open connection, while there is one.
        assigned: The stores replicated over it, by public key.
        attempt: Failures since a connection last was of use.
        failures: Failures ever; tells a waiter that an attempt ended.
        error: Why the last attempt or connection ended.
        retry_in_seconds: Pause before the next attempt, while waiting.
    """

    def __init__(
        self,
        transport: Transport,
        encryption: Encryption,
        *,
        schedule: Schedule,
        clock: Callable[[], float],
        random: Random,
        changed: Signal,
        on_hello: Callable[[ConnectionWorker, Link], bool],
    ) -> None:
        self.state = SyncState.STOPPED
        self.since = datetime.fromtimestamp(clock(), UTC)
        self.link: Link | None = None
        self.assigned: dict[str, Registration] = {}
        self.attempt = self.failures = 0
        self.error: Exception | None = None
        self.retry_in_seconds: float | None = None
        self._transport, self._encryption, self._schedule = transport, encryption, schedule
        self._clock, self._random, self._changed = clock, random, changed
        self._on_hello = on_hello
        self._breaks = 0
        self._retry = Signal()
        self._is_hurried = False
        self._is_stopping = False
        self._starts_again = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it is connected or will try again."""
        return self._task is not None and (self._starts_again or not self._is_stopping)

    def start(self) -> None:
        """Begin connecting in the background; nothing happens if it runs already."""
        if self._task is not None:
            # One that is still closing must not take the next one's connection with it.
            self._starts_again = self._is_stopping
            return
        self.attempt, self._is_stopping, self._starts_again = 0, False, False
        self._enter(SyncState.CONNECTING)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sync connection")
        self._task.add_done_callback(self._ended)

    def stop(self) -> set[asyncio.Task[None]]:
        """Begin to close the connection; returns the task that ends with it, if there is one."""
        self._starts_again = False
        if self._task is None:
            self._enter(SyncState.STOPPED)
            return set()
        if not self._is_stopping:
            self._is_stopping = True
            self._task.cancel()
        return {self._task}

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Say so, however it came about: whoever asked for it may have stopped waiting."""
        del task
        self._task = None
        if self._starts_again:
            self.start()
        elif self._is_stopping:
            self._enter(SyncState.STOPPED)

    def retry_now(self) -> None:
        """Cut the present pause short, or leave out the one that is about to begin."""
        self._is_hurried = self.state is not SyncState.CONNECTED
        self._retry.notify()

    def assign(self, registration: Registration) -> None:
        """Replicate a store over this connection, now if it is open."""
        self.assigned[registration.public_key] = registration
        if self.link is not None:
            self.link.start(registration)

    def release(self, registration: Registration) -> set[asyncio.Task[None]]:
        """Stop replicating a store; returns the task that ends with it, if there is one."""
        if self.assigned.get(registration.public_key) is registration:
            del self.assigned[registration.public_key]
        return set() if self.link is None else self.link.stop(registration)

    async def _run(self) -> None:
        while True:
            try:
                if not await self._connect():
                    return
            except Exception as error:  # noqa: BLE001 - whatever it is, a replica must come back
                self._failed(_first(error))
            if self._is_stopping:
                # Before Python 3.13 a task group that is failing already swallows a cancellation.
                return
            assert self.error is not None
            pause = self._schedule.delay_seconds(self.attempt, self._random)
            if pause is None:
                self._is_stopping = True
                self._enter(SyncState.STOPPED)
                return
            if isinstance(self.error, AccessError):
                pause = max(pause, REFUSED_RETRY_SECONDS)
            await self._pause(pause)

    async def _connect(self) -> bool:
        """Hold one connection; :obj:`False` if it turned out not to be needed."""
        self._enter(SyncState.CONNECTING)
        self._is_hurried = False
        link = await Link.open(
            self._transport,
            self._encryption,
            clock=self._clock,
            changed=self._changed,
            patience=min(2.0 ** min(self._breaks, 10), _PATIENCE_MAX),
        )
        self.link = link
        try:
            if not self._on_hello(self, link):
                await link.close()
                return False
            logger.info("sync_connected", url=self._transport.url, remote=link.remote_id.hex())
            self._enter(SyncState.CONNECTED)
            await link.run(self.assigned.values())
        finally:
            self.link = None
            # A server that was merely away owes nobody patience; one that keeps breaking off does.
            self._breaks = 1 if link.was_useful else self._breaks + 1
            if link.was_useful:
                self.attempt = 0
        raise AssertionError("a link ends by an error only")

    def _failed(self, error: Exception) -> None:
        self.attempt += 1
        self.failures += 1
        self.error = error
        if isinstance(error, AgentLayersError):
            logger.info(
                "sync_disconnected",
                url=self._transport.url,
                attempt=self.attempt,
                code=error.code.value,
                error=str(error),
            )
        else:
            logger.error("sync_failed", url=self._transport.url, exc_info=error)

    async def _pause(self, seconds: float) -> None:
        self._enter(SyncState.WAITING, retry_in_seconds=seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._retry.until(lambda: self._is_hurried)
        except TimeoutError:
            pass

    def _enter(self, state: SyncState, *, retry_in_seconds: float | None = None) -> None:
        if state is not self.state:
            self.since = datetime.fromtimestamp(self._clock(), UTC)
        self.state, self.retry_in_seconds = state, retry_in_seconds
        if state is SyncState.CONNECTED:
            self.error = None
        self._changed.notify()


def _first(error: Exception) -> Exception:
    """Find what ended a task group first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
