"""
How a replica reaches a server: the port behind the ``transport`` slot.

A transport only moves bytes. What they mean is the business of the sessions in
:mod:`agentlayers.protocol`; when to try again is that of :mod:`agentlayers.sync`.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, Final

from agentlayers.errors import SettingsError
from agentlayers.protocol.messages import Authenticate

if TYPE_CHECKING:
    from agentlayers.layer import Layer

__all__ = ["Connection", "Transport", "take_tls"]

_TLS_OPTIONS: Final = ("ca", "client_cert", "client_key")


def take_tls(options: dict[str, Any]) -> dict[str, Any]:
    """
    Remove from options what a transport takes for TLS, and return it.

    >>> options = {"ca": "ca.pem", "relay": True}
    >>> take_tls(options), options
    ({'ca': 'ca.pem'}, {'relay': True})

    """
    return {name: options.pop(name) for name in _TLS_OPTIONS if name in options}


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
    def layer_url(url: str, token: str | None = None, tenant: str | None = None, **tls: str | None) -> Layer:
        """
        Reach the server the way its address says.

        Args:
            url: The address.
            token: Bearer token of the tenant.
            tenant: Whose journals.
            tls: ``ca``, ``client_cert`` and ``client_key``: PEM files for ``wss://`` and ``tls://``.

        Raises:
            SettingsError: It begins with none of ``ws://``, ``wss://``, ``tcp://``, ``tls://``.
        """
        scheme = url.partition("://")[0].lower()
        if scheme in ("ws", "wss"):
            return Transport.layer_websocket(url, token, tenant, **tls)
        if scheme in ("tcp", "tls"):
            return Transport.layer_tcp(url, token, tenant, **tls)
        shown = url.partition("?")[0].rpartition("@")[2]
        expected = "the address of a sync server: ws://, wss://, tcp:// or tls://"
        raise SettingsError(setting="url", value=shown, expected=expected)

    @staticmethod
    def layer_websocket(url: str, token: str | None = None, tenant: str | None = None, **tls: str | None) -> Layer:
        """Reach the server over WebSocket; see :mod:`agentlayers.transport.websocket`."""
        from agentlayers.layer import Layer
        from agentlayers.transport.websocket import WebSocketTransport

        return Layer.factory(Transport, WebSocketTransport, url=url, token=token, tenant=tenant, **tls)

    @staticmethod
    def layer_tcp(url: str, token: str | None = None, tenant: str | None = None, **tls: str | None) -> Layer:
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
