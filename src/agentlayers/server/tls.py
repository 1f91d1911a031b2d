"""TLS of the server: its certificate, and whose client certificates it takes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agentlayers.errors import SettingsError
from agentlayers.transport.certificates import load_authority, load_certificate

__all__ = ["has_certificate", "server_context"]


def _now() -> datetime:
    return datetime.now(UTC)


def server_context(
    tls_cert: str | Path | None,
    tls_key: str | Path | None,
    client_ca: str | Path | None,
    *,
    now: Callable[[], datetime] = _now,
) -> ssl.SSLContext | None:
    """
    Make the server's TLS settings; empty texts count as not given.

    Args:
        tls_cert: The server's certificate, with its chain.
        tls_key: Its private key; may stand in ``tls_cert`` too.
        client_ca: Authorities whose client certificates are let in.
        now: Today's date.

    Returns:
        :obj:`None` if nothing was given: no TLS.

    Raises:
        SettingsError: A file that cannot be used, or a key or ``client_ca`` without a certificate.
    """
    if not tls_cert:
        for setting, path in (("tls_key", tls_key), ("client_ca", client_ca)):
            if path:
                expected = "a certificate of the server beside it, in tls_cert (--tls-cert)"
                raise SettingsError(setting=setting, value=str(path), expected=expected)
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, Path(tls_cert), Path(tls_key or tls_cert), settings=("tls_cert", "tls_key"), now=now)
    if client_ca:
        load_authority(context, Path(client_ca), setting="client_ca", now=now)
        # Not CERT_REQUIRED: whoever shows none may have a token, and is told which of the two is missing.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.sslobject_class = _RefusingAloud
    return context


class _RefusingAloud(ssl.SSLObject):
    """Tells a client why its certificate is refused: asyncio alone drops the alert that OpenSSL has written."""

    _refusal: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """Let the alert be sent before the failure is known, which is at the client's next word or end."""
        if self._refusal is not None:
            raise self._refusal
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            self._refusal = error
            raise ssl.SSLWantReadError from error


def has_certificate(transport: asyncio.BaseTransport | None) -> bool:
    """Tell whether the peer of a connection showed a certificate; one that no authority signed never gets this far."""
    connection = None if transport is None else transport.get_extra_info("ssl_object")
    return connection is not None and bool(connection.getpeercert())
