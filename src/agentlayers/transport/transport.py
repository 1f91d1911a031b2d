"""
How a replica reaches a server: the port behind the ``transport`` slot.

A transport only moves bytes. What they mean is the business of the sessions in
:mod:`agentlayers.protocol`; when to try again is that of :mod:`agentlayers.sync`.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from agentlayers.protocol.messages import Authenticate
from agentlayers.transport.address import server_medium

if TYPE_CHECKING:
    from agentlayers.layer import Layer
    from agentlayers.transport.tcp import TCPTransport
    from agentlayers.transport.websocket import WebSocketTransport

__all__ = ["Connection", "TLSFiles", "Transport", "take_tls"]


class TLSFiles(TypedDict, total=False):
    """
    PEM files for an address with TLS; an empty text counts as not given.

    Attributes:
        ca: Authorities to trust instead of the system's.
        client_cert: The certificate this replica shows, with its chain, for a server that asks for one.
        client_key: Its private key, if that does not stand in ``client_cert``.
    """

    ca: str | None
    client_cert: str | None
    client_key: str | None


def take_tls(options: dict[str, Any]) -> dict[str, Any]:
    """
    Remove from options what a transport takes for TLS, and return it.

    >>> options = {"ca": "ca.pem", "relay": True}
    >>> take_tls(options), options
    ({'ca': 'ca.pem'}, {'relay': True})

    """
    return {name: options.pop(name) for name in TLSFiles.__annotations__ if name in options}


class Connection(abc.ABC):
    """
    One open connection to a server.

    Attributes:
        is_stream: Bytes arrive cut anywhere (TCP), not one message to a call (WebSocket).
        authenticate: What the client session must send before anything else, if the medium has no
            header for it.
    """

    is_stream: bool = False
    authenticate: Authenticate | None = None

    @abc.abstractmethod
    async def send(self, data: bytes) -> None:
        """
        Send one message, waiting while the peer does not read.

        Raises:
            ConnectionLostError: The connection is gone.
        """

    @abc.abstractmethod
    async def receive(self) -> bytes:
        """
        Return the next bytes: one message, or a piece of the stream.

        Raises:
            ConnectionLostError: The peer closed, with its code and reason.
        """

    @abc.abstractmethod
    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket and release everything; safe to call twice."""


class Transport(abc.ABC):
    """A place to connect to, again and again."""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Where to, without credentials; safe to show."""

    @property
    def is_online(self) -> bool:
        """Whether there is anywhere to connect to; :obj:`False` only for the offline transport."""
        return True

    @abc.abstractmethod
    async def connect(self) -> Connection:
        """
        Open a new connection.

        Raises:
            ConnectError: Nobody answers there, or the handshake failed.
            AuthenticationError: The server refused the credentials; the same will not do later.
        """

    @staticmethod
    def from_url(url: str, token: str | None = None, tenant: str | None = None, **tls: Unpack[TLSFiles]) -> Transport:
        """
        Make the transport that a server's address asks for.

        Args:
            url: ``ws://``, ``wss://``, ``tcp://`` or ``tls://``; ``http://`` and ``https://`` stand for the first two.
            token: Bearer token of the tenant; never part of the address.
            tenant: Whose journals; the server's default tenant if not given.
            **tls: Files for ``wss://`` and ``tls://``; see :class:`TLSFiles`.

        Raises:
            SettingsError: One of these cannot be used; a credential in the address is not repeated.

        >>> Transport.from_url("https://sync.example.org", tenant="team-a")
        WebSocketTransport('wss://sync.example.org/event-log/team-a')

        """
        return _transport_class(url)(url, token, tenant, **tls)

    @staticmethod
    def layer_url(url: str, token: str | None = None, tenant: str | None = None, **tls: Unpack[TLSFiles]) -> Layer:
        """
        Reach the server the way its address says; like :meth:`from_url`, and the address is checked at once.

        Raises:
            SettingsError: No address of a server.
        """
        from agentlayers.layer import Layer

        return Layer.factory(Transport, _transport_class(url), url=url, token=token, tenant=tenant, **tls)

    @staticmethod
    def layer_websocket(
        url: str, token: str | None = None, tenant: str | None = None, **tls: Unpack[TLSFiles]
    ) -> Layer:
        """Reach the server over WebSocket; see :mod:`agentlayers.transport.websocket`."""
        from agentlayers.layer import Layer
        from agentlayers.transport.websocket import WebSocketTransport

        return Layer.factory(Transport, WebSocketTransport, url=url, token=token, tenant=tenant, **tls)

    @staticmethod
    def layer_tcp(url: str, token: str | None = None, tenant: str | None = None, **tls: Unpack[TLSFiles]) -> Layer:
        """Reach the server over TCP or TLS; see :mod:`agentlayers.transport.tcp`."""
        from agentlayers.layer import Layer
        from agentlayers.transport.tcp import TCPTransport

        return Layer.factory(Transport, TCPTransport, url=url, token=token, tenant=tenant, **tls)

    @staticmethod
    def layer_offline() -> Layer:
        """Stay local: nothing is sent anywhere."""
        from agentlayers.layer import Layer
        from agentlayers.transport.offline import OfflineTransport

        return Layer.factory(Transport, OfflineTransport)


def _transport_class(url: str) -> type[TCPTransport | WebSocketTransport]:
    """Choose by the address, which is checked."""
    if server_medium(url) == "tcp":
        from agentlayers.transport.tcp import TCPTransport

        return TCPTransport
    from agentlayers.transport.websocket import WebSocketTransport

    return WebSocketTransport
