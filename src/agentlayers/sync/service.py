"""
Replicate journaled stores through one server or several, in the background.

A replica works the same without it: writes go to the journal, and the service brings them to the
servers when it can. It never holds up or fails a local write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, Unpack

from agentlayers.crypto.encryption import Encryption
from agentlayers.errors import SettingsError, StateError, TransportError
from agentlayers.eventlog.event_log import EventLog
from agentlayers.journal.event_journal import Commit
from agentlayers.schedule import Schedule
from agentlayers.sync.flags import SyncFlag, checked_flags, flag_of
from agentlayers.sync.remote_sync import RemoteSync, fetch_from_any, settle_all, until_ended
from agentlayers.sync.schedule import DEFAULT_SCHEDULE
from agentlayers.sync.signal import Signal
from agentlayers.sync.status import (
    QuarantinedEntry,
    SyncReport,
    SyncStatus,
    combined_status,
    report_since,
)
from agentlayers.transport.offline import OfflineTransport
from agentlayers.transport.transport import TLSFiles, Transport, take_tls

if TYPE_CHECKING:
    from agentlayers.layer import Layer
    from agentlayers.transport.memory import ServeMemory

__all__ = ["SyncService"]

_NOT_OPEN: Final = "the sync service is not open: enter it with 'async with' first"

_NO_SERVER: Final = (
    "there is no server to sync with: configure a transport, for instance "
    "Transport.layer_websocket('ws://127.0.0.1:8787'), transport: {websocket: {url: ...}} in YAML, "
    "or call connect_websocket(url)"
)


class SyncService:
    """
    Keeps registered stores equal to the copies that servers have of them.

    Entering it starts connecting in the background if the transport leads anywhere, and never waits
    for the network; leaving it sends what is pending for a short while and closes everything.

    With several servers each store is replicated with all of them, and what came from one is sent
    to the others.

    Args:
        transport: Where the server is.
        remotes: Where further servers are.
        relay: Send servers also what came from others. If not given: servers of ours are, as soon as
            a store was synced with several; stock servers are not.
        encryption: Seals entries before they leave and opens those that arrive.
        stores: Sync flags by store name, on top of :data:`~agentlayers.sync.flags.DEFAULT_STORES`.
        schedule: When to connect again, also as text (``Schedule.from_text``); jittered exponential up to 5 s if not
            given.
        interval_seconds: Look for work and try to connect at least this often; a safety net only,
            since changes are pushed as they happen.
        clock: Wall-clock time in seconds, for what the status shows.
        random: Source of jitter.

    Raises:
        SettingsError: Two servers have one address, or a text is no schedule.
    """

    def __init__(
        self,
        transport: Transport,
        encryption: Encryption,
        *,
        remotes: Sequence[Transport] = (),
        relay: bool | None = None,
        stores: Annotated[Mapping[str, SyncFlag] | None, checked_flags] = None,
        schedule: Schedule | str | None = None,
        interval_seconds: float | None = None,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self._encryption, self._relay = encryption, relay
        self._stores = checked_flags(stores)
        self._schedule = Schedule.from_text(schedule) if isinstance(schedule, str) else schedule or DEFAULT_SCHEDULE
        self._interval_seconds = interval_seconds
        self._clock, self._random = clock, random or Random()
        self._logs: dict[str, EventLog] = {}
        self._flags: dict[str, SyncFlag] = {}
        self._stop_listening: dict[str, Callable[[], None]] = {}
        self._changed = Signal()
        self._remotes: dict[str, RemoteSync] = {}
        for one in (transport, *remotes):
            if one.url in self._remotes:
                raise SettingsError(setting="remotes", value=one.url, expected="servers with different addresses")
            self._add_remote(one)
        self._interval: asyncio.Task[None] | None = None
        self._is_open = False

    # -- life -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._is_open = True
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
            # Together, because each waits a while for what is still on its way to the server.
            await asyncio.gather(*(self._flush(store) for store in list(self._logs)))
        finally:
            await self.disconnect()

    def _start(self) -> None:
        for remote in self._remotes.values():
            remote.start()
        self._start_interval()

    def _start_interval(self) -> None:
        is_idle = self._interval is None or self._interval.done()
        if self._interval_seconds and is_idle and self._is_online:
            self._interval = asyncio.get_running_loop().create_task(
                self._look_again(self._interval_seconds), name="sync interval"
            )

    def look_every(self, seconds: float) -> None:
        """Look for work at least this often, unless ``interval_seconds`` says how often; 0 changes nothing."""
        self._interval_seconds = self._interval_seconds or seconds
        if self._is_open:
            self._start_interval()

    async def _look_again(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            for remote in self._remotes.values():
                remote.look_again()

    @property
    def _is_online(self) -> bool:
        return any(remote.transport.is_online for remote in self._remotes.values())

    # -- servers --------------------------------------------------------------------------------

    async def connect(self, url: str | None = None) -> SyncStatus:
        """
        Start connecting and wait for the outcome of the first attempt, at every server.

        After a failure it goes on trying in the background.

        Args:
            url: Only the server with this address.

        Returns:
            The status, connected.

        Raises:
            StateError: The service is not open, or has no server to connect to, or none of this address.
            AuthenticationError: The server refused the credentials.
            ConnectError: Nobody answers there.
        """
        self._require_server()
        wanted = list(self._remotes.values()) if url is None else [self._remote(url)]
        self._start_interval()
        for remote in wanted:
            remote.start()
        for outcome in await asyncio.gather(*(one.until_connected() for one in wanted), return_exceptions=True):
            if outcome is not None:
                raise outcome
        return self.status

    async def connect_websocket(
        self, url: str, token: str | None = None, tenant: str | None = None, **tls: Unpack[TLSFiles]
    ) -> SyncStatus:
        """
        Sync with this server too, from now on, and connect to it; see :meth:`connect`.

        Args are those of :meth:`with_remote_sync`: the address, its token, its tenant, the PEM files for TLS.

        Raises:
            SettingsError: The address or a file cannot be used.
        """
        from agentlayers.transport.websocket import WebSocketTransport

        return await self.connect_transport(WebSocketTransport(url, token, tenant, **tls))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        token: str | None = None,
        tenant: str | None = None,
        *,
        tls: bool = False,
        **files: Unpack[TLSFiles],
    ) -> SyncStatus:
        """
        Sync with this server too, from now on, and connect to it; like :meth:`connect_websocket`, over TCP.

        The ``files`` are for ``tls=True``.
        """
        from agentlayers.transport.tcp import TCPTransport

        shown_host = f"[{host}]" if ":" in host else host
        url = f"{'tls' if tls else 'tcp'}://{shown_host}:{port}"
        return await self.connect_transport(TCPTransport(url, token, tenant, **files))

    async def connect_transport(self, transport: Transport) -> SyncStatus:
        """
        Sync with this server too, from now on, and connect to it; see :meth:`connect`.

        Credentials given for an address before are replaced.
        """
        if not self._is_open:
            raise StateError(_NOT_OPEN)
        known = self._remotes.get(transport.url)
        if known is None or known.transport != transport:
            ending = set() if known is None else known.leave()
            self._add_remote(transport)
            await until_ended(ending)
        return await self.connect(transport.url)

    async def disconnect(self, url: str | None = None) -> None:
        """
        Close all connections and tasks; stores stay registered, :meth:`connect` resumes.

        Args:
            url: Leave only the server with this address, for good: nothing is exchanged with it until it is connected
                to anew.

        Raises:
            StateError: There is none of this address.
        """
        if url is not None:
            remote = self._remote(url)
            del self._remotes[remote.url]
            if not self._remotes:
                self._add_remote(OfflineTransport())
            ending = remote.leave()
            self._changed.notify()
        else:
            # All of them are told before any is waited for: a caller that gives up leaves none behind.
            ending = {task for remote in self._remotes.values() for task in remote.stop()}
            interval, self._interval = self._interval, None
            if interval is not None:
                interval.cancel()
                ending.add(interval)
        await until_ended(ending)

    def _add_remote(self, transport: Transport) -> None:
        remote = RemoteSync(
            transport,
            self._encryption,
            relay=self._relay,
            schedule=self._schedule,
            clock=self._clock,
            random=self._random,
            changed=self._changed,
        )
        if transport.is_online:
            self._remotes.pop(OfflineTransport.url, None)
        self._remotes[transport.url] = remote
        for store, log in self._logs.items():
            remote.add(log, flag=self._flags[store])

    def _remote(self, url: str) -> RemoteSync:
        if url not in self._remotes:
            raise StateError(f"there is no server {url!r} here; there is: {', '.join(self._remotes)}")
        return self._remotes[url]

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
        if log.store in self._logs or any(log.public_key == other.public_key for other in self._logs.values()):
            raise StateError(f"store {log.store!r} is registered for sync already")

        def note_commit(commit: Commit) -> None:
            if log.store in commit.stores:
                for remote in self._remotes.values():
                    remote.note_commit(log.store, commit)
                self._changed.notify()

        self._logs[log.store] = log
        self._flags[log.store] = flag_of(self._stores, log.store) if enabled is None else enabled
        self._stop_listening[log.store] = log.journal.on_commit(note_commit)
        for remote in self._remotes.values():
            remote.add(log, flag=self._flags[log.store])
        self._changed.notify()

        async def unregister() -> None:
            await self._unregister(log)

        return unregister

    async def _unregister(self, log: EventLog) -> None:
        if self._logs.get(log.store) is not log:
            return
        try:
            await self._flush(log.store)
        finally:
            await self._forget(log)

    async def _forget(self, log: EventLog) -> None:
        if self._logs.get(log.store) is not log:
            return  # It was taken back twice at once.
        del self._logs[log.store]
        self._stop_listening.pop(log.store)()
        # From every server before any is waited for: meanwhile a store of this name may come again.
        ending = {task for remote in self._remotes.values() for task in remote.remove(log.store)}
        self._changed.notify()
        await until_ended(ending)

    async def _flush(self, store: str) -> None:
        """Give connected servers a moment to acknowledge what was written here."""
        await asyncio.gather(*(remote.flush(store) for remote in self._remotes.values()))

    # -- exchanging -----------------------------------------------------------------------------

    async def sync_now(self, timeout_seconds: float = 30.0, *, return_errors: bool = False) -> SyncReport:
        """
        Exchange everything there is, now: all pending entries out, all entries of every server in.

        Connects first if necessary, at once even if the schedule says to wait. What comes from one
        server is sent to the others too, where that is relayed. A server that fails does not keep
        the others from being served.

        Args:
            timeout_seconds: For all of it; set by the caller.
            return_errors: Tell of a server that failed in the report, instead of raising its error.

        Raises:
            StateError: The service is not open, or has no server to sync with.
            AuthenticationError: The server refused the credentials.
            ConnectError: Nobody answers there.
            TransportError: It was not done in time. What was exchanged stays exchanged.
        """
        self._require_server()
        self._start_interval()
        started = asyncio.get_running_loop().time()
        remotes = list(self._remotes.values())
        before = {remote.url: remote.counts() for remote in remotes}
        errors: dict[str, BaseException] = {}
        for remote in remotes:
            remote.start()
        # Once more for what came from one server and is relayed to another.
        for _ in range(2 if len(remotes) > 1 else 1):
            going = [remote for remote in remotes if remote.url not in errors]
            errors |= await settle_all(going, started + timeout_seconds, timeout_seconds)
        for error in errors.values() if not return_errors else ():
            raise error
        seconds = asyncio.get_running_loop().time() - started
        return report_since(
            [replace(remote.counts(), error=errors.get(remote.url)) for remote in remotes], before, seconds
        )

    async def fetch(self, store: str, entry_ids: Sequence[bytes], timeout_seconds: float = 30.0) -> list[bytes]:
        """
        Fetch entries by id, from whichever server has them; needed for a store that is synced on demand.

        Args:
            store: Theirs.
            entry_ids: Those held already are fetched again, and change nothing.
            timeout_seconds: For all of it.

        Returns:
            The ids that no server has.

        Raises:
            StateError: The service is not open, has no server, or does not sync this store; or no server offers it.
            ConnectError: Nobody answers.
            TransportError: It was not done in time. What was fetched stays.
        """
        self._require_server()
        if not self._flags.get(store, False):
            raise StateError(f"store {store!r} is not synced, so nothing can be fetched; switch its sync flag on")
        try:
            async with asyncio.timeout(timeout_seconds):
                return await fetch_from_any(list(self._remotes.values()), store, entry_ids)
        except TimeoutError as error:
            raise TransportError(f"{store}: not fetched within {timeout_seconds:g} s; what was, stays") from error

    def _require_server(self) -> None:
        if not self._is_open:
            raise StateError(_NOT_OPEN)
        if not self._is_online:
            raise StateError(_NO_SERVER)

    # -- status ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the server is, without credentials; the first of several."""
        return next(iter(self._remotes))

    @property
    def status(self) -> SyncStatus:
        """What is known now; :meth:`refresh` counts pending entries again where they are not known."""
        return combined_status([remote.status() for remote in self._remotes.values()])

    async def refresh(self) -> SyncStatus:
        """Count what is pending where it changed unseen, and return the status."""
        for remote in list(self._remotes.values()):
            await remote.recount()
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
        registrations = [remote.registrations.get(store) for remote in self._remotes.values()]
        return tuple(entry for one in registrations if one is not None for entry in one.quarantine)

    def __repr__(self) -> str:
        return f"SyncService({', '.join(map(repr, self._remotes))}, {self.status.state.value})"

    # -- layers ---------------------------------------------------------------------------------

    @staticmethod
    def layer(**options: Any) -> Layer:
        """Sync over the graph's transport; ``options`` as for the constructor."""
        from agentlayers.layer import Layer

        return Layer.scoped(SyncService, SyncService, **options)

    @staticmethod
    def layer_websocket(url: str, token: str | None = None, tenant: str | None = None, **options: Any) -> Layer:
        """Sync with a WebSocket server of its own; ``options`` as for :meth:`with_remote_sync`."""
        transport = Transport.layer_websocket(url, token, tenant, **take_tls(options))
        return SyncService.layer(transport=transport, **options)

    @staticmethod
    def layer_tcp(url: str, token: str | None = None, tenant: str | None = None, **options: Any) -> Layer:
        """Sync with a TCP server of its own; ``options`` as for :meth:`with_remote_sync`."""
        transport = Transport.layer_tcp(url, token, tenant, **take_tls(options))
        return SyncService.layer(transport=transport, **options)

    @staticmethod
    def with_remote_sync(url: str, *, token: str | None = None, tenant: str | None = None, **options: Any) -> Layer:
        """
        Sync with the server at ``url``, over WebSocket or TCP as the address says; the shortest way to sync.

        Args:
            url: ``ws://``, ``wss://``, ``tcp://`` or ``tls://``; ``http://`` and ``https://`` stand for the first two.
            token: Secret the server asks for; never part of the address.
            tenant: Whose journals the server keeps it with.
            **options: As for the constructor; and ``ca``, ``client_cert`` and ``client_key``, PEM files for TLS.

        Raises:
            SettingsError: An address of another kind.
        """
        transport = Transport.layer_url(url, token, tenant, **take_tls(options))
        return SyncService.layer(transport=transport, **options)

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
