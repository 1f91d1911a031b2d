"""
WebSocket: one binary frame is one message.

The bearer token travels in the ``Authorization`` header, never in the address. Frames are not
compressed: ciphertext does not shrink, and compression next to secrets leaks.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from typing import Annotated, Any, Final

import aiohttp

from agentlayers import limits
from agentlayers.errors import AuthenticationError, ConnectError, ConnectionLostError
from agentlayers.transport.address import check_token, normalize_websocket_url
from agentlayers.transport.certificates import tls_context
from agentlayers.transport.failure import CUT_AFTER_HANDSHAKE, NO_WEBSOCKET, connect_failure, describe_failure, shown
from agentlayers.transport.transport import Connection, Transport

__all__ = ["WebSocketConnection", "WebSocketTransport"]

_CLOSE_SECONDS: Final = 1.0
_UNSUPPORTED_DATA: Final = 1003
_REASON_BYTES_MAX: Final = 120
"""A close reason may have 123 bytes (RFC 6455, section 5.5)."""


class WebSocketConnection(Connection):
    """One open WebSocket and the client session that owns its socket."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._session, self._socket = session, socket

    async def send(self, data: bytes) -> None:
        """Send one frame, waiting while the peer does not read."""
        try:
            await self._socket.send_bytes(data)
        except (OSError, aiohttp.ClientError) as error:
            raise ConnectionLostError(reason=describe_failure(error)) from error

    async def receive(self) -> bytes:
        """Return the next frame."""
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is aiohttp.WSMsgType.TEXT:
            await self.close(_UNSUPPORTED_DATA, "binary frames only")
            raise ConnectionLostError(reason="the server sent a text frame")
        raise self._lost(message)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket; a peer that does not answer within a second is dropped."""
        message = reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore").encode()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._socket.close(code=code, message=message)
        except TimeoutError:
            pass
        finally:
            self._abort()
            await self._session.close()

    def _abort(self) -> None:
        # transport.close() waits until its buffer is flushed: for ever, if the peer does not read.
        connection = getattr(self._socket, "_conn", None)
        transport = getattr(connection, "transport", None)
        if transport is not None and transport.get_write_buffer_size() > 0:
            transport.abort()

    def _lost(self, message: aiohttp.WSMessage) -> ConnectionLostError:
        code = self._socket.close_code
        if message.type is aiohttp.WSMsgType.ERROR:
            return ConnectionLostError(reason=describe_failure(message.data), close_code=code)
        if message.type is aiohttp.WSMsgType.CLOSE:
            reason = shown(message.extra or "") or "the server closed the connection"
            return ConnectionLostError(reason=reason, close_code=code)
        return ConnectionLostError(reason="the connection broke", close_code=code)


class WebSocketTransport(Transport):
    """
    Connects to ``ws://`` or ``wss://`` (``http`` and ``https`` stand for them).

    Args:
        url: The address without credentials; without a path it gets ``/event-log``.
        token: Bearer token of the tenant; an empty text counts as none.
        tenant: Whose journals: appended to the path. The server's default tenant if not given.
        ssl: For ``wss://``, if the next three do not do; the system's authorities are trusted if not given.
        ca: PEM file of the authorities to trust instead of the system's.
        client_cert: PEM file with the certificate this replica shows, for a server that asks for one.
        client_key: PEM file with its private key, if that does not stand in ``client_cert``.

    Raises:
        SettingsError: One of the values cannot be used, or the address carries credentials.
    """

    def __init__(
        self,
        url: Annotated[str, normalize_websocket_url],
        token: str | None = None,
        tenant: str | None = None,
        *,
        ssl: ssl_module.SSLContext | None = None,
        ca: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
    ) -> None:
        self._url = normalize_websocket_url(url, tenant or None)
        self._token = check_token(token)
        self._files = (ca or None, client_cert or None, client_key or None)
        self._ssl = tls_context(self._url, ssl, self._files)

    @property
    def url(self) -> str:
        """The address with the tenant, without credentials."""
        return self._url

    async def connect(self) -> WebSocketConnection:
        """Open a connection in a client session of its own."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            # A replica connects again and again; what nobody reads is left out.
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            trace_configs=[_no_redirects()],
        )
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_SECONDS):
                socket = await session.ws_connect(
                    self._url,
                    headers={"Authorization": f"Bearer {self._token}"} if self._token else None,
                    max_msg_size=limits.FRAME_BYTES_MAX,
                    compress=0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                    ssl=self._ssl or True,
                )
        except BaseException as error:
            await session.close()
            refused = self._refused(error)
            if refused is error:
                raise
            # aiohttp's errors hold the request with its headers, and so do its frames: to render them shows the token.
            cause = None if isinstance(error, aiohttp.ClientResponseError) else error.with_traceback(None)
        else:
            return WebSocketConnection(session, socket)
        raise refused from cause

    def _refused(self, error: BaseException) -> BaseException:
        """Translate what aiohttp raises; anything unknown is passed on as it is."""
        if isinstance(error, _RedirectedError):
            reason = f"the server answered HTTP {error.status}, a redirect: not followed; give the final address"
            return ConnectError(url=self._url, reason=reason)
        if isinstance(error, aiohttp.WSServerHandshakeError):
            if error.status in (401, 403):
                given = "refused the token" if self._token else "asks for a token or a client certificate"
                hint = "give the one the server was started with"
                return AuthenticationError(f"{self._url} {given} (HTTP {error.status}); {hint}")
            return ConnectError(url=self._url, reason=f"the server answered HTTP {error.status}")
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return connect_failure(error.certificate_error, url=self._url)
        if isinstance(error, aiohttp.ClientConnectorError):
            return connect_failure(error.os_error, url=self._url)
        if _is_cut(error):
            reason = CUT_AFTER_HANDSHAKE if self._url.startswith("wss:") else NO_WEBSOCKET
            return ConnectError(url=self._url, reason=reason)
        if isinstance(error, OSError | aiohttp.ClientError):
            return connect_failure(_tls_error(error), url=self._url)
        return error

    def _values(self) -> tuple[object, ...]:
        return self._url, self._token, self._files if any(self._files) else self._ssl and id(self._ssl)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WebSocketTransport) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"WebSocketTransport({self._url!r}{', token=***' if self._token else ''})"


class _RedirectedError(Exception):
    """The server sends us elsewhere."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _no_redirects() -> aiohttp.TraceConfig:
    """
    Make a session stop at a redirect: a server must not choose which other hosts a replica sends requests to.

    ``ws_connect`` has no option for it.
    """

    async def refuse(_session: aiohttp.ClientSession, _context: Any, seen: aiohttp.TraceRequestRedirectParams) -> None:
        seen.response.close()
        raise _RedirectedError(seen.response.status)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(refuse)
    return tracing


def _is_cut(error: BaseException) -> bool:
    """Tell whether the server ended the connection before it answered, and said nothing of TLS."""
    is_reset = isinstance(error, aiohttp.ClientOSError) and isinstance(error.__cause__, ConnectionError)
    return is_reset or isinstance(error, aiohttp.ServerDisconnectedError)


def _tls_error(error: BaseException) -> BaseException:
    """Return what OpenSSL said, if aiohttp wrapped that."""
    return error.__cause__ if isinstance(error.__cause__, ssl_module.SSLError) else error
