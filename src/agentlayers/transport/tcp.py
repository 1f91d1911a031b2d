"""
TCP: a stream of concatenated MessagePack values, with or without TLS.

There is no header to carry a token, so a connection with credentials asks the client session to
send ``Authenticate`` before anything else.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from typing import Annotated, Final

from agentlayers import limits
from agentlayers.errors import AuthenticationError, ConnectionLostError
from agentlayers.protocol.messages import Authenticate
from agentlayers.transport.address import DEFAULT_TENANT, check_tenant, check_token, parse_tcp_url
from agentlayers.transport.certificates import tls_context
from agentlayers.transport.failure import CUT_AFTER_HANDSHAKE, certificate_refusal, connect_failure, describe_failure
from agentlayers.transport.transport import Connection, Transport

__all__ = ["TCPConnection", "TCPTransport"]

_READ_BYTES: Final = 256 * limits.KIB
_CLOSE_SECONDS: Final = 1.0


class TCPConnection(Connection):
    """One open TCP connection."""

    is_stream = True

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        authenticate: Authenticate | None = None,
        url: str = "the server",
    ) -> None:
        self._reader, self._writer = reader, writer
        self._url = url
        self._is_tls, self._has_received = writer.get_extra_info("ssl_object") is not None, False
        self.authenticate = authenticate

    async def send(self, data: bytes) -> None:
        """Write one message, waiting while the peer does not read."""
        if self._writer.is_closing():
            raise self._lost(self._reader.exception(), "the connection is closed")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            # An alert that was read says more than a write that failed because of it.
            raise self._lost(self._reader.exception() or error, "the connection is closed") from error

    async def receive(self) -> bytes:
        """Return the next piece of the stream."""
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError as error:
            raise self._lost(error, "") from error
        if not data:
            raise self._lost(None, "the server closed the connection")
        self._has_received = True
        return data

    def _lost(self, error: BaseException | None, reason: str) -> AuthenticationError | ConnectionLostError:
        refusal = certificate_refusal(error)
        if refusal is not None:
            return AuthenticationError(f"{self._url} {refusal}")
        says_nothing = error is None or isinstance(error, ConnectionError)
        if self._is_tls and not self._has_received and says_nothing:
            return ConnectionLostError(reason=CUT_AFTER_HANDSHAKE)
        return ConnectionLostError(reason=reason if error is None else describe_failure(error))

    async def close(self, code: int = 1000, reason: str = "") -> None:  # noqa: ARG002 - TCP has neither
        """Close the socket; what cannot be flushed within a second is dropped."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()
        except OSError:  # TimeoutError included: the peer does not read, or is gone
            self._writer.transport.abort()
            await asyncio.sleep(0)  # lets the loop close the socket
        except asyncio.CancelledError:
            self._writer.transport.abort()
            raise


class TCPTransport(Transport):
    """
    Connects to ``tcp://host:port`` or ``tls://host:port``.

    Args:
        url: The address, without credentials.
        token: Bearer token of the tenant; an empty text counts as none.
        tenant: Whose journals; the server's default tenant if not given.
        ssl: For ``tls://``, if the next three do not do; the system's authorities are trusted if not given.
        ca: PEM file of the authorities to trust instead of the system's.
        client_cert: PEM file with the certificate this replica shows, for a server that asks for one.
        client_key: PEM file with its private key, if that does not stand in ``client_cert``.

    Raises:
        SettingsError: One of the values cannot be used.
    """

    def __init__(
        self,
        url: Annotated[str, parse_tcp_url],
        token: str | None = None,
        tenant: str | None = None,
        *,
        ssl: ssl_module.SSLContext | None = None,
        ca: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
    ) -> None:
        self._host, self._port, self._is_tls = parse_tcp_url(url)
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        self._url = f"{'tls' if self._is_tls else 'tcp'}://{shown_host}:{self._port}"
        self._token = check_token(token)
        self._tenant = check_tenant(tenant) if tenant else None
        self._files = (ca or None, client_cert or None, client_key or None)
        self._ssl = tls_context(self._url, ssl, self._files)

    @property
    def url(self) -> str:
        """The address, without credentials."""
        return self._url

    async def connect(self) -> TCPConnection:
        """Open a connection; credentials travel in the session's first message."""
        context: ssl_module.SSLContext | None = None
        if self._is_tls:
            context = self._ssl or ssl_module.create_default_context()
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=context, limit=_READ_BYTES)
        except OSError as error:  # TimeoutError, ssl.SSLError and socket.gaierror are OSErrors
            raise connect_failure(error, url=self._url) from error
        return TCPConnection(reader, writer, authenticate=self._authenticate(), url=self._url)

    def _authenticate(self) -> Authenticate | None:
        if self._token is None and self._tenant is None:
            return None
        return Authenticate(tenant=self._tenant or DEFAULT_TENANT, token=self._token or "")

    def _values(self) -> tuple[object, ...]:
        tls = self._files if any(self._files) else self._ssl and id(self._ssl)
        return self._url, self._token, self._tenant, tls

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TCPTransport) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        token = ", token=***" if self._token else ""
        tenant = f", tenant={self._tenant!r}" if self._tenant else ""
        return f"TCPTransport({self._url!r}{token}{tenant})"
