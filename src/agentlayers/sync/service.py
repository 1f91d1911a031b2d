"""
Replicate journaled stores through a server, in the background.

A replica works the same without it: writes go to the journal, and the service brings them to the
server when it can. It never holds up or fails a local write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from agentlayers import limits
from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import StateError, TransportError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.logs import get_logger
from agentlayers.sync.connection import ConnectionWorker
from agentlayers.sync.connection_pool import ConnectionPool, OnHello
from agentlayers.sync.registration import Registration
from agentlayers.sync.schedule import DEFAULT_SCHEDULE, Schedule
from agentlayers.sync.signal import Signal
from agentlayers.sync.status import QuarantinedEntry, SyncReport, SyncState, SyncStatus
from agentlayers.transport.transport import Transport

if TYPE_CHECKING:
    from agentlayers.layer import Layer
    from agentlayers.transport.memory import ServeMemory

__all__ = ["DEFAULT_STORES", "SyncService"]

DEFAULT_STORES: Final[Mapping[str, bool]] = {
    "audit_log": True,
    "chat_history": False,
    "artifacts": False,
    "agent_sessions": False,
}
"""Sync flags where none is given; a store that is not named anywhere is not synced."""

_NO_SERVER: Final = (
    "there is no server to sync with: configure a transport, for instance "
    "Transport.layer_websocket('ws://127.0.0.1:8787'), transport: {websocket: {url: ...}} in YAML, "
    "or call connect_websocket(url)"
)

logger = get_logger(__name__)


class SyncService:
    """
    Keeps registered stores equal to a server's copy of them.

    Entering it starts connecting in the background if the transport leads anywhere, and never waits
    for the network; leaving it sends what is pending for a short while and closes everything.

    Args:
        transport: Where the server is.
        encryption: Seals entries before they leave and opens those that arrive.
        stores: Sync flags by store name, on top of :data:`DEFAULT_STORES`.
        schedule: When to connect again; jittered exponential up to 5 s if not given.
        interval_seconds: Look for work and try to connect at least this often; a safety net only,
            since changes are pushed as they happen.
        clock: Wall-clock time in seconds, for what the status shows.
        random: Source of jitter.
    """

    def __init__(
        self,
        transport: Transport,
        encryption: Encryption,
        *,
        stores: Mapping[str, bool] | None = None,
        schedule: Schedule | None = None,
        interval_seconds: float | None = None,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self._transport, self._encryption = transport, encryption
        self._stores = {**DEFAULT_STORES, **(stores or {})}
        self._schedule = schedule or DEFAULT_SCHEDULE
        self._interval_seconds = interval_seconds
        self._clock, self._random = clock, random or Random()
        self._registrations: dict[str, Registration] = {}
        self._stop_listening: dict[str, Callable[[], None]] = {}
        self._changed = Signal()
        self._pool = self._new_pool()
        self._interval: asyncio.Task[None] | None = None
        self._is_open = False

    # -- life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._is_open = True
        if self._transport.is_online:
            self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        try:
            for registration in list(self._registrations.values()):
                await self._flush(registration)
        finally:
            await self.disconnect()

    def _start(self) -> None:
        self._pool.start()
        if self._interval_seconds and (self._interval is None or self._interval.done()):
            self._interval = asyncio.get_running_loop().create_task(
                self._look_again(self._interval_seconds), name="sync interval"
            )

    def _new_pool(self) -> ConnectionPool:
        def new_worker(on_hello: OnHello) -> ConnectionWorker:
            return ConnectionWorker(
                self._transport,
                self._encryption,
                schedule=self._schedule,
                clock=self._clock,
                random=self._random,
                changed=self._changed,
                on_hello=on_hello,
            )

        return ConnectionPool(new_worker, self._changed)

    async def _look_again(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            self._pool.look_again()

    # -- connecting -----------------------------------------------------------------------------

    async def connect(self) -> SyncStatus:
        """
        Start connecting and wait for the outcome of the first attempt.

        After a failure it goes on trying in the background.

        Returns:
            The status, connected.

        Raises:
            StateError: The service is not open, or has no server to connect to.
            AuthenticationError: The server refused the credentials.
            ConnectError: Nobody answers there.
        """
        self._require_server()
        self._start()
        await self._pool.until_connected()
        return self.status

    async def connect_websocket(self, url: str, token: str | None = None, tenant: str | None = None) -> SyncStatus:
        """
        Leave the present server, if any, and connect to this one; see :meth:`connect`.

        Raises:
            SettingsError: The address cannot be used.
        """
        from agentlayers.transport.websocket import WebSocketTransport

        return await self._connect_to(WebSocketTransport(url, token, tenant))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        token: str | None = None,
        tenant: str | None = None,
        *,
        tls: bool = False,
    ) -> SyncStatus:
        """
        Leave the present server, if any, and connect to this one; see :meth:`connect`.

        Raises:
            SettingsError: The address cannot be used.
        """
        from agentlayers.transport.tcp import TCPTransport

        shown_host = f"[{host}]" if ":" in host else host
        url = f"{'tls' if tls else 'tcp'}://{shown_host}:{port}"
        return await self._connect_to(TCPTransport(url, token, tenant))

    async def _connect_to(self, transport: Transport) -> SyncStatus:
        await self.disconnect()
        self._transport = transport
        self._pool = self._new_pool()
        for registration in self._registrations.values():
            if registration.enabled:
                self._pool.assign(registration)
        return await self.connect()

    async def disconnect(self) -> None:
        """Close all connections and tasks; stores stay registered, :meth:`connect` resumes."""
        interval, self._interval = self._interval, None
        if interval is not None:
            interval.cancel()
            await asyncio.wait({interval})
        await self._pool.stop()

    # -- stores ---------------------------------------------------------------------------------

    def register(self, log: EventLog, *, enabled: bool | None = None) -> Callable[[], Awaitable[None]]:
        """
        Let a store take part, if its sync flag is on.

        Args:
            log: The store, open.
            enabled: Its flag, if it is not the one configured.

        Returns:
            To be awaited when the store closes, before its journal does: sends what is pending for
            a short while if connected, and stops replicating it.

        Raises:
            StateError: A store of this name or public key takes part already.
        """
        if log.store in self._registrations or any(
            log.public_key == other.public_key for other in self._registrations.values()
        ):
            raise StateError(f"store {log.store!r} is registered for sync already")
        is_enabled = self._stores.get(log.store, False) if enabled is None else enabled
        registration = Registration(log, enabled=is_enabled)

        def note_write(commit: Any) -> None:
            if log.store in commit.stores:
                registration.note_commit()
                self._changed.notify()

        self._registrations[log.store] = registration
        self._stop_listening[log.store] = log.journal.on_commit(note_write)
        if is_enabled:
            self._pool.assign(registration)
        self._changed.notify()

        async def unregister() -> None:
            await self._unregister(registration)

        return unregister

    async def _unregister(self, registration: Registration) -> None:
        if self._registrations.get(registration.store) is not registration:
            return
        try:
            await self._flush(registration)
        finally:
            self._registrations.pop(registration.store, None)
            self._stop_listening.pop(registration.store)()
            await self._pool.release(registration)
            self._changed.notify()

    async def _flush(self, registration: Registration) -> None:
        """Give a connected server a moment to acknowledge what is pending."""
        found = self._pool.link_of(registration)
        if found is None:
            return
        link, replication = found
        try:
            async with asyncio.timeout(limits.FLUSH_ON_CLOSE_SECONDS):
                await link.while_open(replication.flush())
        except (TimeoutError, TransportError):
            logger.info("sync_flush_incomplete", store=registration.store)

    # -- exchanging -----------------------------------------------------------------------------

    async def sync_now(self, timeout_seconds: float = 30.0) -> SyncReport:
        """
        Exchange everything there is, now: all pending entries out, all entries of the server in.

        Connects first if necessary, at once even if the schedule says to wait.

        Args:
            timeout_seconds: For all of it; set by the caller.

        Raises:
            StateError: The service is not open, or has no server to sync with.
            AuthenticationError: The server refused the credentials.
            ConnectError: Nobody answers there.
            TransportError: It was not done in time. What was exchanged stays exchanged.
        """
        self._require_server()
        self._start()
        started = asyncio.get_running_loop().time()
        enabled = [r for r in self._registrations.values() if r.enabled]
        before = {r.store: (r.sent, r.received) for r in enabled}
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._pool.settle(enabled)
        except TimeoutError as error:
            raise TransportError(
                f"sync with {self._transport.url} was not complete within {timeout_seconds:g} s; "
                "what was exchanged stays, the rest follows in the background"
            ) from error
        return SyncReport(
            sent={r.store: r.sent - before[r.store][0] for r in enabled},
            received={r.store: r.received - before[r.store][1] for r in enabled},
            seconds=asyncio.get_running_loop().time() - started,
        )

    def _require_server(self) -> None:
        if not self._is_open:
            raise StateError("the sync service is not open: enter it with 'async with' first")
        if not self._transport.is_online:
            raise StateError(_NO_SERVER)

    # -- status ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the server is, without credentials."""
        return self._transport.url

    @property
    def status(self) -> SyncStatus:
        """What is known now; :meth:`refresh` counts pending entries again while not connected."""
        worker = self._pool.foremost
        is_offline = not self._transport.is_online
        link = worker.link
        error = worker.error
        return SyncStatus(
            state=SyncState.OFFLINE if is_offline else worker.state,
            url=self._transport.url,
            since=worker.since,
            stores={name: r.status() for name, r in self._registrations.items()},
            attempt=worker.attempt,
            retry_in_seconds=worker.retry_in_seconds,
            last_error=None if error is None else str(error),
            last_error_code=getattr(error, "code", None),
            remote_id=None if link is None else link.remote_id.hex(),
            is_stock=link is not None and link.session.is_stock,
        )

    async def refresh(self) -> SyncStatus:
        """Count what is pending where it changed unseen, and return the status."""
        for registration in list(self._registrations.values()):
            if self._pool.link_of(registration) is None:
                await registration.recount()
        return self.status

    async def status_stream(self) -> AsyncGenerator[SyncStatus, None]:
        """Yield the status now and after each change; changes that come quickly are merged."""
        shown: SyncStatus | None = None
        while True:
            seen = self._changed.count
            status = await self.refresh()
            if status != shown:
                shown = status
                yield status
            if self._changed.count == seen:
                await self._changed.wait()

    def quarantine(self, store: str) -> tuple[QuarantinedEntry, ...]:
        """List the latest received entries of a store that were kept out of its journal."""
        registration = self._registrations.get(store)
        return tuple(registration.quarantine) if registration is not None else ()

    def __repr__(self) -> str:
        return f"SyncService({self._transport.url!r}, {self.status.state.value})"

    # -- layers ---------------------------------------------------------------------------------

    @staticmethod
    def layer(**options: Any) -> Layer:
        """Sync over the graph's transport; ``options`` as for the constructor."""
        from agentlayers.layer import Layer

        return Layer.scoped(SyncService, SyncService, **options)

    @staticmethod
    def layer_websocket(url: str, token: str | None = None, tenant: str | None = None, **options: Any) -> Layer:
        """Sync with a WebSocket server of its own; ``options`` as for the constructor."""
        return SyncService.layer(transport=Transport.layer_websocket(url, token, tenant), **options)

    @staticmethod
    def layer_tcp(url: str, token: str | None = None, tenant: str | None = None, **options: Any) -> Layer:
        """Sync with a TCP server of its own; ``options`` as for the constructor."""
        return SyncService.layer(transport=Transport.layer_tcp(url, token, tenant), **options)

    @staticmethod
    def with_remote_sync(url: str, *, token: str | None = None, tenant: str | None = None, **options: Any) -> Layer:
        """
        Sync with the server at ``url``, over WebSocket or TCP as the address says; the shortest way to sync.

        Args:
            url: ``ws://``, ``wss://``, ``tcp://`` or ``tls://``.
            token: Secret the server asks for; never part of the address.
            tenant: Whose journals the server keeps it with.
            **options: As for the constructor.

        Raises:
            SettingsError: An address of another kind.
        """
        return SyncService.layer(transport=Transport.layer_url(url, token, tenant), **options)

    @staticmethod
    def layer_memory(serve: ServeMemory, **options: Any) -> Layer:
        """
        Sync with a server in this process: ``SyncService.layer_memory(server.serve)``.

        Args:
            serve: The ``serve`` of a :class:`~agentlayers.server.MemoryServer`.
            **options: As for the constructor.
        """
        from agentlayers.layer import Layer
        from agentlayers.transport.memory import MemoryTransport

        transport = MemoryTransport(serve, is_stream=True)
        return SyncService.layer(transport=Layer.succeed(Transport, transport), **options)

    @staticmethod
    def layer_offline(**options: Any) -> Layer:
        """Register stores and send nothing anywhere, until ``connect_websocket``."""
        return SyncService.layer(transport=Transport.layer_offline(), **options)
