"""
The sync server: what listens, who is let in, and how it stops.

WebSocket at ``/event-log`` (the tenant ``default``) and ``/event-log/{tenant}``, ``/healthz``, and TCP if asked
for; the same session and the same hub are behind both.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from agentlayers.errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    ErrorCode,
    SettingsError,
    StateError,
    StorageError,
)
from agentlayers.limits import CONNECT_TIMEOUT_SECONDS, CONNECTIONS_MAX, FRAME_BYTES_MAX
from agentlayers.logs import get_logger
from agentlayers.protocol.encoder import encode_message
from agentlayers.protocol.messages import Hello, Rejected
from agentlayers.protocol.server_session import ServerSession
from agentlayers.server.auth import (
    DEFAULT_TENANT,
    Authenticator,
    bearer_token,
    check_tenant_name,
    offered_subprotocol,
)
from agentlayers.server.close import CloseReason
from agentlayers.server.connection import Connection
from agentlayers.server.greeting import greeting_of
from agentlayers.server.hub import Hub
from agentlayers.server.listen import bind_error, check_free, format_host, is_loopback
from agentlayers.server.outbox import STALL_SECONDS_MAX
from agentlayers.server.peer_socket import CLOSE_SECONDS_MAX, PeerSocket, PeerStream, PeerWebSocket
from agentlayers.server.request_log import REQUEST_LOG
from agentlayers.server.storage import ServerStorage
from agentlayers.server.tls import has_certificate, server_context

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["SyncServer"]

logger = get_logger(__name__)

STOP_SECONDS_MAX: Final = 5.0
"""How long stopping may take to store and send what is under way, before connections are cut."""

_BACKLOG: Final = 1024
"""Connections the operating system may hold while the loop is busy: replicas reconnect all at once."""


class SyncServer:
    """
    Serves a storage to replicas while it is open (``async with``).

    Args:
        storage: Where journals are kept; opened and closed by whoever made it, around the server.
        auth: Who may enter. None asks for no token.
        host: Interface to listen on. Beyond loopback a token is required.
        port: Of WebSocket and HTTP; 0 picks a free one.
        tcp_port: Of plain TCP (TLS with ``ssl``); None does not listen for it, 0 picks a free one.
        ssl: Serve ``wss`` and ``tls`` with this, or with the files of the next three.
        tls_cert: PEM file with the server's certificate and its chain.
        tls_key: PEM file with its private key, if that does not stand in ``tls_cert``.
        client_ca: PEM file of authorities. A client certificate they signed opens every tenant without tokens of its
            own; without any token set a client has to show one.
        allowed_origins: Browser origins (``https://app.example.org``) that may connect. A request with any other
            ``Origin`` is refused, on loopback too, so that no web page can reach a local server.
        open: Listen beyond loopback without a token all the same.
        connections_max: Open connections.
        stall_seconds: A peer that reads nothing for so long while something waits for it is closed.

    Raises:
        SettingsError: A port or an origin that can be none, or a certificate file that cannot be used.
    """

    def __init__(
        self,
        storage: ServerStorage,
        *,
        auth: Authenticator | None = None,
        host: str = "127.0.0.1",
        port: int = 8787,
        tcp_port: int | None = None,
        ssl: SSLContext | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        client_ca: str | None = None,
        allowed_origins: Sequence[str] = (),
        open: bool = False,  # noqa: A002 - the word of the command line's --open
        connections_max: int = CONNECTIONS_MAX,
        stall_seconds: float = STALL_SECONDS_MAX,
    ) -> None:
        self._storage = storage
        self._auth = auth or Authenticator.open_()
        self._host = host
        self._port = _checked_port("port", port)
        self._tcp_port = None if tcp_port is None else _checked_port("tcp_port", tcp_port)
        files = server_context(tls_cert, tls_key, client_ca)
        if ssl is not None and files is not None:
            raise SettingsError(setting="tls_cert", value=tls_cert, expected="either ssl or tls_cert, not both")
        self._ssl = ssl or files
        self._takes_certificates = bool(client_ca)
        self._allowed_origins = frozenset(map(_checked_origin, allowed_origins))
        self._open = open
        self._connections_max = connections_max
        self._stall_seconds = stall_seconds
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._connection_ids = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self._tcp_server: asyncio.Server | None = None
        self._is_stopping = False

    @staticmethod
    def layer(**arguments: Any) -> Layer:
        """Provide a listening server; it needs a :class:`ServerStorage`, and takes an :class:`Authenticator`."""
        from agentlayers.layer import Layer

        return Layer.scoped(SyncServer, SyncServer, **arguments)

    # -- addresses --------------------------------------------------------------------------------------------
    @property
    def host(self) -> str:
        """The interface it was told to listen on."""
        return self._host

    @property
    def port(self) -> int:
        """The WebSocket port; the real one while it listens."""
        return self._port

    @property
    def tcp_port(self) -> int | None:
        """The TCP port; the real one while it listens."""
        return self._tcp_port

    @property
    def websocket_url(self) -> str:
        """Where a replica of the default tenant connects to."""
        scheme = "wss" if self._ssl else "ws"
        return f"{scheme}://{format_host(self._host)}:{self._port}/event-log"

    @property
    def tcp_url(self) -> str | None:
        """Where a replica connects to over TCP; None if that is off."""
        if self._tcp_port is None:
            return None
        scheme = "tls" if self._ssl else "tcp"
        return f"{scheme}://{format_host(self._host)}:{self._tcp_port}"

    @property
    def connection_count(self) -> int:
        """How many peers are connected."""
        return len(self._connections)

    # -- life -------------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        """
        Start to listen.

        Raises:
            ConfigurationError: The port is in use or not allowed, the host is none of this machine's, or a token is
                missing beyond loopback.
        """
        if self._runner is not None:
            raise StateError("the server is running already; make a new SyncServer for another one")
        self._check_exposure()
        self._is_stopping = False
        self._hub = Hub(self._storage)
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=REQUEST_LOG,
            handle_signals=False,
            shutdown_timeout=CLOSE_SECONDS_MAX,
            # A socket that brings no request, or one a byte at a time, would be kept for an hour.
            keepalive_timeout=CONNECT_TIMEOUT_SECONDS,
        )
        await self._runner.setup()
        try:
            await self._listen(self._runner)
        except BaseException:
            await self._stop()
            raise
        logger.info("server_listening", websocket=self.websocket_url, tcp=self.tcp_url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening, store and acknowledge what was received, and close every connection with 1001."""
        await self._stop()
        logger.info("server_stopped")

    def check(self) -> None:
        """
        See whether the server could listen now, before a storage is opened for it.

        Raises:
            ConfigurationError: A port is in use or not allowed, or a token is missing beyond loopback.
        """
        self._check_exposure()
        check_free(self._host, self._port, "--port")
        if self._tcp_port is not None:
            check_free(self._host, self._tcp_port, "--tcp-port")

    def _check_exposure(self) -> None:
        lets_anybody_in = self._auth.is_open and not self._takes_certificates
        if lets_anybody_in and not self._open and not is_loopback(self._host):
            text = (
                f"refusing to listen on {self._host} without a token: anybody who reaches it could write."
                " Give a token (--token, --token-file or AGENTLAYERS_TOKEN), ask for client certificates"
                " (--client-ca), listen on 127.0.0.1, or say --open if the network is trusted"
            )
            raise ConfigurationError(text)

    async def _listen(self, runner: web.AppRunner) -> None:
        site = web.TCPSite(runner, self._host, self._port, ssl_context=self._ssl, backlog=_BACKLOG)
        with bind_error(self._host, self._port, "--port"):
            await site.start()
        self._port = site.port
        if self._tcp_port is None:
            return
        with bind_error(self._host, self._tcp_port, "--tcp-port"):
            self._tcp_server = await asyncio.start_server(
                self._serve_stream, self._host, self._tcp_port, ssl=self._ssl, backlog=_BACKLOG
            )
        self._tcp_port = self._tcp_server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._is_stopping = True
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        if self._tcp_server is not None:
            self._tcp_server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self._hub.close()
                await asyncio.gather(*(found.end_gracefully(CloseReason.GOING_AWAY) for found in self._connections))
        for connection in self._connections:
            connection.end(CloseReason.GOING_AWAY)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await runner.cleanup()
        if self._tcp_server is not None:
            await self._tcp_server.wait_closed()
            self._tcp_server = None
        await self._hub.close()

    # -- WebSocket --------------------------------------------------------------------------------------------
    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/event-log", self._serve_websocket)
        application.router.add_get("/event-log/{tenant}", self._serve_websocket)
        application.router.add_get("/healthz", self._healthz)
        return application

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"status": "ok", "connections": self.connection_count})

    async def _serve_websocket(self, request: web.Request) -> web.StreamResponse:
        tenant = request.match_info.get("tenant", DEFAULT_TENANT)
        self._check_request(request, tenant)
        try:
            hello = await self._hello_of(tenant)
        except StorageError as error:
            logger.error("storage_failed", tenant=tenant, error=str(error))  # noqa: TRY400 - says it all
            raise web.HTTPServiceUnavailable(text=f"{CloseReason.STORAGE.text}\n") from None
        offered = offered_subprotocol(request.headers.get("Sec-WebSocket-Protocol"))
        websocket = web.WebSocketResponse(
            protocols=(offered,) if offered else (),
            max_msg_size=FRAME_BYTES_MAX,
            compress=False,
            autoping=False,  # PeerWebSocket answers, and learns of the answers to its own
            timeout=CLOSE_SECONDS_MAX,
        )
        try:
            writer = await websocket.prepare(request)
        except ConnectionResetError:  # gone before the handshake
            return websocket
        transport = request.transport
        if transport is None:  # gone during it
            return websocket
        socket = PeerWebSocket(websocket, writer, transport)
        session = ServerSession(is_stream=False, hello=hello)
        await self._run(self._connection(socket, session, tenant))
        return websocket

    def _check_request(self, request: web.Request, tenant: str) -> None:
        """Refuse, before the upgrade, whom the server does not want."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._allowed_origins:
            raise web.HTTPForbidden(text="this browser origin is not allowed to connect\n")
        query_token = request.query.get("token") if self._auth.query_tokens else None
        token = bearer_token(
            request.headers.get("Authorization"),
            ", ".join(request.headers.getall("Sec-WebSocket-Protocol", [])),
            query_token,
        )
        try:
            self._authenticate(tenant, token, has_certificate=self._is_certified(request.transport))
        except AuthenticationError as error:
            logger.info("authentication_failed", tenant=tenant, transport="websocket")
            headers = {"WWW-Authenticate": "Bearer"}
            raise web.HTTPUnauthorized(text=f"{error}\n", headers=headers) from None
        except AuthorizationError as error:
            raise web.HTTPForbidden(text=f"{error}\n") from None
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPUpgradeRequired(text="connect with a WebSocket client\n", headers={"Upgrade": "websocket"})
        if self._is_full:
            raise web.HTTPServiceUnavailable(text=f"{CloseReason.TOO_MANY.text}\n", headers={"Retry-After": "5"})

    # -- TCP --------------------------------------------------------------------------------------------------
    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._tracked_task():
            socket = PeerStream(reader, writer)
            if self._is_full:
                await socket.close(CloseReason.TOO_MANY.code, CloseReason.TOO_MANY.text)
                return
            try:
                # An open server greets at once, as a stock one does; a peer may still name another tenant.
                is_certified = self._is_certified(socket.transport)
                is_in = self._lets_in(DEFAULT_TENANT, has_certificate=is_certified)
                hello = await self._hello_of(DEFAULT_TENANT) if is_in else None
            except StorageError as error:
                logger.error("storage_failed", tenant=DEFAULT_TENANT, error=str(error))  # noqa: TRY400 - says it all
                await socket.close(CloseReason.STORAGE.code, CloseReason.STORAGE.text)
                return
            if hello is None and self._auth.is_open:  # no message can make up for a missing certificate
                logger.info("authentication_failed", transport="tcp")
                socket.write(encode_message(Rejected(ErrorCode.AUTHENTICATION)))
                await socket.close(CloseReason.UNAUTHENTICATED.code, CloseReason.UNAUTHENTICATED.text)
                return
            session = ServerSession(is_stream=True, hello=hello)
            admit = partial(self._admit, has_certificate=is_certified)
            await self._run(self._connection(socket, session, DEFAULT_TENANT if hello else "", admit))

    async def _admit(self, tenant: str, token: str, *, has_certificate: bool) -> Hello:
        """Let a peer in that says by a message who it is."""
        try:
            self._authenticate(tenant, token, has_certificate=has_certificate)
        except (AuthenticationError, AuthorizationError):
            logger.info("authentication_failed", transport="tcp")
            raise
        return await self._hello_of(tenant)

    # -- both -------------------------------------------------------------------------------------------------
    @property
    def _is_full(self) -> bool:
        return self._is_stopping or len(self._connections) >= self._connections_max

    async def _hello_of(self, tenant: str) -> Hello:
        return await greeting_of(self._storage, tenant)

    def _authenticate(self, tenant: str, token: str | None, *, has_certificate: bool) -> None:
        check_tenant_name(tenant)  # before anything is logged of it
        if self._auth.is_open and self._takes_certificates and not has_certificate:
            raise AuthenticationError("a client certificate is required")
        self._auth.authenticate(tenant, token, has_certificate=has_certificate)

    def _lets_in(self, tenant: str, *, has_certificate: bool) -> bool:
        """Whether a peer that has not said anything may be greeted."""
        try:
            self._authenticate(tenant, None, has_certificate=has_certificate)
        except AuthenticationError:
            return False
        return True

    def _is_certified(self, transport: asyncio.BaseTransport | None) -> bool:
        return self._takes_certificates and has_certificate(transport)

    def _connection(
        self,
        socket: PeerSocket,
        session: ServerSession,
        tenant: str,
        admit: Callable[[str, str], Awaitable[Hello]] | None = None,
    ) -> Connection:
        return Connection(
            socket,
            session,
            self._hub,
            tenant=tenant,
            connection_id=next(self._connection_ids),
            admit=admit,
            stall_seconds=self._stall_seconds,
        )

    async def _run(self, connection: Connection) -> None:
        with self._tracked_task():
            self._connections.add(connection)
            if self._is_stopping:  # let in a moment before
                connection.end(CloseReason.GOING_AWAY)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)

    @contextlib.contextmanager
    def _tracked_task(self) -> Iterator[None]:
        """Let stopping wait for the current task."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)


def _checked_port(setting: str, port: int) -> int:
    if not isinstance(port, int) or not 0 <= port <= 65_535:
        raise SettingsError(setting=setting, value=port, expected="a port from 0 (any free one) to 65535")
    return port


def _checked_origin(origin: str) -> str:
    scheme, separator, rest = origin.partition("://")
    if scheme not in ("http", "https") or not separator or not rest or "/" in rest:
        raise SettingsError(
            setting="allowed_origins",
            value=origin,
            expected="an origin such as 'https://app.example.org', without a path",
        )
    return origin
